"""A method's settings chosen on validation classes, before it is trained on all that train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heated.common.history import NullLogger
from heated.common.samples import Samples
from heated.data.packed_dataset import Packed
from heated.datasets.splits import validation_fold
from heated.training.recipe import Recipe
from heated.training.training_run import Run

Point = Mapping[str, Any]  # settings by their keys, such as `loss.margin`
METRIC = "recall_at_1"  # of the last epoch, by which points are compared


def validation(data: Packed, *, folds: int, fold: int) -> Packed:
    """Return the data without the test classes: one fold of the training classes is tested, and the
    others train. Raises InputError if there are too few."""
    samples = Samples(data.class_names, data.labels, (), data.split, lambda: iter(()))
    return replace(data, split=validation_fold(samples, data.split, folds=folds, fold=fold))


def tuned(run: Run, points: Sequence[Point], recipes: Sequence[Recipe], *, seed: int) -> Any:
    """Train one recipe per point; return what was tried and the best point, the first of equals:
    {"metric", "seed", "tested", "tried": [{"point", METRIC: None if its loss was not finite,
    "seconds"}], "chosen", "trainings"}. Raises FloatingPointError if none was finite."""
    tried: list[dict[str, Any]] = [
        {"point": dict(point), **outcome(replace(run, recipe=recipe), seed)}
        for point, recipe in zip(points, recipes, strict=True)
    ]
    finite = [each for each in tried if each[METRIC] is not None]
    if not finite:
        raise FloatingPointError("the loss was not finite with any setting; widen the grid below")
    return {
        "metric": METRIC,
        "seed": seed,
        "tested": run.data.split.tested,
        "tried": tried,
        "chosen": max(finite, key=lambda each: each[METRIC])["point"],
        "trainings": len(tried),
    }


def outcome(run: Run, seed: int) -> dict[str, Any]:
    """Return METRIC of a seed's last epoch, and the seconds of its training."""
    with TemporaryDirectory() as folder:
        try:
            done = run.finish([seed], Path(folder), NullLogger())[seed]
        except FloatingPointError:
            return {METRIC: None, "seconds": None}
    return {METRIC: done["history"][-1][METRIC], "seconds": done["seconds"]}
