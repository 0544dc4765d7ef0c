"""A handful of the cases of `make faults`, and what counts as one error."""

import re
import subprocess
import sys

import pytest
from broken_build import ERROR, is_one_error
from conftest import ROOT
from faults import all_cases

# One of each kind that runs within seconds; the rest is for `make faults`.
HANDFUL = (
    "SIGTERM x train",
    "SIGKILL x split",
    "disk full x embed",
    "truncated index.npz x train",
    "garbage seed-1.npz x evaluate",
    "flipped bits checkpoints x train",
    "store garbage x track",
)


def test_one_error_has_a_status_a_name_and_advice_and_no_traceback():
    message = "runs/a/metrics.json is damaged. Run the stage evaluate again."
    assert is_one_error((1, message), "metrics.json") == ERROR
    assert is_one_error((0, message), "metrics.json") == "succeeds"
    assert is_one_error((-9, message), "metrics.json").startswith("status -9")
    assert is_one_error((1, message), "history.csv").startswith("does not name")
    assert is_one_error((1, "metrics.json is broken"), "metrics.json").startswith("no advice")
    assert is_one_error((1, f"Traceback (most\n{message}"), "metrics.json").startswith("traceback")


def test_the_matrix_has_cases_of_every_stage_and_kind_with_different_names():
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names)) >= 60
    assert set(HANDFUL) < set(names)


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_handful_of_faults_ends_as_expected():
    only = f"^({'|'.join(map(re.escape, HANDFUL))})$"
    command = [sys.executable, "tests/faults.py", "--only", only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(HANDFUL)} of {len(HANDFUL)} cases" in done.stdout
