"""Progress on a real terminal, and in a log."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from heated.common import progress

SCRIPT = """
from heated.common.progress import progress_bar
bar = progress_bar(range(3), "seed 0", unit="epoch", mininterval=0)
for epoch in bar:
    bar.set_postfix({"loss": 0.5 / (1 + epoch), "alpha": 16.0}, refresh=False)
"""


def test_a_log_has_a_line_per_interval_and_nothing_of_what_is_shorter(monkeypatch, capsys):
    for _ in progress.progress_bar(range(3), "short"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    bar = progress.progress_bar(range(3), "seed 0", unit="epoch")
    for epoch in bar:
        bar.set_postfix({"loss": 0.5 / (1 + epoch), "alpha": 16.0}, refresh=False)
    error = capsys.readouterr().err
    assert "\r" not in error
    lines = error.splitlines()
    assert [line.startswith("seed 0: ") for line in lines] == [True] * len(lines)
    assert "1/3 [" in error
    assert "loss=0.25, alpha=16" in error


def test_a_terminal_has_a_bar_with_loss_alpha_and_the_time_left():
    pty = pytest.importorskip("pty")  # not on Windows
    main, other = pty.openpty()
    pytest.importorskip("termios").tcsetwinsize(other, (24, 100))
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=other, check=True)
    os.close(other)
    shown = ""
    with suppress(OSError):  # at the end
        while part := os.read(main, 65536):
            shown += part.decode()
    os.close(main)
    assert "\r" in shown
    assert "3/3 [" in shown
    assert "<00:00" in shown  # the time left
    assert "loss=0.167, alpha=16" in shown
