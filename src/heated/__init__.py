"""Heated-Up Softmax Embedding (arXiv 1809.04157): `heated.HeatedSoftmax` is the loss for a loop of
one's own; everything else is reached by its module."""

from importlib import import_module
from typing import Any

PUBLIC = {"HeatedSoftmax": "heated.losses.heated_softmax"}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that a stage which needs no network does not wait for torch.
    if name not in PUBLIC:
        raise AttributeError(f"module 'heated' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
