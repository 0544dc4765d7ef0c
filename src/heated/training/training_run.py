"""A run: one data set, one method, every seed; what was trained before, in whole or in part, by
this run or by one that began alike, is not trained again."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heated.common.errors import InputError
from heated.common.history import Logger, Row
from heated.common.io import write_arrays
from heated.data import packed_dataset
from heated.data.batches import Mapped, feed
from heated.losses.pml import LIBRARY
from heated.models import embedding_model, pretrained
from heated.models.embedding_model import Architecture, Model
from heated.runtime.device import keep_memory, peak_memory
from heated.runtime.distributed import agreed, first, place
from heated.training.checkpoints import Checkpoints, Lock, code_digest, fingerprint, partings
from heated.training.init_stages import WARM_UPS
from heated.training.loop import Progress, train
from heated.training.monitor import make_monitor
from heated.training.recipe import Recipe, by_epoch, throughout


@dataclass(frozen=True)
class Run:
    """A recipe on a packed data set; `digest` identifies the data. `others`: the recipes that may
    share a beginning with this one. `folder` holds checkpoints, one in `every` seconds within an
    epoch, up to `budget` MiB."""

    recipe: Recipe
    data: packed_dataset.Packed
    digest: str
    device: torch.device
    folder: Path
    others: Sequence[Recipe] = ()
    every: float = 300
    budget: float = 10_000

    def beginning(self, seed: int | None) -> dict[str, Any]:
        """What makes the weights, beside what is set epoch by epoch."""
        return {
            "recipe": throughout(self.recipe) | {"weights": self.weights_identity},
            "data": self.digest,
            "code": self.code,
            "torch": torch.__version__,
            **({"library": version(LIBRARY)} if self.recipe.loss else {}),
            "device": self.device.type,
            "seed": seed,
        }

    @cached_property
    def code(self) -> str:
        """Return the digest of the code that decides on weights and history."""
        return code_digest()

    @cached_property
    def weights_identity(self) -> str:
        """What tells the weights that training begins with from others, wherever they lie."""
        return pretrained.identity(self.recipe.weights, self.recipe.backbone["name"])

    @cached_property
    def weights(self) -> dict[str, Tensor] | None:
        """The weights that every seed begins with, if any."""
        return pretrained.tensors(self.recipe.weights, self.recipe.backbone["name"])

    def key(self, seed: int | None = None) -> str:
        """What identifies the training of a seed, or without one the run: equal keys, equal
        weights."""
        return fingerprint([self.beginning(seed), by_epoch(self.recipe)])

    def partings(self) -> frozenset[int]:
        """After how many epochs other recipes part from this one."""
        alike = [other for other in self.others if throughout(other) == throughout(self.recipe)]
        return partings(by_epoch(self.recipe), map(by_epoch, alike))

    def checkpoints(self, seed: int) -> Checkpoints:
        """A seed's; those where others part stay, and one in every tenth of the training."""
        epochs = self.recipe.epochs
        tenths = range(0, epochs + 1, max(1, epochs // 10))
        return Checkpoints(
            self.folder,
            self.beginning(seed),
            by_epoch(self.recipe),
            landmarks=self.partings() | {*tenths, epochs},
            every=self.every,
            budget=self.budget,
        )

    def finish(
        self, seeds: Sequence[int], folder: Path, logger: Logger
    ) -> dict[int, dict[str, Any]]:
        """What became of each seed, whose model is then `folder / seed-<s>.safetensors`. A seed
        that another process has in hand comes later; if all are, the first is waited for.
        FloatingPointError when the loss of a seed was no longer finite, after the other seeds."""
        self.check_processes()
        keep_memory(True)
        folder.mkdir(exist_ok=True)
        done: dict[int, dict[str, Any]] = {}
        failed: dict[int, str] = {}
        while waiting := [seed for seed in seeds if seed not in done and seed not in failed]:
            with self.free(waiting) as (seed, beginning):
                path = folder / f"seed-{seed}.safetensors"
                try:
                    done[seed] = self.finished(seed, path, partial(logger.log, seed), beginning)
                except FloatingPointError as error:
                    failed[seed] = str(error)
        if failed:
            raise FloatingPointError("\n".join(failed.values()))
        return {seed: done[seed] for seed in seeds}

    def check_processes(self) -> None:
        """InputError where several processes share a batch whose loss needs the whole of it."""
        loss = self.recipe.loss or {"name": self.recipe.adaptation}
        if place()[1] > 1 and loss["name"] not in ("none", "learned"):
            raise InputError(
                f"{loss['name']}: came {place()[1]} processes, which share every batch; allowed: "
                "one, since it compares the images of a batch; write `launch: python -m`"
            )

    @contextmanager
    def free(self, seeds: Sequence[int]) -> Iterator[tuple[int, Lock | None]]:
        """One of the seeds, held against other trainers, and the lock on what it shares; the
        processes of one training take the first one's."""
        if not first():
            yield agreed(0, self.device), None
            return
        for wait, seed in [*((False, seed) for seed in seeds), (True, seeds[0])]:
            family = self.checkpoints(seed).family
            own = Lock(family / f"{self.key(seed)[:32]}.lock")
            beginning = Lock(family / "beginning.lock")
            if wait:
                print(f"seed {seed}: another process is training it; waiting", file=sys.stderr)
            if own.held(wait=wait):
                try:
                    if beginning.held(wait=wait):
                        yield agreed(seed, self.device), beginning
                        return
                finally:
                    beginning.release()
                    own.release()

    def finished(
        self, seed: int, path: Path, log: Callable[[Row], None], beginning: Lock | None = None
    ) -> dict[str, Any]:
        """{"history": rows, "seconds": of training, "epochs_trained": now, "images_seen" in all,
        "peak_mib": memory that the process had at most} of a seed whose model then lies at `path`;
        `log` is called with every row. `beginning` is released once no other recipe shares what is
        trained."""
        progress, seconds = self.progress(seed)
        trained = self.recipe.epochs - len(progress.history)
        started, kept = time.monotonic() - seconds, self.checkpoints(seed)
        seen = self.recipe.epochs * int(self.data.split.train.sum())
        done = {"seconds": seconds, "epochs_trained": trained, "images_seen": seen}
        last_parting = max(self.partings(), default=0)

        def keep(progress: Progress) -> None:
            epochs = len(progress.history)
            if beginning is not None and epochs >= last_parting:
                beginning.release()
            if not first() or (progress.step and not kept.due()):
                return
            done["seconds"] = time.monotonic() - started
            record = {
                "history": progress.history,
                "step": progress.step,
                "seconds": done["seconds"],
            }
            kept.keep(progress.tensors(), record, epochs, within=progress.step > 0)

        self.train(progress, seed, log, keep)
        if first():
            embedding_model.save(path, progress.model)
            self.draw(path.with_suffix(".npz"), progress.pictures)
        return {"history": progress.history, **done, "peak_mib": peak_memory(self.device)}

    def progress(self, seed: int) -> tuple[Progress, float]:
        """A seed's training, as far as it came before, and the seconds that took."""
        started = time.monotonic()
        progress = Progress.begin(
            self.model(seed).to(self.device),
            self.recipe.optimiser,
            bottleneck_lr_factor=self.recipe.bottleneck_lr_factor,
            head_lr_factor=self.recipe.head_lr_factor,
        )
        saved = self.checkpoints(seed).latest()
        if saved is None:
            self.warm_up(progress.model)
            return progress, time.monotonic() - started
        progress.restore(saved.tensors, saved.record["history"], saved.record["step"])
        return progress, saved.record["seconds"]

    def model(self, seed: int) -> Model:
        """A seed's model, as it is drawn."""
        _, height, width, channels = self.data.images.shape
        classes = len(np.unique(self.data.labels[self.data.split.train]))
        torch.manual_seed(seed)
        return Model(
            Architecture.of(
                vars(self.recipe), image_shape=(height, width, channels), num_classes=classes
            )
        )

    def warm_up(self, model: Model) -> None:
        """Bring a drawn model to where its first epoch begins."""
        if self.weights is not None:
            pretrained.begin_with(model.network, self.weights)
        numbers, labels = self.training_samples()
        WARM_UPS[self.recipe.warm_up](
            model,
            Mapped(self.data.images, numbers, self.device),
            labels,
            batch_size=self.recipe.batch_size,
            precision=self.recipe.precision,
        )

    def training_samples(self) -> tuple[NDArray[np.int64], Tensor]:
        """The numbers (N,) of the images to train on, and their labels in [0, num_classes), on the
        device."""
        numbers = np.flatnonzero(self.data.split.train)
        classes = np.unique(self.data.labels[numbers], return_inverse=True)[1]
        return numbers, torch.from_numpy(classes).to(self.device)

    def train(
        self,
        progress: Progress,
        seed: int,
        log: Callable[[Row], None],
        keep: Callable[[Progress], None],
    ) -> None:
        """Train a seed to the end."""
        numbers, labels = self.training_samples()
        train(
            progress,
            feed(self.data.images, numbers, self.device),
            labels,
            alphas=self.recipe.alphas,
            lrs=self.recipe.lrs,
            batch_size=self.recipe.batch_size,
            sampler=self.recipe.sampler,
            precision=self.recipe.precision,
            watch_every=self.recipe.watch_every,
            seed=seed,
            watch=self.monitor(progress),
            log=log,
            keep=keep,
        )

    def draw(self, path: Path, pictures: Mapping[int, Tensor]) -> None:
        """`epochs` (E,), `angles` (E, N) of the test images' embeddings in radians, and `labels`
        (N,), where embeddings have two dimensions."""
        if pictures:
            write_arrays(
                path,
                epochs=np.array(sorted(pictures)),  # restored ones come in another order
                angles=torch.stack([pictures[epoch] for epoch in sorted(pictures)]).numpy(),
                labels=self.data.labels[self.data.split.query],
            )

    def monitor(self, progress: Progress) -> Callable[[], dict[str, float]]:
        """A function that says how the model does on the unseen classes' queries."""
        numbers = np.flatnonzero(self.data.split.query)
        classes = np.unique(self.data.labels[numbers], return_inverse=True)[1]
        return make_monitor(
            progress,
            Mapped(self.data.images, numbers, self.device),
            torch.from_numpy(classes).to(self.device),
        )
