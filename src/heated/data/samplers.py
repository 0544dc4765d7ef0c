"""Which images make up the batches of an epoch; every image is seen once."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from heated.common.errors import InputError


def shuffled(labels: Tensor, size: int, generator: Generator) -> list[Tensor]:
    """Batches of `size` numbers in [0, N) in random order, whatever their labels (N,)."""
    return batches(torch.randperm(len(labels), generator=generator), size)


def per_class(labels: Tensor, size: int, generator: Generator, *, images: int) -> list[Tensor]:
    """Batches of about `size` numbers in [0, N), with so many images of each class in them.

    Each class is shuffled and cut into groups of `images`; one that is left over joins the group
    before. Batches are whole groups of different classes, as long as there are such; one that has a
    single class takes more, or joins the batch before, since it needs others to compare with.
    InputError where a class has one image only, or a batch no room for two classes.
    """
    if images * 2 > size:
        raise InputError(
            f"sampler per_class: came {images} images a class in batches of {size}; allowed: at "
            f"most {size // 2}, so that two classes fit; lower `images`, or raise batch_size"
        )
    known = labels.cpu()
    found, batch = [], torch.empty(0, dtype=torch.int64)
    for group in rounds(known, images, generator):
        if len(batch) + len(group) > size and len(known[batch].unique()) > 1:
            found.append(batch)
            batch = group
        else:
            batch = torch.cat([batch, group])
    if found and len(known[batch].unique()) == 1:
        batch = torch.cat([found.pop(), batch])
    return [*found, batch]


def rounds(labels: Tensor, images: int, generator: Generator) -> list[Tensor]:
    """The groups of all classes: each class's first, in random order, then each one's second."""
    each = [groups(labels, label, images, generator) for label in labels.unique().tolist()]
    found = []
    for number in range(max(map(len, each))):
        having = [own[number] for own in each if number < len(own)]
        found += [having[i] for i in torch.randperm(len(having), generator=generator).tolist()]
    return found


def groups(labels: Tensor, label: int, images: int, generator: Generator) -> list[Tensor]:
    """The numbers of a class's images in random order, in groups of `images`, none of one alone."""
    numbers = (labels == label).nonzero()[:, 0]
    if len(numbers) == 1:
        raise InputError(
            f"sampler per_class: training class {label} (from 0) has one image, and nothing to be "
            "near to; allowed: at least 2 images; leave the class out, or use the sampler shuffled"
        )
    return batches(numbers[torch.randperm(len(numbers), generator=generator)], images)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` in pieces of `size`; the last may be smaller, as in the authors' code, but a single
    sample left over joins the piece before it, since batch norm needs two."""
    pieces = list(order.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


SAMPLERS: dict[str, Callable[..., list[Tensor]]] = {
    "shuffled": shuffled,
    "per_class": per_class,
}
