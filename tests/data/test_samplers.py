import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.data.samplers import SAMPLERS, per_class

COUNTS = st.lists(st.integers(2, 9), min_size=2, max_size=8)
OPTIONS = {"shuffled": {}, "per_class": {"images": 3}}


def drawn(labels, size, images, seed=0):
    return per_class(labels, size, torch.Generator().manual_seed(seed), images=images)


def labelled(counts):
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("name", SAMPLERS)
@given(counts=COUNTS)
def test_every_image_is_in_one_batch_and_the_generator_alone_decides_in_which(name, counts):
    def order(seed, elsewhere):
        torch.manual_seed(elsewhere)
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(SAMPLERS[name](labelled(counts), 7, generator, **OPTIONS[name])).tolist()

    first = order(0, 1)
    assert sorted(first) == list(range(sum(counts)))
    assert order(0, 2) == first
    assert sum(counts) < 20 or order(1, 1) != first


@given(counts=COUNTS, images=st.integers(2, 4))
def test_every_image_has_another_of_its_class_and_one_of_another_in_its_batch(counts, images):
    labels = labelled(counts)
    for batch in drawn(labels, 9, images):
        _, found = labels[batch].unique(return_counts=True)
        assert len(found) > 1
        assert found.min() > 1


def test_where_classes_are_alike_batches_are_so_many_images_of_different_classes():
    labels = labelled([20] * 12)
    batches = drawn(labels, 16, 4)
    assert [len(batch) for batch in batches] == [16] * 15
    for batch in batches:
        _, found = labels[batch].unique(return_counts=True)
        assert found.tolist() == [4] * 4


def test_a_class_with_one_image_and_a_batch_without_room_for_two_classes_are_refused():
    with pytest.raises(InputError, match=r"training class 1 \(from 0\) has one image, .*allowed"):
        drawn(labelled([4, 1, 4]), 8, 2)
    with pytest.raises(InputError, match="came 5 images a class in batches of 8; allowed: at most"):
        drawn(labelled([8, 8]), 8, 5)
