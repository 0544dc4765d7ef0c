"""Work shared among threads leaves the settings of the process as they were."""

import sys

import pytest
import torch

from heated.evaluation.threads import SWITCH_S, map_in_threads

CPU = torch.device("cpu")


def test_settings_hold_within_the_threads_only_and_an_error_restores_them():
    def settings(_: int) -> tuple[int, float]:
        return torch.get_num_threads(), sys.getswitchinterval()

    def fail(number: int) -> float:
        return 1 / number

    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(2)
    try:
        before = settings(0)
        assert map_in_threads(settings, range(3), CPU) == [(1, pytest.approx(SWITCH_S))] * 3
        assert settings(0) == before == (2, interval)
        with pytest.raises(ZeroDivisionError):
            map_in_threads(fail, [1, 0], CPU)
        assert settings(0) == before
    finally:
        torch.set_num_threads(threads)
