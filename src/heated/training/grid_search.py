"""Choose a method's settings on validation classes, before it is trained on all classes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heated.common.history import NullLogger
from heated.common.samples import Samples
from heated.data.packed_dataset import PackedDataset
from heated.datasets.splits import validation_fold
from heated.training.recipe import Recipe
from heated.training.training_run import TrainingRun

METRIC = "recall_at_1"  # of the last epoch; the point with the highest value is chosen


def with_validation_split(data: PackedDataset, *, folds: int, fold: int) -> PackedDataset:
    """Return the data with one fold of the training classes in place of the test classes."""
    samples = Samples(data.class_names, data.labels, (), data.split, lambda: iter(()))
    return replace(data, split=validation_fold(samples, data.split, folds=folds, fold=fold))


def search_grid(
    run: TrainingRun, points: Sequence[Mapping[str, Any]], recipes: Sequence[Recipe], *, seed: int
) -> dict[str, Any]:
    """Train one recipe per point, settings such as {"loss.margin": 0.2}; choose the best point.

    Return the content of tuned.json, where METRIC and "seconds" are None if the loss was not
    finite. Raises FloatingPointError if it was not finite at any point.
    """
    tried: list[dict[str, Any]] = []
    for point, recipe in zip(points, recipes, strict=True):
        tried.append({"point": dict(point), METRIC: None, "seconds": None})
        with TemporaryDirectory() as folder, suppress(FloatingPointError):
            point_run = replace(run, recipe=recipe)
            result = point_run.train_seeds([seed], Path(folder), NullLogger())[seed]
            tried[-1] |= {METRIC: result["history"][-1][METRIC], "seconds": result["seconds"]}
    finite = [each for each in tried if each[METRIC] is not None]
    if not finite:
        raise FloatingPointError("the loss was not finite at any point. Extend the grid downward.")
    return {
        "metric": METRIC,
        "seed": seed,
        "tested": run.data.split.tested,
        "tried": tried,
        "chosen": max(finite, key=lambda each: each[METRIC])["point"],
        "trainings": len(tried),
    }
