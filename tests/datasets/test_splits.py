from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.common.samples import SEEN, Samples, Split
from heated.datasets.splits import SPLITS, by_class, halves, held_out, images, split


def samples(labels, *, train_classes=None):
    classes = max(labels) + 1
    given = Samples(
        class_names=tuple(f"class {c}" for c in range(classes)),
        labels=np.array(labels),
        names=[f"image {i}" for i in range(len(labels))],
        split=None,
        contents=lambda: iter([]),
    )
    own = None if train_classes is None else by_class(given, np.array(train_classes))
    return replace(given, split=own)


@st.composite
def labelled(draw):
    """Four or more classes of two or more images in any order, two of them to train on."""
    counts = draw(st.lists(st.integers(2, 4), min_size=4, max_size=9))
    labels = draw(st.permutations([c for c, count in enumerate(counts) for _ in range(count)]))
    train = draw(st.permutations([True, True, False, False, *[True] * (len(counts) - 4)]))
    return samples(labels, train_classes=train)


OPTIONS = {
    "source": {},
    "halves": {},
    "fraction": {"train": 0.5},
    "classes": {"train": ["class 1", "class 2"]},
    "pattern": {"train": "class [03]"},
}


@given(labelled())
def test_no_class_is_on_both_sides_and_every_image_on_one(given_samples):
    for rule, options in OPTIONS.items():
        masks = split(given_samples, rule, **options)
        labels = given_samples.labels
        assert not set(labels[masks.train]) & set(labels[masks.query]), rule
        np.testing.assert_array_equal(masks.train, ~masks.query, err_msg=rule)
    np.testing.assert_array_equal(masks.query, masks.gallery)
    assert all(mask.dtype == bool for mask in masks.masks().values())


def test_every_rule_is_tested():
    assert set(SPLITS) == {*OPTIONS, "images"}


@given(labelled())
def test_a_share_of_every_classs_images_trains_and_the_others_are_tested(given_samples):
    masks = images(given_samples, train=0.5)
    labels = given_samples.labels
    for label in np.unique(labels):
        chosen = masks.train[labels == label]
        assert chosen.sum() == len(chosen) // 2
        assert not (np.diff(chosen.astype(int)) > 0).any()  # the first ones
    np.testing.assert_array_equal(masks.train, ~masks.query)
    np.testing.assert_array_equal(masks.query, masks.gallery)
    assert masks.tested == SEEN


@given(labelled())
def test_the_source_rule_trains_on_the_classes_that_the_data_set_says(given_samples):
    masks = split(given_samples, "source")
    np.testing.assert_array_equal(masks.train, given_samples.split.train)


@pytest.mark.parametrize(("classes", "trained"), [(4, 2), (5, 2), (196, 98)])
def test_the_first_half_of_the_classes_trains(classes, trained):
    assert np.flatnonzero(halves(samples(range(classes))).train).tolist() == list(range(trained))


def test_halves_go_by_the_class_number_and_not_by_the_order():
    masks = split(samples([3, 0, 2, 1, 3, 0, 2, 1]), "halves")
    assert masks.train.tolist() == [False, True, False, True, False, True, False, True]


def test_a_data_set_without_a_split_of_its_own_is_told_to_use_halves():
    with pytest.raises(InputError, match="no split of its own: write `split: {name: halves}`"):
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
    with pytest.raises(
        InputError, match="the test class 'class 2' has one image.* download@<the data set>"
    ):
        split(samples([0, 0, 1, 1, 2, 3, 3]), "halves")


def test_a_training_class_may_have_one_image():
    assert split(samples([0, 1, 2, 2, 3, 3]), "halves").train.sum() == 2


def test_the_masks_bear_the_names_of_the_file():
    assert list(split(samples([0, 1, 2, 2, 3, 3]), "halves").masks()) == [
        "train",
        "query",
        "gallery",
    ]


# --- by share, by name -----------------------------------------------------------------------


def test_the_share_of_the_first_classes_trains_rounded_down(subtests):
    for share, trained in [(0.3, 3), (0.29, 2), (0.7, 7), (0.99, 9)]:
        with subtests.test(share=share, trained=trained):
            given_samples = samples(range(10))
            masks = SPLITS["fraction"](given_samples, train=share)
            assert given_samples.labels[masks.train].tolist() == list(range(trained))


def test_the_named_classes_train():
    given_samples = samples([0, 0, 1, 1, 2, 2, 3, 3])
    masks = split(given_samples, "classes", train=["class 3", "class 1"])
    assert set(given_samples.labels[masks.train]) == {1, 3}


def test_a_name_that_no_class_has_is_told_with_those_there_are():
    with pytest.raises(InputError, match="came the classes class 9; there are class 0, class 1"):
        split(samples([0, 0, 1, 1, 2, 2]), "classes", train=["class 0", "class 9"])


def test_a_pattern_is_looked_for_at_the_start_of_a_name():
    given_samples = samples([0, 0, 1, 1, 2, 2, 3, 3])
    masks = split(given_samples, "pattern", train=r"class [01]|lass 2")
    assert set(given_samples.labels[masks.train]) == {0, 1}


# --- query and gallery apart -----------------------------------------------------------------


def test_a_query_of_one_image_is_allowed_where_the_gallery_is_apart():
    given_samples = samples([0, 1, 2, 3, 2, 3])
    own = Split(
        train=np.array([True, True, False, False, False, False]),
        query=np.array([False, False, True, True, False, False]),
        gallery=np.array([False, False, False, False, True, True]),
    )
    assert split(replace(given_samples, split=own), "source") is own


# --- validation classes ----------------------------------------------------------------------

TWELVE = samples([c for c in range(12) for _ in range(3)], train_classes=[True] * 8 + [False] * 4)


@given(st.integers(2, 4), st.data())
def test_a_fold_of_the_training_classes_is_tested_and_the_test_classes_are_left_out(folds, data):
    whole, fold = TWELVE.split, data.draw(st.integers(0, folds - 1))
    masks = held_out(TWELVE, whole, folds=folds, fold=fold)
    trained, tested = set(TWELVE.labels[masks.train]), set(TWELVE.labels[masks.query])
    assert trained | tested == set(range(8))
    assert not trained & tested
    assert not (masks.query & whole.query).any()
    np.testing.assert_array_equal(masks.query, masks.gallery)
    assert masks.tested == f"validation classes, fold {fold} of {folds} of the training classes"


def test_the_folds_part_the_training_classes():
    folds = [held_out(TWELVE, TWELVE.split, folds=3, fold=fold).query for fold in range(3)]
    np.testing.assert_array_equal(np.sum(folds, axis=0), TWELVE.split.train)


def test_folds_of_less_than_two_classes_are_refused():
    with pytest.raises(InputError, match="came 5 folds of 8 training classes"):
        held_out(TWELVE, TWELVE.split, folds=5, fold=0)
