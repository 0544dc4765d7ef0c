"""Classes to train on and classes to test on, disjoint: the zero-shot protocol of section 4."""

import numpy as np

from heated.errors import InputError
from heated.samples import Mask, Samples, Split


def source(samples: Samples) -> Mask:
    """(C,) the data set's own training classes; InputError where it has no split of its own."""
    if samples.train_classes is None:
        raise InputError("this data set has no split of its own: write `split: halves`")
    return samples.train_classes


def halves(samples: Samples) -> Mask:
    """(C,) the first half of the classes trains, as for Car196 and CUB in the paper."""
    classes = len(samples.class_names)
    return np.arange(classes) < classes // 2


def split(samples: Samples, rule: str) -> Split:
    """Train and test masks by class; every test image is query and gallery at once.

    InputError when a side has fewer than two classes, or a test class has no second image to be
    found.
    """
    train = SPLITS[rule](samples)[samples.labels]
    for side, mask in (("training", train), ("test", ~train)):
        classes, images = np.unique(samples.labels[mask], return_counts=True)
        if len(classes) < 2:
            raise InputError(f"the {side} side has {len(classes)} classes; at least 2 are needed")
        if side == "test" and images.min() < 2:
            alone = samples.class_names[classes[images.argmin()]]
            raise InputError(f"the test class {alone!r} has one image: none is left to be found")
    return Split(train=train, query=~train, gallery=~train)


SPLITS = {"source": source, "halves": halves}
