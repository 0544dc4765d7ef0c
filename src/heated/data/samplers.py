"""The batches of an epoch as numbers of images; every image is in one batch."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from heated.common.errors import InputError


def shuffled(labels: Tensor, size: int, generator: Generator) -> list[Tensor]:
    """Return batches of `size` numbers in [0, N) in random order; labels: (N,)."""
    return batches(torch.randperm(len(labels), generator=generator), size)


def per_class(labels: Tensor, size: int, generator: Generator, *, images: int) -> list[Tensor]:
    """Return batches of about `size` numbers in [0, N), with `images` of each of their classes.

    Each class is shuffled and cut into groups of `images`; a single one left over joins the group
    before. Batches are whole groups, of different classes as long as there are any; a batch of one
    class takes another group, or joins the batch before. Raises InputError if a class has only one
    image, or a batch has no room for two classes.
    """
    if images * 2 > size:
        raise InputError(
            f"sampler per_class: came {images} images a class in batches of {size}; allowed: at "
            f"most {size // 2}, so that two classes fit; lower `images`, or raise batch_size"
        )
    known = labels.cpu()
    each = [groups(known, label, images, generator) for label in known.unique().tolist()]
    order: list[Tensor] = []  # each class's first group, in random order, then each one's second
    for number in range(max(map(len, each))):
        having = [own[number] for own in each if number < len(own)]
        order += [having[i] for i in torch.randperm(len(having), generator=generator).tolist()]
    found, batch = [], torch.empty(0, dtype=torch.int64)
    for group in order:
        if len(batch) + len(group) > size and len(known[batch].unique()) > 1:
            found.append(batch)
            batch = group
        else:
            batch = torch.cat([batch, group])
    if found and len(known[batch].unique()) == 1:
        batch = torch.cat([found.pop(), batch])
    return [*found, batch]


def groups(labels: Tensor, label: int, images: int, generator: Generator) -> list[Tensor]:
    """Return a class's images in random order, in groups of `images` and none of a single one."""
    numbers = (labels == label).nonzero()[:, 0]
    if len(numbers) == 1:
        raise InputError(
            f"sampler per_class: training class {label} (from 0) has one image, and nothing to be "
            "near to; allowed: at least 2 images; leave the class out, or use the sampler shuffled"
        )
    return batches(numbers[torch.randperm(len(numbers), generator=generator)], images)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Split `order` into pieces of `size`; the last may be smaller, as in the authors' code, but a
    single sample joins the piece before it, since batch norm needs two."""
    pieces = list(order.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


SAMPLERS: dict[str, Callable[..., list[Tensor]]] = {
    "shuffled": shuffled,
    "per_class": per_class,
}
