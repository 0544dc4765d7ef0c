"""The training loop: every image once per epoch, with alpha and learning rate set per epoch.

The order of the images and their augmentation depend on the seed and the epoch alone, so that all
methods of one seed see the same batches. A training can stop after any step and resume from its
`TrainState`: with bit-identical results on a CPU, and on a GPU with `run.deterministic`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from torch import Generator, Tensor

from heated.common.history import Row
from heated.common.progress import progress_bar
from heated.data.packed_dataset import Images
from heated.data.samplers import SAMPLERS
from heated.data.transforms import AugmentationRNG
from heated.losses.heated_softmax import HeatedSoftmax
from heated.losses.pml import PMLLoss, forked_rng
from heated.models.embedding_model import name_and_options
from heated.runtime.device import batches_to_device, float32_products
from heated.runtime.distributed import all_reduce_gradients, is_main_process, local_slice
from heated.training.gradient_step import GradientStep, GraphedStep
from heated.training.recipe import Recipe
from heated.training.train_state import TrainState

PRECISIONS = ("float32", "tf32", "bfloat16")
StepCallback = Callable[[TrainState], None]


def train(
    state: TrainState,
    images: Images,
    labels: Tensor,
    recipe: Recipe,
    *,
    monitor_fn: Callable[[], Mapping[str, float]] = dict,
    on_step_end: StepCallback = lambda _: None,
) -> None:
    """Train from `state` to the last epoch; `state.history` gets one row per epoch.

    `labels` is (N,) int64 in [0, num_classes), on the model's device. `monitor_fn` extends the row
    every `recipe.eval_every` epochs and after the last. `on_step_end` is called after every step,
    and after every epoch, when `state.step` is 0. Raises FloatingPointError if the loss is no
    longer finite.
    """
    epoch_values = recipe.per_epoch_values()
    epochs = range(len(state.history), len(epoch_values))
    quiet = {"disable": not is_main_process()}
    step = make_step(state, recipe)
    bar = progress_bar(epochs, f"seed {state.seed}", unit="epoch", **quiet)
    for epoch in bar:
        _, lr, is_evaluated = epoch_values[epoch]
        if state.alpha_scheduler and state.step == 0:  # else restored, perhaps a learned alpha
            state.alpha_scheduler.step(epoch)
        for group in state.optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        with float32_products(tf32=recipe.precision == "tf32"):
            train_epoch(state, images, labels, recipe, step, on_step_end=on_step_end)
        loss, correct, finite_steps = state.sums.tolist()
        row: Row = {"epoch": epoch}
        if (alpha := state.alpha()) is not None:
            row |= {"alpha": alpha, "temperature": 1 / alpha if alpha else math.inf}
        row["lr"] = lr
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"seed {state.seed}: the loss is not finite from step {finite_steps:.0f} on in "
                f"{row}. Try a smaller lr, or a smaller alpha at the start."
            )
        row["loss"] = loss / len(labels)
        if not math.isnan(correct):  # losses of pytorch-metric-learning predict no class
            row["accuracy"] = correct / len(labels)
        row |= monitor_fn() if is_evaluated else {}
        if bad := [key for key, value in row.items() if not math.isfinite(value)]:
            expected = "expected finite numbers. Check the data, or try a smaller lr."
            raise FloatingPointError(f"seed {state.seed}: got {bad} of {row}, {expected}")
        state.history.append(row)
        bar.set_postfix({key: row[key] for key in ("loss", "alpha") if key in row}, refresh=False)
        state.step = 0
        on_step_end(state)


def make_step(state: TrainState, recipe: Recipe) -> GradientStep:
    """Return the step of a training: with a CUDA graph if the recipe and the device have them.

    A loss of pytorch-metric-learning may read values from the GPU, so it has none.
    """
    model = state.model
    if recipe.cuda_graphs and model.device.type == "cuda" and isinstance(model.head, HeatedSoftmax):
        return GraphedStep(model, recipe.precision)
    return GradientStep(model, recipe.precision)


def train_epoch(
    state: TrainState,
    images: Images,
    labels: Tensor,
    recipe: Recipe,
    step: GradientStep,
    *,
    on_step_end: StepCallback = lambda _: None,
) -> None:
    """Run the remaining steps of the current epoch. Nothing waits for a GPU, except a capture."""
    model = state.model
    model.train()
    seed = epoch_seed(state.seed, len(state.history))
    if state.step == 0:
        state.generator.manual_seed(seed + 1)
        state.sums.zero_()
    sampler, options = name_and_options(recipe.sampler)
    order = Generator().manual_seed(seed)
    batches = SAMPLERS[sampler](labels, recipe.batch_size, order, **options)[state.step :]
    local = [batch[local_slice(len(batch))] for batch in batches]
    # A miner may draw random numbers; the heated softmax never does.
    is_pml_loss = isinstance(model.head, PMLLoss)
    numbers = batches_to_device(local, labels.device)
    for batch, rows, pixels in zip(batches, numbers, images.iter_batches(local), strict=True):
        draws = AugmentationRNG(state.generator, len(batch), local_slice(len(batch)))
        prepared = model.prepare(pixels, draws)
        with forked_rng(seed + 2 + state.step) if is_pml_loss else nullcontext():
            sums = step(prepared, labels[rows], len(batch))
        all_reduce_gradients(model.parameters(), sums)
        state.optimizer.step()
        state.sums[:2] += sums
        state.sums[2] += state.sums[0].isfinite()
        state.step += 1
        on_step_end(state)


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order; the next number seeds its augmentation."""
    state: Any = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return int(state) >> 1
