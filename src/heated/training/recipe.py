"""A training's recipe: its settings, with what changes written out for every epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from heated.common.io import read_json, required
from heated.losses.heated_softmax import ADAPTATIONS
from heated.models.embedding_model import Options, split_choice
from heated.training.loop import watched
from heated.training.schedules import values

SCHEDULED = ("epochs", "alpha", "lr", "lr_factor")  # settings that `alphas` and `lrs` replace
BY_EPOCH = ("alphas", "lrs", "watch_every")  # fields that are set epoch by epoch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a model is trained on given data. Choices are {"name": .., option: ..}.

    Attributes:
        alphas: Alpha in each epoch; None where no schedule sets it.
        lrs: The learning rate in each epoch.
        watch_every: The unseen classes are measured every so many epochs, and after the last.
        batch_size: Images per step.
        sampler: What makes an epoch's batches.
        optimiser: What changes the weights by their gradients.
        bottleneck_lr_factor: Of the learning rate of the layer that gives the embedding.
        head_lr_factor: Of the learning rate of the classifier and the normalization's shift.
        warm_up: What is done before the first epoch.
        backbone: The network.
        weights: What the network begins with: "none", "imagenet" or a file.
        embedding_dim: D.
        augment: Steps from packed to prepared images.
        pixel_mean: Of pixels in [0, 1]: one number, or one per channel.
        pixel_std: As `pixel_mean`.
        precision: Of the network: "float32" or "bfloat16".
        threads: CPU threads, on which the last bits depend; None for torch's own choice.
        normalise: What is done to embeddings before the classifier.
        bias: "outside", "inside" or "none", see HeatedSoftmax.
        label_smoothing: Share of the target that is spread over all classes.
        denominator: "all" or "others", see HeatedSoftmax.
        adaptation: What sets alpha where no schedule does.
        loss: A loss of pytorch-metric-learning instead of the heated softmax.
        miner: What chooses the pairs that such a loss compares.
    """

    alphas: list[float | None]
    lrs: list[float]
    watch_every: int
    batch_size: int
    sampler: Options = field(default_factory=lambda: {"name": "shuffled"})
    optimiser: Options
    bottleneck_lr_factor: float
    head_lr_factor: float
    warm_up: str
    backbone: Options
    weights: str
    embedding_dim: int
    augment: list[Options]
    pixel_mean: float | list[float]
    pixel_std: float | list[float]
    precision: str
    threads: int | None = None
    normalise: Options = field(default_factory=lambda: {"name": "none"})
    bias: str = "none"
    label_smoothing: float = 0.0
    denominator: str = "all"
    adaptation: str = "none"
    loss: Options | None = None
    miner: Options | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build the recipe from the settings of a data set's training and of a method.

        Args:
            settings: The fields by name. Of those that change, instead of `alphas` and `lrs`:
                `epochs`, `alpha` and `lr_factor`, which are schedules, and `lr`.
        """
        epochs = settings["epochs"]
        return cls(
            **{key: value for key, value in settings.items() if key not in SCHEDULED},
            **alpha(settings.get("alpha"), epochs),
            lrs=[settings["lr"] * factor for factor in scheduled(settings["lr_factor"], epochs)],
        )

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return len(self.alphas)


def alpha(choice: Options | None, epochs: int) -> dict[str, Any]:
    """Return a recipe's fields for alpha: its value in each epoch, or how it adapts."""
    if choice is None:
        return {"alphas": [None] * epochs}
    if choice["name"] in ADAPTATIONS:
        start = choice.get("start")
        return {"alphas": [start] + [None] * (epochs - 1), "adaptation": choice["name"]}
    return {"alphas": scheduled(choice, epochs)}


def scheduled(choice: Options, epochs: int) -> list[float]:
    """Return a schedule's value in each epoch."""
    return values(*split_choice(choice), epochs=epochs)


def by_epoch(recipe: Recipe) -> list[list[Any]]:
    """Return [alpha, learning rate, whether unseen classes are measured] for each epoch."""
    looks = watched(recipe.epochs, recipe.watch_every)
    return [list(each) for each in zip(recipe.alphas, recipe.lrs, looks, strict=True)]


def throughout(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that do not change from epoch to epoch."""
    return {key: value for key, value in asdict(recipe).items() if key not in BY_EPOCH}


def tuned_settings(run_folder: Path) -> dict[str, Any]:
    """Return the settings that the stage `tune` chose for a run."""
    chosen: dict[str, Any] = read_json(required(run_folder / "tuned.json", "tune"))["settings"]
    return chosen
