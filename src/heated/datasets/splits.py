"""Images to train on, and queries and gallery to test on: by class, disjoint (the zero-shot
protocol of section 4), as the data set has it, or of the same classes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from heated.common.errors import InputError
from heated.common.samples import SEEN, Mask, Samples, Split

AGAIN = (
    "Images of one's own are read once; after a change to them: "
    "dvc repro --force --single-item download@<the data set>"
)


def source(samples: Samples) -> Split:
    """The data set's own; InputError where it has none."""
    if samples.split is None:
        raise InputError("this data set has no split of its own: write `split: {name: halves}`")
    return samples.split


def halves(samples: Samples) -> Split:
    """The first half of the classes trains, as for Car196 and CUB in the paper."""
    return fraction(samples, train=0.5)


def fraction(samples: Samples, *, train: float) -> Split:
    """The first so many of the classes train, rounded down: `train` is their share."""
    classes = len(samples.class_names)
    return by_class(samples, np.arange(classes) < int(classes * train + 1e-9))


def classes(samples: Samples, *, train: Sequence[str]) -> Split:
    """The named classes train; InputError for a name that no class has."""
    unknown = sorted(set(train) - set(samples.class_names))
    if unknown:
        some = ", ".join(samples.class_names[:5])
        raise InputError(f"split: came the classes {', '.join(unknown)}; there are {some}, ...")
    return by_class(samples, np.isin(samples.class_names, list(train)))


def pattern(samples: Samples, *, train: str) -> Split:
    """The classes whose names match the regular expression from their start on train."""
    return by_class(
        samples, np.array([bool(re.match(train, name)) for name in samples.class_names])
    )


def images(samples: Samples, *, train: float) -> Split:
    """The first so many of every class's images train, rounded down, and the others are tested: no
    class is unseen, as with MNIST. `train` is their share."""
    trained = np.zeros(len(samples.labels), dtype=np.bool_)
    for label in np.unique(samples.labels):
        numbers = np.flatnonzero(samples.labels == label)
        trained[numbers[: int(len(numbers) * train + 1e-9)]] = True
    return Split(train=trained, query=~trained, gallery=~trained, tested=SEEN)


def by_class(samples: Samples, train: Mask) -> Split:
    """From (C,) bool: the classes that train; the others' images are query and gallery at once."""
    trained = train[samples.labels]
    return Split(train=trained, query=~trained, gallery=~trained)


def split(samples: Samples, rule: str, **options: Any) -> Split:
    """Train, query and gallery masks by the rule of this name.

    InputError when a side has fewer than two classes, or where query and gallery are the same, a
    class has no second image to be found.
    """
    parted = SPLITS[rule](samples, **options)
    check(samples, parted)
    return parted


def held_out(samples: Samples, whole: Split, *, folds: int, fold: int) -> Split:
    """Of the training classes one fold, drawn once for all, is tested; the others train. The test
    classes are left out. What is chosen by these numbers is chosen without the test classes.

    InputError as for `split`, and when there are fewer than two training classes a fold.
    """
    trained = np.unique(samples.labels[whole.train])
    if len(trained) < 2 * folds:
        raise InputError(
            f"validation: came {folds} folds of {len(trained)} training classes; allowed: at "
            f"least two classes a fold"
        )
    shuffled = np.random.default_rng(0).permutation(trained)
    out = whole.train & np.isin(samples.labels, shuffled[fold::folds])
    told = f"validation classes, fold {fold} of {folds} of the training classes"
    parted = replace(whole, train=whole.train & ~out, query=out, gallery=out, tested=told)
    check(samples, parted)
    return parted


def check(samples: Samples, parted: Split) -> None:
    """InputError unless there is something to learn and something to find."""
    for side, mask in (("training", parted.train), ("test", parted.query)):
        count = len(np.unique(samples.labels[mask]))
        if count < 2:
            raise InputError(f"the {side} side has {count} classes; at least 2 are needed. {AGAIN}")
    if np.array_equal(parted.query, parted.gallery):
        found, counts = np.unique(samples.labels[parted.query], return_counts=True)
        for alone in found[counts == 1]:
            raise InputError(
                f"the test class {samples.class_names[alone]!r} has one image: none is left to be "
                f"found. {AGAIN}"
            )


SPLITS: dict[str, Callable[..., Split]] = {
    "source": source,
    "halves": halves,
    "fraction": fraction,
    "classes": classes,
    "pattern": pattern,
    "images": images,
}
