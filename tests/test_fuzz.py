"""`make fuzz` on a few inputs, and what counts as a finding."""

import os
import random
import subprocess
import sys
from pathlib import Path

import mutations
import pytest
from conftest import ROOT
from fuzz import KINDS, Writes, attempt

from heated.common.errors import InputError


def raises(error: BaseException):
    def call():
        raise error

    return call


def test_only_messages_are_no_findings():
    path = Path("runs/history.csv")
    assert attempt([raises(InputError("runs/history.csv: damaged"))], path) == ""
    assert attempt([raises(InputError("damaged"))], path).startswith("message does not name")
    assert attempt([raises(InputError(""))], path).startswith("message of 0")
    assert attempt([raises(KeyError("a"))], path).startswith("KeyError at ?")
    assert attempt([raises(RecursionError())], path).startswith("RecursionError")


def test_paths_outside_a_folder_are_seen(tmp_path):
    writes, outside = Writes(tmp_path / "in"), str(tmp_path / "x")
    inside = str(tmp_path / "in/x")
    writes("open", (inside, "w", os.O_WRONLY))
    writes("open", (outside, "r", os.O_RDONLY))
    assert writes.outside == []
    writes("open", (outside, "w", os.O_WRONLY | os.O_CREAT))
    writes("os.mkdir", (outside, 0o777, -1))
    writes("os.rename", (inside, outside, -1, -1))
    writes("os.remove", (inside + "/../../x", -1))
    assert writes.outside == [outside] * 4


def test_mutations_are_determined_by_their_seed_and_differ_from_the_original():
    tree, content = {"a": [1, {"b": "c"}], "d": None}, bytes(range(200))
    for mutate, value in ((mutations.mutate_tree, tree), (mutations.mutate_bytes, content)):
        mutants = [repr(mutate(random.Random(seed), value)) for seed in range(50)]
        assert mutants == [repr(mutate(random.Random(seed), value)) for seed in range(50)]
        assert sum(mutant != repr(value) for mutant in mutants) > 40


@pytest.mark.slow
def test_inputs_of_each_kind_end_in_messages():
    command = [sys.executable, "tests/fuzz.py", "--inputs", "100", "--jobs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"\n{kind} " in f"\n{done.stdout}" for kind in KINDS)
