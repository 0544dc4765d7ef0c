from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.common.samples import SEEN, Samples, Split
from heated.datasets.splits import SPLITS, split, split_classes, validation_fold


def samples(labels, *, train_classes=None):
    classes = max(labels) + 1
    result = Samples(
        class_names=tuple(f"class {c}" for c in range(classes)),
        labels=np.array(labels),
        names=[f"image {i}" for i in range(len(labels))],
        split=None,
        contents=lambda: iter([]),
    )
    if train_classes is None:
        return result
    return replace(result, split=split_classes(result, np.array(train_classes)))


@st.composite
def labeled(draw):
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
PAIRS = samples([0, 0, 1, 1, 2, 2, 3, 3])


def trained(data, rule, **options):
    """The classes that train."""
    masks = split(data, rule, **options)
    return sorted(set(data.labels[masks.train].tolist()))


@given(labeled())
def test_every_image_is_on_one_side_and_no_class_on_both_unless_images_are_split(data):
    assert set(SPLITS) == {*OPTIONS, "images"}
    for rule, options in {**OPTIONS, "images": {"train": 0.5}}.items():
        masks = SPLITS[rule](data, **options)
        np.testing.assert_array_equal(masks.train, ~masks.query, err_msg=rule)
        np.testing.assert_array_equal(masks.query, masks.gallery)
        assert list(masks.masks()) == ["train", "query", "gallery"]
        assert all(mask.dtype == bool for mask in masks.masks().values())
        if rule == "source":
            np.testing.assert_array_equal(masks.train, data.split.train)
        if rule != "images":
            assert not set(data.labels[masks.train]) & set(data.labels[masks.query]), rule
            continue
        assert masks.tested == SEEN
        for label in np.unique(data.labels):
            chosen = masks.train[data.labels == label]
            assert chosen.sum() == len(chosen) // 2
            assert not (np.diff(chosen.astype(int)) > 0).any()  # the first ones


def test_the_first_classes_by_number_train_and_their_share_is_rounded_down():
    for classes, train in [(4, 2), (5, 2), (196, 98)]:
        masks = SPLITS["halves"](samples(range(classes)))
        assert np.flatnonzero(masks.train).tolist() == list(range(train))
    masks = split(samples([3, 0, 2, 1, 3, 0, 2, 1]), "halves")
    assert masks.train.tolist() == [False, True, False, True, False, True, False, True]
    for share, train in [(0.3, 3), (0.29, 2), (0.7, 7), (0.99, 9)]:
        masks = SPLITS["fraction"](samples(range(10)), train=share)
        assert np.flatnonzero(masks.train).tolist() == list(range(train)), share


def test_classes_train_by_name_or_by_a_pattern_at_the_start_of_a_name():
    assert trained(PAIRS, "classes", train=["class 3", "class 1"]) == [1, 3]
    assert trained(PAIRS, "pattern", train=r"class [01]|lass 2") == [0, 1]
    with pytest.raises(InputError, match="got the classes class 9, expected some of class 0, clas"):
        split(PAIRS, "classes", train=["class 0", "class 9"])


def test_a_split_without_enough_classes_or_images_is_an_error():
    with pytest.raises(InputError, match="no split of its own. Use `split: {name: halves}`"):
        split(PAIRS, "source")
    single = "the test class 'class 2': got one image.* download@<the data set>"
    for labels, train, match in [
        (
            [0, 0, 1, 1, 2, 2, 3, 3],
            [True, False, False, False],
            "training: got 1 classes",
        ),
        ([0, 0, 1, 1, 2, 2, 3, 3], [True, True, True, False], "test: got 1 classes"),
        ([0, 0, 1, 1], [True, True], "test: got 0 classes"),
        ([0, 0, 1, 1, 2, 3, 3], [True, True, False, False], single),
    ]:
        with pytest.raises(InputError, match=match):
            split(samples(labels, train_classes=train), "source")


def test_a_training_class_or_a_query_with_a_separate_gallery_may_have_one_image():
    assert split(samples([0, 1, 2, 2, 3, 3]), "halves").train.sum() == 2
    separate = Split(*np.repeat(np.eye(3, dtype=bool), 2, axis=1))
    assert split(replace(samples([0, 1, 2, 3, 2, 3]), split=separate), "source") is separate


TWELVE = samples([c for c in range(12) for _ in range(3)], train_classes=[True] * 8 + [False] * 4)


def test_folds_partition_the_training_classes_and_exclude_the_test_classes():
    full = TWELVE.split
    for folds in (2, 3, 4):
        results = [validation_fold(TWELVE, full, folds=folds, fold=fold) for fold in range(folds)]
        for fold, masks in enumerate(results):
            train, test = (set(TWELVE.labels[mask]) for mask in (masks.train, masks.query))
            assert train | test == set(range(8))
            assert not train & test
            assert not (masks.query & full.query).any()
            np.testing.assert_array_equal(masks.query, masks.gallery)
            assert masks.tested.endswith(f"fold {fold} of {folds} of the training classes")
        queries = np.sum([masks.query for masks in results], axis=0)
        np.testing.assert_array_equal(queries, full.train)
    with pytest.raises(InputError, match="got 5 folds of 8 training classes"):
        validation_fold(TWELVE, full, folds=5, fold=0)
