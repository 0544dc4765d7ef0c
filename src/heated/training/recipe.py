"""What a training is made by: settings, with what changes written out for every epoch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heated.common.io import read_json, required
from heated.losses.adaptive_scale import ADAPTATIONS
from heated.models import embedding_model
from heated.training.loop import watched
from heated.training.schedules import values

Recipe = dict[str, Any]
BY_EPOCH = ("alphas", "lrs", "watch_every")  # of a recipe's keys: what is set epoch by epoch


def recipe(settings: Mapping[str, Any]) -> Recipe:
    """What params.yaml says of a data set's training and of a method, with alpha and the learning
    rate written out for every epoch: None where no schedule sets alpha."""
    epochs, schedules = settings["epochs"], ("epochs", "alpha", "lr", "lr_factor")
    return {
        **{key: value for key, value in settings.items() if key not in schedules},
        **alpha(settings.get("alpha"), epochs),
        "sampler": settings.get("sampler", {"name": "shuffled"}),
        "lrs": [settings["lr"] * factor for factor in scheduled(settings["lr_factor"], epochs)],
    }


def alpha(choice: embedding_model.Options | None, epochs: int) -> Recipe:
    """What a recipe says of alpha: its value in each epoch, or how it adapts."""
    if choice is None:
        return {"alphas": [None] * epochs}
    if choice["name"] in ADAPTATIONS:
        start = choice.get("start")
        return {"alphas": [start] + [None] * (epochs - 1), "adaptation": choice["name"]}
    return {"alphas": scheduled(choice, epochs)}


def scheduled(choice: embedding_model.Options, epochs: int) -> list[float]:
    """A schedule's value in each epoch."""
    name, options = embedding_model.split_choice(choice)
    return values(name, options, epochs=epochs)


def by_epoch(recipe: Recipe) -> list[list[Any]]:
    """What is set in each epoch: alpha, learning rate, whether the unseen classes are looked at."""
    looks = watched(len(recipe["alphas"]), recipe["watch_every"])
    return [list(each) for each in zip(recipe["alphas"], recipe["lrs"], looks, strict=True)]


def throughout(recipe: Recipe) -> Recipe:
    """What holds in every epoch."""
    return {key: value for key, value in recipe.items() if key not in BY_EPOCH}


def tuned_settings(run_folder: Path) -> dict[str, Any]:
    """Return the settings that the stage `tune` chose for a run."""
    chosen: dict[str, Any] = read_json(required(run_folder / "tuned.json", "tune"))["settings"]
    return chosen
