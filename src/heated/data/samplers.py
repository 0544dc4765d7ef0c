"""Partition an epoch's images into batches of indices."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from heated.common.errors import InputError


def per_class_batches(
    labels: Tensor, size: int, generator: Generator, *, images: int
) -> list[Tensor]:
    """Return batches of about `size` indices, with `images` of each of their classes.

    Each class is shuffled and cut into groups of `images`; a single image left over joins the last
    group. Batches are whole groups, of different classes as long as possible. A batch of one class
    takes another group, or joins the previous batch. Raises InputError if a class has one image, or
    two classes do not fit into a batch.
    """
    if images * 2 > size:
        raise InputError(
            f"sampler per_class: got {images} images per class in batches of {size}, expected at "
            f"most {size // 2}, so that two classes fit. Lower `images`, or raise batch_size."
        )
    labels = labels.cpu()
    groups = []  # per class
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) == 1:
            raise InputError(
                f"sampler per_class: training class {label} (from 0): got one image, expected at "
                "least 2. Exclude the class, or use the sampler shuffled."
            )
        shuffled = members[torch.randperm(len(members), generator=generator)]
        groups.append(split_batches(shuffled, images))
    order: list[Tensor] = []  # each class's first group in random order, then the second groups
    for number in range(max(map(len, groups))):
        level = [group[number] for group in groups if number < len(group)]
        order += [level[i] for i in torch.randperm(len(level), generator=generator).tolist()]
    result, batch = [], torch.empty(0, dtype=torch.int64)
    for group in order:
        if len(batch) + len(group) > size and len(labels[batch].unique()) > 1:
            result.append(batch)
            batch = group
        else:
            batch = torch.cat([batch, group])
    if result and len(labels[batch].unique()) == 1:
        batch = torch.cat([result.pop(), batch])
    return [*result, batch]


def split_batches(order: Tensor, size: int) -> list[Tensor]:
    """Split `order` into batches of `size`; the last may be smaller, as in the authors' code.

    A single last sample joins the previous batch, since batch norm needs two.
    """
    pieces = list(order.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


SAMPLERS: dict[str, Callable[..., list[Tensor]]] = {
    "shuffled": lambda labels, size, generator: split_batches(
        torch.randperm(len(labels), generator=generator), size
    ),
    "per_class": per_class_batches,
}
