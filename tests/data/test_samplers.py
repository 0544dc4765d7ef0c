import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.data.samplers import SAMPLERS

COUNTS = st.lists(st.integers(2, 9), min_size=2, max_size=8)
OPTIONS = {"shuffled": {}, "per_class": {"images": 3}}


def per_class(labels, size, images, seed=0):
    return SAMPLERS["per_class"](labels, size, torch.Generator().manual_seed(seed), images=images)


def labeled(counts):
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("name", SAMPLERS)
@given(counts=COUNTS)
def test_every_image_is_in_one_batch_and_the_generator_alone_decides_in_which(name, counts):
    def order(seed, elsewhere):
        torch.manual_seed(elsewhere)
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(SAMPLERS[name](labeled(counts), 7, generator, **OPTIONS[name])).tolist()

    first = order(0, 1)
    assert sorted(first) == list(range(sum(counts)))
    assert order(0, 2) == first
    assert sum(counts) < 20 or order(1, 1) != first


@given(counts=COUNTS, images=st.integers(2, 4))
def test_every_image_has_another_of_its_class_and_one_of_another_in_its_batch(counts, images):
    labels = labeled(counts)
    for batch in per_class(labels, 9, images):
        _, images_per_class = labels[batch].unique(return_counts=True)
        assert len(images_per_class) > 1
        assert images_per_class.min() > 1


def test_batches_of_equal_classes_have_the_same_number_of_images_per_class():
    labels = labeled([20] * 12)
    batches = per_class(labels, 16, 4)
    assert len(batches) == 15
    assert all(labels[batch].unique(return_counts=True)[1].tolist() == [4] * 4 for batch in batches)


def test_a_class_with_one_image_and_a_batch_without_room_for_two_classes_are_errors():
    for counts, images, match in [
        ([4, 1, 4], 2, r"training class 1 \(from 0\): got one image, expected"),
        ([8, 8], 5, "got 5 images per class in batches of 8, expected at most 4"),
    ]:
        with pytest.raises(InputError, match=match):
            per_class(labeled(counts), 8, images)
