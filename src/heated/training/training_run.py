"""A run: one data set, one method, every seed. Epochs that were trained before, by this run or by
one with the same first epochs, are not trained again."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from heated.common.errors import InputError
from heated.common.history import Logger, Row
from heated.common.io import write_arrays
from heated.data import packed_dataset
from heated.data.batches import Mapped, device_images
from heated.losses.pml import LIBRARY
from heated.models import embedding_model, pretrained
from heated.models.embedding_model import Architecture, Model
from heated.runtime.device import keep_freed_memory, peak_memory_mib
from heated.runtime.distributed import broadcast_int, is_main_process, rank_and_world_size
from heated.training.checkpoints import Checkpoints, code_digest, fingerprint, partings
from heated.training.init_stages import WARM_UPS
from heated.training.loop import Progress, train
from heated.training.monitor import make_monitor
from heated.training.recipe import Recipe, by_epoch, throughout


@dataclass(frozen=True)
class Run:
    """A recipe on a packed data set, which `digest` identifies.

    Attributes:
        folder: Holds checkpoints, one per `every` seconds within an epoch, up to `budget` MiB.
        others: Recipes that may share their first epochs with this one.
    """

    recipe: Recipe
    data: packed_dataset.Packed
    digest: str
    device: torch.device
    folder: Path
    others: Sequence[Recipe] = ()
    every: float = 300
    budget: float = 10_000

    def beginning(self, seed: int | None) -> dict[str, Any]:
        """Return all that decides on the weights, except the settings of each epoch."""
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
        """Identify the weights that training begins with, wherever their file is."""
        return pretrained.weights_id(self.recipe.weights, self.recipe.backbone["name"])

    @cached_property
    def weights(self) -> dict[str, Tensor] | None:
        """Load the weights that every seed begins with, if any."""
        return pretrained.pretrained_state_dict(self.recipe.weights, self.recipe.backbone["name"])

    def key(self, seed: int | None = None) -> str:
        """Identify the training of a seed, or the run: equal keys, equal weights."""
        return fingerprint([self.beginning(seed), by_epoch(self.recipe)])

    def partings(self) -> frozenset[int]:
        """Return after how many epochs other recipes differ from this one."""
        alike = [other for other in self.others if throughout(other) == throughout(self.recipe)]
        return partings(by_epoch(self.recipe), map(by_epoch, alike))

    def checkpoints(self, seed: int) -> Checkpoints:
        """Return a seed's checkpoints; one per tenth of the training stays, and each where another
        recipe parts."""
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
        """Train all seeds; write `folder / seed-<s>.safetensors` and return `finished` by seed.

        Seeds that other processes train are tried last; if all are, the first is waited for.
        Raises FloatingPointError if the loss of a seed is not finite, after the other seeds.
        """
        self.check_processes()
        keep_freed_memory(True)
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
        """Raise InputError if several processes share a batch whose loss needs the whole of it."""
        loss = self.recipe.loss or {"name": self.recipe.adaptation}
        _, processes = rank_and_world_size()
        if processes > 1 and loss["name"] not in ("none", "learned"):
            raise InputError(
                f"{loss['name']}: came {processes} processes, which share every batch; allowed: "
                "one, since it compares the images of a batch; write `launch: python -m`"
            )

    @contextmanager
    def free(self, seeds: Sequence[int]) -> Iterator[tuple[int, FileLock | None]]:
        """Lock one of the seeds against other trainers; yield it, and the lock on the epochs that
        it shares with other recipes. The processes of one training take the first one's seed."""
        if not is_main_process():
            yield broadcast_int(0, self.device), None
            return
        for seconds, seed in [*((0, seed) for seed in seeds), (-1, seeds[0])]:
            family = self.checkpoints(seed).family
            own = FileLock(family / f"{self.key(seed)[:32]}.lock")
            beginning = FileLock(family / "beginning.lock")
            if seconds:
                print(f"seed {seed}: another process is training it; waiting", file=sys.stderr)
            with suppress(Timeout), own.acquire(seconds), beginning.acquire(seconds):
                yield broadcast_int(seed, self.device), beginning
                return

    def finished(
        self, seed: int, path: Path, log: Callable[[Row], None], beginning: FileLock | None = None
    ) -> dict[str, Any]:
        """Train a seed and write its model; release `beginning` once no other recipe shares what is
        trained. `log` is called with every row.

        Returns:
            "history": rows; "seconds" of training; "epochs_trained" now; "images_seen" in all;
            "peak_mib": the most memory that the process had.
        """
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
            if not is_main_process() or (progress.step and not kept.due()):
                return
            done["seconds"] = time.monotonic() - started
            step, record = progress.step, {"history": progress.history, "seconds": done["seconds"]}
            kept.keep(progress.tensors(), {**record, "step": step}, epochs, within=step > 0)

        self.train(progress, seed, log, keep)
        if is_main_process():
            embedding_model.save(path, progress.model)
            if progress.pictures:
                self.write_pictures(path.with_suffix(".npz"), progress.pictures)
        return {"history": progress.history, **done, "peak_mib": peak_memory_mib(self.device)}

    def progress(self, seed: int) -> tuple[Progress, float]:
        """Return a seed's training from its latest checkpoint, and the seconds that took."""
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
        """Return a seed's model with random weights."""
        classes = len(np.unique(self.data.labels[self.data.split.train]))
        sizes = {"image_shape": self.data.images.shape[1:], "num_classes": classes}
        torch.manual_seed(seed)
        return Model(Architecture.of(vars(self.recipe), **sizes))

    def warm_up(self, model: Model) -> None:
        """Prepare a model with random weights for its first epoch."""
        if self.weights is not None:
            pretrained.load_pretrained(model.network, self.weights)
        numbers, labels = self.data.part(self.data.split.train)
        WARM_UPS[self.recipe.warm_up](
            model,
            Mapped(self.data.images, numbers, self.device),
            torch.from_numpy(labels).to(self.device),
            batch_size=self.recipe.batch_size,
            precision=self.recipe.precision,
        )

    def train(
        self,
        progress: Progress,
        seed: int,
        log: Callable[[Row], None],
        keep: Callable[[Progress], None],
    ) -> None:
        """Train a seed to the end."""
        numbers, labels = self.data.part(self.data.split.train)
        train(
            progress,
            device_images(self.data.images, numbers, self.device),
            torch.from_numpy(labels).to(self.device),
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

    def write_pictures(self, path: Path, pictures: dict[int, Tensor]) -> None:
        """Write `epochs` (E,), `angles` (E, N) of the test images' two-dimensional embeddings in
        radians, and `labels` (N,)."""
        write_arrays(
            path,
            epochs=np.array(sorted(pictures)),  # restored ones come in another order
            angles=torch.stack([pictures[epoch] for epoch in sorted(pictures)]).numpy(),
            labels=self.data.labels[self.data.split.query],
        )

    def monitor(self, progress: Progress) -> Callable[[], dict[str, float]]:
        """Return a function that measures the model on the unseen classes' queries."""
        numbers, labels = self.data.part(self.data.split.query)
        images = Mapped(self.data.images, numbers, self.device)
        return make_monitor(progress, images, torch.from_numpy(labels).to(self.device))
