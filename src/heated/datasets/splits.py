"""Splits by class (the zero-shot protocol of section 4), by image, or as the data set says."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from heated.common.errors import InputError
from heated.common.samples import SEEN, Mask, Samples, Split

REREAD_HINT = (
    "After a change to your own images, run dvc repro --force --single-item download@<the data set>"
)


def official(samples: Samples) -> Split:
    """Return the data set's own split."""
    if samples.split is None:
        raise InputError("this data set has no split of its own. Use `split: {name: halves}`.")
    return samples.split


def fraction(samples: Samples, *, train: float) -> Split:
    """Train on the share `train` of the classes, the first ones, rounded down."""
    classes = len(samples.class_names)
    return split_classes(samples, np.arange(classes) < int(classes * train + 1e-9))


def named_classes(samples: Samples, *, train: Sequence[str]) -> Split:
    """Train on the named classes."""
    unknown = sorted(set(train) - set(samples.class_names))
    if unknown:
        some = ", ".join(samples.class_names[:5])
        raise InputError(
            f"split: got the classes {', '.join(unknown)}, expected some of {some}, ..."
        )
    return split_classes(samples, np.isin(samples.class_names, list(train)))


def pattern(samples: Samples, *, train: str) -> Split:
    """Train on the classes whose names start with a match of the regular expression."""
    matches = [re.match(train, name) is not None for name in samples.class_names]
    return split_classes(samples, np.array(matches))


def images(samples: Samples, *, train: float) -> Split:
    """Train on the first images of each class, the share `train` rounded down; test the others."""
    trained = np.zeros(len(samples.labels), dtype=np.bool_)
    for label in np.unique(samples.labels):
        numbers = np.flatnonzero(samples.labels == label)
        trained[numbers[: int(len(numbers) * train + 1e-9)]] = True
    return Split(train=trained, query=~trained, gallery=~trained, tested=SEEN)


def split_classes(samples: Samples, train: Mask) -> Split:
    """Return a split by class; `train` is (C,) bool. Other classes are query and gallery."""
    trained = train[samples.labels]
    return Split(train=trained, query=~trained, gallery=~trained)


def split(samples: Samples, rule: str, **options: Any) -> Split:
    """Split the samples by the rule with this name and check the result with `check_split`."""
    result = SPLITS[rule](samples, **options)
    check_split(samples, result)
    return result


def validation_fold(samples: Samples, full: Split, *, folds: int, fold: int) -> Split:
    """Test on one fold of the training classes, the same for every seed, and train on the others.

    The test classes are not used, so that options can be selected without them.
    """
    trained = np.unique(samples.labels[full.train])
    if len(trained) < 2 * folds:
        raise InputError(
            f"validation: got {folds} folds of {len(trained)} training classes, expected at least "
            "two classes per fold"
        )
    shuffled = np.random.default_rng(0).permutation(trained)
    test = full.train & np.isin(samples.labels, shuffled[fold::folds])
    tested = f"validation classes, fold {fold} of {folds} of the training classes"
    result = replace(full, train=full.train & ~test, query=test, gallery=test, tested=tested)
    check_split(samples, result)
    return result


def check_split(samples: Samples, split: Split) -> None:
    """Raise InputError if training or test has less than two classes, or a query has no match."""
    for side, mask in (("training", split.train), ("test", split.query)):
        count = len(np.unique(samples.labels[mask]))
        if count < 2:
            raise InputError(f"{side}: got {count} classes, expected at least 2. {REREAD_HINT}")
    if np.array_equal(split.query, split.gallery):
        labels, counts = np.unique(samples.labels[split.query], return_counts=True)
        for label in labels[counts == 1]:
            raise InputError(
                f"the test class {samples.class_names[label]!r}: got one image, expected another "
                f"to be found. {REREAD_HINT}"
            )


SPLITS: dict[str, Callable[..., Split]] = {
    "source": official,
    "halves": lambda samples: fraction(samples, train=0.5),  # as for Car196 and CUB in the paper
    "fraction": fraction,
    "classes": named_classes,
    "pattern": pattern,
    "images": images,
}
