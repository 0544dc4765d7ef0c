"""The recipe of a training: its settings, with alpha and learning rate listed per epoch."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from heated.losses.adaptations import ADAPTATIONS
from heated.models.embedding_model import NamedOptions, name_and_options
from heated.training.schedules import change_epochs, schedule_values


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training. Choices are {"name": ..., option: ...}."""

    alphas: list[float | None]  # in each epoch; None if no schedule sets it
    lrs: list[float]  # in each epoch
    eval_every: int  # epochs between measurements on the unseen classes
    batch_size: int
    sampler: NamedOptions = field(default_factory=lambda: {"name": "shuffled"})
    optimizer: NamedOptions  # a key of OPTIMIZERS
    bottleneck_lr_mult: float  # for the network's last layer
    classifier_lr_mult: float  # for the classifier and the normalization's shift
    init: str  # a key of INITIALIZERS
    backbone: NamedOptions
    weights: str  # of the network before training: "none", "imagenet" or a file
    embedding_dim: int
    augment: list[NamedOptions]  # steps from packed to prepared images
    pixel_mean: float | list[float]  # of pixels in [0, 1]: one number, or one per channel
    pixel_std: float | list[float]
    precision: str  # of the network: one of PRECISIONS
    threads: int | None = None  # of the CPU, which can change the last bits; None: torch's default
    deterministic: bool = False  # whether a GPU computes the same bits in every run
    cuda_graphs: bool = False  # whether steps run as CUDA graphs
    normalize: NamedOptions = field(default_factory=lambda: {"name": "none"})
    bias: str = "none"  # this and the next two: see HeatedSoftmax
    label_smoothing: float = 0.0
    denominator: str = "all"
    adaptation: str = "none"  # sets alpha if no schedule does
    loss: NamedOptions | None = None  # of pytorch-metric-learning, instead of the heated softmax
    miner: NamedOptions | None = None  # chooses the pairs that `loss` compares

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build the recipe from settings with `epochs`, `lr`, and schedules of both values."""
        fields = dict(settings)
        if pooling := fields.pop("pooling", None):
            fields["backbone"] = {**fields["backbone"], "pooling": pooling}
        epochs, alpha, lr = fields.pop("epochs"), fields.pop("alpha", None), fields.pop("lr")
        if alpha is None:
            fields["alphas"] = [None] * epochs
        elif alpha["name"] in ADAPTATIONS:
            fields["adaptation"] = alpha["name"]
            fields["alphas"] = [alpha.get("start")] + [None] * (epochs - 1)
        else:
            fields["alphas"] = schedule_values(*name_and_options(alpha), epochs=epochs)
        factors = schedule_values(*name_and_options(fields.pop("lr_schedule")), epochs=epochs)
        return cls(**fields, lrs=[lr * factor for factor in factors])

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return len(self.alphas)

    def per_epoch_values(self) -> list[list[Any]]:
        """Return [alpha, learning rate, whether to measure unseen classes].

        They are measured every `eval_every` epochs, after the last, and before and after each
        change of alpha; after the last alone if `eval_every` is not smaller than the epochs.
        """
        epochs, changes = range(1, self.epochs + 1), set[int]()
        if self.eval_every < self.epochs:
            changes = {e + n for e in change_epochs(self.alphas) for n in (0, 1)}
        is_evaluated = [
            e % self.eval_every == 0 or e == self.epochs or e in changes for e in epochs
        ]
        return [*map(list, zip(self.alphas, self.lrs, is_evaluated, strict=True))]

    def epoch_invariant(self) -> dict[str, Any]:
        """Return the fields that `per_epoch_values` does not cover."""
        per_epoch = ("alphas", "lrs", "eval_every")
        return {key: value for key, value in asdict(self).items() if key not in per_epoch}

    def divergence_epochs(self, siblings: Iterable[Self]) -> frozenset[int]:
        """Return the numbers of initial epochs, without 0, that it shares with each sibling."""
        shared = set()
        for sibling in siblings:
            if sibling.epoch_invariant() == self.epoch_invariant():
                pairs = zip(self.per_epoch_values(), sibling.per_epoch_values(), strict=False)
                shared.add(next((epoch for epoch, (a, b) in enumerate(pairs) if a != b), 0))
        return frozenset(shared - {0})
