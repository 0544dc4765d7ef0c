import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.errors import InputError
from heated.samples import Samples
from heated.splits import SPLITS, halves, split


def samples(labels, *, train_classes=None):
    classes = max(labels) + 1
    return Samples(
        class_names=tuple(f"class {c}" for c in range(classes)),
        labels=np.array(labels),
        train_classes=None if train_classes is None else np.array(train_classes),
        image=lambda i: np.zeros((2, 2), dtype=np.uint8),
    )


@st.composite
def labelled(draw):
    """Four or more classes of two or more images in any order, two of them to train on."""
    counts = draw(st.lists(st.integers(2, 4), min_size=4, max_size=9))
    labels = draw(st.permutations([c for c, count in enumerate(counts) for _ in range(count)]))
    train = draw(st.permutations([True, True, False, False, *[True] * (len(counts) - 4)]))
    return samples(labels, train_classes=train)


@pytest.mark.parametrize("rule", SPLITS)
@given(labelled())
def test_no_class_is_on_both_sides_and_every_image_on_one(rule, given_samples):
    masks = split(given_samples, rule)
    labels = given_samples.labels
    assert not set(labels[masks.train]) & set(labels[masks.query])
    np.testing.assert_array_equal(masks.train, ~masks.query)
    np.testing.assert_array_equal(masks.query, masks.gallery)
    assert all(mask.dtype == bool for mask in masks.masks().values())


@given(labelled())
def test_the_source_rule_trains_on_the_classes_that_the_data_set_says(given_samples):
    masks = split(given_samples, "source")
    np.testing.assert_array_equal(masks.train, given_samples.train_classes[given_samples.labels])


@pytest.mark.parametrize(("classes", "trained"), [(4, 2), (5, 2), (196, 98)])
def test_the_first_half_of_the_classes_trains(classes, trained):
    assert np.flatnonzero(halves(samples([classes - 1]))).tolist() == list(range(trained))


def test_halves_go_by_the_class_number_and_not_by_the_order():
    masks = split(samples([3, 0, 2, 1, 3, 0, 2, 1]), "halves")
    assert masks.train.tolist() == [False, True, False, True, False, True, False, True]


def test_a_data_set_without_a_split_of_its_own_is_told_to_use_halves():
    with pytest.raises(InputError, match="no split of its own: write `split: halves`"):
        split(samples([0, 0, 1, 1, 2, 2, 3, 3]), "source")


@pytest.mark.parametrize(
    ("train", "side"),
    [([True, False, False, False], "training"), ([True, True, True, False], "test")],
)
def test_a_side_with_one_class_is_refused(train, side):
    with pytest.raises(InputError, match=f"the {side} side has 1 classes; at least 2"):
        split(samples([0, 0, 1, 1, 2, 2, 3, 3], train_classes=train), "source")


def test_a_side_without_classes_is_refused():
    with pytest.raises(InputError, match="the test side has 0 classes"):
        split(samples([0, 0, 1, 1], train_classes=[True, True]), "source")


def test_a_test_class_of_one_image_is_refused_by_name():
    with pytest.raises(InputError, match="the test class 'class 2' has one image"):
        split(samples([0, 0, 1, 1, 2, 3, 3]), "halves")


def test_a_training_class_may_have_one_image():
    assert split(samples([0, 1, 2, 2, 3, 3]), "halves").train.sum() == 2


def test_the_masks_bear_the_names_of_the_file():
    assert list(split(samples([0, 1, 2, 2, 3, 3]), "halves").masks()) == [
        "train",
        "query",
        "gallery",
    ]
