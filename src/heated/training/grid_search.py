"""A method's settings chosen on validation classes, before it is trained on all that train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heated.common.history import NullLogger
from heated.common.samples import Samples
from heated.data.packed_dataset import Packed
from heated.datasets.splits import held_out
from heated.training.recipe import Recipe
from heated.training.training_run import Run

Point = Mapping[str, Any]  # settings by their keys, such as `loss.margin`
METRIC = "recall_at_1"  # of the last epoch, by which points are compared


def validation(data: Packed, *, folds: int, fold: int) -> Packed:
    """The data without the test classes: of the training classes one fold is tested, which the
    others train for. InputError where there are too few."""
    samples = Samples(data.class_names, data.labels, (), data.split, lambda: iter(()))
    return replace(data, split=held_out(samples, data.split, folds=folds, fold=fold))


def tuned(run: Run, points: Sequence[Point], recipes: Sequence[Recipe], *, seed: int) -> Any:
    """What was tried on the run's data, a recipe a point, and the point that did best, the first of
    equals: {"metric", "seed", "tested", "tried": [{"point", METRIC: None where its loss was no
    longer finite, "seconds"}], "chosen", "trainings"}. FloatingPointError where none came through.
    """
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
    """How a seed of the run did in its last epoch, and how long its training took."""
    with TemporaryDirectory() as folder:
        try:
            done = run.finish([seed], Path(folder), NullLogger())[seed]
        except FloatingPointError:
            return {METRIC: None, "seconds": None}
    return {METRIC: done["history"][-1][METRIC], "seconds": done["seconds"]}
