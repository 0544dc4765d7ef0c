import resource
import sys
from functools import partial

import pytest
import torch

from heated.runtime.device import keep_memory

BLOCK = 64 * 2**20  # bytes


def faults(kept):
    """Pages that the system had to give for a block of 64 MiB that was there a moment ago, once
    the heap has room for it: what else lies there splits the first ones."""
    keep_memory(kept)
    fill = partial(torch.zeros, BLOCK, dtype=torch.uint8)
    for _ in range(8):
        fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux is asked")
def test_memory_that_is_kept_is_not_asked_for_again():
    pages = BLOCK // resource.getpagesize()
    asked = faults(False)
    if asked < pages // 600:  # huge pages count once
        pytest.skip("this C library keeps memory by itself")
    assert faults(True) < asked / 10
    keep_memory(False)


def test_nothing_is_asked_of_another_system(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_memory(True)
