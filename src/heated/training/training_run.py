"""Train all seeds of one method on one data set, each from its latest checkpoint."""

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
from heated.common.samples import Mask
from heated.data.packed_dataset import MemmapImages, PackedDataset, device_images
from heated.losses.pml import LIBRARY
from heated.models import embedding_model, pretrained
from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.runtime.device import keep_freed_memory, peak_memory_mib
from heated.runtime.distributed import broadcast_int, is_main_process, rank_and_world_size
from heated.training.checkpoints import CheckpointCache, code_digest, fingerprint
from heated.training.initialization import INITIALIZERS
from heated.training.loop import train
from heated.training.monitor import make_monitor
from heated.training.recipe import Recipe
from heated.training.train_state import TrainState


@dataclass(frozen=True)
class TrainingRun:
    """A recipe on a packed data set."""

    recipe: Recipe
    data: PackedDataset
    digest: str  # of `data`
    device: torch.device
    checkpoint_folder: Path
    sibling_recipes: Sequence[Recipe] = ()  # may share their first epochs with `recipe`
    interval_s: float = 300  # this and the next: see CheckpointCache
    max_size_mib: float = 10_000

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Everything that determines the weights, except the seed and the settings per epoch."""
        recipe = self.recipe
        weights = pretrained.weights_id(recipe.weights, recipe.backbone["name"])
        return {
            "recipe": recipe.epoch_invariant() | {"weights": weights},
            "data": self.digest,
            "code": code_digest(),
            "torch": torch.__version__,
            **({"library": version(LIBRARY)} if recipe.loss else {}),
            "device": self.device.type,
        }

    def key(self, seed: int | None = None) -> str:
        """Identify the training of a seed, or the run: equal keys mean equal weights."""
        return fingerprint([self.inputs | {"seed": seed}, self.recipe.per_epoch_values()])

    def checkpoints(self, seed: int) -> CheckpointCache:
        """Return a seed's checkpoints; those at tenths and where siblings diverge are kept."""
        epochs = self.recipe.epochs
        kept = {*range(0, epochs + 1, max(1, epochs // 10)), epochs}
        kept |= self.recipe.divergence_epochs(self.sibling_recipes)
        inputs, values = self.inputs | {"seed": seed}, self.recipe.per_epoch_values()
        limits = (self.interval_s, self.max_size_mib)
        return CheckpointCache(self.checkpoint_folder, inputs, values, frozenset(kept), *limits)

    def train_seeds(
        self, seeds: Sequence[int], folder: Path, logger: Logger
    ) -> dict[int, dict[str, Any]]:
        """Train all seeds, write their models to `folder`, and return `train_seed`'s results.

        Raises InputError if processes share a batch that the loss needs as a whole. Raises
        FloatingPointError, after training the other seeds, if the loss of a seed is not finite.
        """
        loss = (self.recipe.loss or {"name": self.recipe.adaptation})["name"]
        if (processes := rank_and_world_size()[1]) > 1 and loss not in ("none", "learned"):
            raise InputError(
                f"{loss} compares all images of a batch and cannot be split over {processes} "
                "processes. Set `run.launcher` to `python -m`."
            )
        keep_freed_memory(True)
        folder.mkdir(exist_ok=True)
        results, errors = {}, {}
        while remaining := [seed for seed in seeds if seed not in results and seed not in errors]:
            with self.lock_seed(remaining) as (seed, prefix_lock):
                path, log = folder / f"seed-{seed}.safetensors", partial(logger.log, seed)
                try:
                    results[seed] = self.train_seed(seed, path, log, prefix_lock)
                except FloatingPointError as error:
                    errors[seed] = str(error)
        if errors:
            raise FloatingPointError("\n".join(errors.values()))
        return {seed: results[seed] for seed in seeds}

    @contextmanager
    def lock_seed(self, seeds: Sequence[int]) -> Iterator[tuple[int, FileLock | None]]:
        """Lock one of the seeds; wait for the first if other processes hold all of them.

        Yields the main process's seed, and in that process the lock on the shared first epochs.
        """
        if not is_main_process():
            yield broadcast_int(0, self.device), None
            return
        for timeout, seed in [*((0, seed) for seed in seeds), (-1, seeds[0])]:
            cache = self.checkpoints(seed)
            seed_lock = FileLock(cache.family_folder / f"{self.key(seed)[:32]}.lock")
            prefix_lock = FileLock(cache.prefix_lock)
            if timeout:
                print(f"seed {seed}: locked by another process, waiting", file=sys.stderr)
            with suppress(Timeout), seed_lock.acquire(timeout), prefix_lock.acquire(timeout):
                yield broadcast_int(seed, self.device), prefix_lock
                return

    def train_seed(
        self, seed: int, path: Path, log: Callable[[Row], None], lock: FileLock | None = None
    ) -> dict[str, Any]:
        """Train a seed, write its model, and release `lock` after the last shared epoch.

        For two-dimensional embeddings, `path` with the suffix .npz gets `epochs` (E,), `angles`
        (E, N) in radians and `labels` (N,). `log` receives every row, including restored ones.

        Return "history": rows; "seconds" of training; "epochs_trained" now; "images_seen" in
        total; "peak_mib": the peak memory of the process.
        """
        state, seconds = self.load_or_initialize(seed)
        start, cache, recipe = time.monotonic() - seconds, self.checkpoints(seed), self.recipe
        shared_epochs = max(recipe.divergence_epochs(self.sibling_recipes), default=0)
        images, labels = self.mapped_images(self.data.split.train)
        test_images, test_labels, masks = self.test_samples()
        results = {
            "seconds": seconds,
            "epochs_trained": recipe.epochs - len(state.history),
            "images_seen": recipe.epochs * len(images),
        }

        def on_step_end(state: TrainState) -> None:
            epochs = len(state.history)
            if state.step == 0:
                log(state.history[-1])
            if lock is not None and epochs >= shared_epochs:
                lock.release()
            if is_main_process() and (state.step == 0 or cache.is_due()):
                results["seconds"] = seconds = time.monotonic() - start
                cache.save(state.to_checkpoint(seconds=seconds), epochs, mid_epoch=state.step > 0)

        for row in state.history:
            log(row)
        train(
            state,
            device_images(self.data.images, images.indices, self.device),
            labels,
            recipe,
            monitor_fn=make_monitor(state, test_images, test_labels, **masks),
            on_step_end=on_step_end,
        )
        if is_main_process():
            embedding_model.save_model(path, state.model)
            if state.angles:
                epochs, angles = zip(*sorted(state.angles.items()), strict=True)
                arrays = {"epochs": np.array(epochs), "angles": torch.stack(angles).numpy()}
                arrays["labels"] = self.data.labels[test_images.indices]
                write_arrays(path.with_suffix(".npz"), **arrays)
        return {"history": state.history, **results, "peak_mib": peak_memory_mib(self.device)}

    def load_or_initialize(self, seed: int) -> tuple[TrainState, float]:
        """Return a seed's latest state, or its initial one, and the seconds that it took."""
        start, recipe = time.monotonic(), self.recipe
        images, labels = self.mapped_images(self.data.split.train)
        sizes = {"image_shape": self.data.images.shape[1:], "num_classes": len(labels.unique())}
        torch.manual_seed(seed)
        model = ModelWithLoss(Architecture.of(vars(recipe), **sizes)).to(self.device)
        state = TrainState.create(model, recipe, seed)
        checkpoint = self.checkpoints(seed).load_latest()
        if checkpoint is not None:
            state.restore(checkpoint)
            return state, checkpoint.record["seconds"]
        weights = pretrained.pretrained_state_dict(recipe.weights, recipe.backbone["name"])
        if weights is not None:
            pretrained.load_pretrained(model.network, weights)
        options = {"batch_size": recipe.batch_size, "precision": recipe.precision}
        INITIALIZERS[recipe.init](model, images, labels, **options)
        return state, time.monotonic() - start

    def test_samples(self) -> tuple[MemmapImages, Tensor, dict[str, Tensor]]:
        """Return the test images, their labels from 0, and which are queries and gallery."""
        split = self.data.split
        images, labels = self.mapped_images(split.query | split.gallery)
        masks = {"query": split.query, "gallery": split.gallery}
        on_device = {
            name: torch.from_numpy(mask[images.indices]).to(self.device)
            for name, mask in masks.items()
        }
        return images, labels, on_device

    def mapped_images(self, mask: Mask) -> tuple[MemmapImages, Tensor]:
        """Return a part's images, and its labels from 0 on the device."""
        numbers, labels = self.data.indices_and_classes(mask)
        if not len(numbers):
            expected = "expected images to train on, and images to test"
            raise InputError(f"the packed data: got an empty part, {expected}. Check its split.")
        images = MemmapImages(self.data.images, numbers, self.device)
        return images, torch.from_numpy(labels).to(self.device)
