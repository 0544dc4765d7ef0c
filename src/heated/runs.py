"""A run: one data set, one method, every seed, each trained once and then remembered."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heated import checkpoints, models, packing
from heated.embedding import embed
from heated.geometry import compactness, directions, spread
from heated.history import Row
from heated.models import Architecture, Model
from heated.retrieval import retrieval
from heated.schedules import values
from heated.training import train

Recipe = dict[str, Any]
TRAINING = ("alphas", "lrs", "optimiser", "batch_size", "watch_every")  # of a recipe's keys


def recipe(settings: Mapping[str, Any]) -> Recipe:
    """What params.yaml says of a data set's training and of a method, with alpha and the learning
    rate written out for every epoch."""
    epochs, schedules = settings["epochs"], ("epochs", "alpha", "lr", "lr_factor")
    return {
        **{key: value for key, value in settings.items() if key not in schedules},
        "alphas": scheduled(settings["alpha"], epochs),
        "lrs": [settings["lr"] * factor for factor in scheduled(settings["lr_factor"], epochs)],
    }


def scheduled(choice: models.Options, epochs: int) -> list[float]:
    """A schedule's value in each epoch."""
    name, options = models.split_choice(choice)
    return values(name, options, epochs=epochs)


@dataclass(frozen=True)
class Run:
    """A recipe on a packed data set; `digest` identifies the data, `cache` holds finished seeds."""

    recipe: Recipe
    data: packing.Packed
    digest: str
    device: torch.device
    cache: Path

    def key(self, seed: int | None = None) -> str:
        """What identifies the training of a seed, or without one the run: equal keys, equal
        weights."""
        made_by = {"recipe": self.recipe, "data": self.digest, "code": checkpoints.code_digest()}
        machine = {"torch": torch.__version__, "device": self.device.type}
        return checkpoints.fingerprint({**made_by, **machine, "seed": seed})

    def finished(self, seed: int, path: Path, log: Callable[[Row], None]) -> dict[str, Any]:
        """{"history": rows, "seconds": of training, "trained": now or before} of a seed whose
        model then lies at `path`; `log` is called with every row."""
        known = checkpoints.restore(self.cache, self.key(seed), path)
        if known is not None:
            for row in known["history"]:
                log(row)
            return {**known, "trained": "before"}
        started = time.monotonic()
        model, history = self.train(seed, log)
        models.save(path, model)
        record = {"history": history, "seconds": time.monotonic() - started}
        checkpoints.keep(self.cache, self.key(seed), path, record)
        return {**record, "trained": "now"}

    def train(self, seed: int, log: Callable[[Row], None]) -> tuple[Model, list[Row]]:
        """A model trained from the seed's weights, and its history."""
        images, labels = self.data.part(self.data.split.train)
        classes, numbers = np.unique(labels, return_inverse=True)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        torch.manual_seed(seed)
        model = Model(Architecture.of(self.recipe, image_shape=shape, num_classes=len(classes)))
        model.to(self.device)
        history = train(
            model,
            torch.from_numpy(images).to(self.device),
            torch.from_numpy(numbers).to(self.device),
            **{key: self.recipe[key] for key in TRAINING},
            seed=seed,
            watch=self.watcher(model),
            log=log,
        )
        return model, history

    def watcher(self, model: Model) -> Callable[[], dict[str, float]]:
        """A function that says how the model does on the unseen classes' queries."""
        images, labels = self.data.part(self.data.split.query)
        inputs = torch.from_numpy(images).to(self.device)
        targets = torch.from_numpy(labels).to(self.device)

        def watch() -> dict[str, float]:
            embeddings = embed(model, inputs, quiet=True)
            unit = directions(embeddings)
            return {
                **retrieval(embeddings, targets, recall_at_k=[1], others=False).values,
                "compactness": compactness(unit, targets),
                "spread": spread(unit, targets),
            }

        return watch
