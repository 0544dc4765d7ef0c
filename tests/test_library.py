"""docs/library.md: each loop trains, and its scheduler reaches the last alpha."""

import re
import warnings

import pytest
import torch
from conftest import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
SETUP, PLAIN, TRAINER, MODULE, LIGHTNING, OTHER = re.findall(
    r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)
LOOPS = {"plain": PLAIN, "trainer": TRAINER, "lightning": MODULE + LIGHTNING}


def run(code):
    """Run an example after the lines that all share; return its names."""
    torch.manual_seed(0)
    scope = {}
    exec(compile(SETUP + code, "docs/library.md", "exec"), scope)
    return scope


@pytest.mark.parametrize("code", LOOPS.values(), ids=LOOPS)
def test_a_loop_of_the_page_trains_with_alpha_by_schedule(code, tmp_path, monkeypatch):
    if "lightning" in code:
        pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")
    monkeypatch.chdir(tmp_path)  # where Lightning writes
    with warnings.catch_warnings():
        if code != PLAIN:
            warnings.simplefilter("ignore")  # of the other library
        scope = run(code)
    loss, before = scope["loss"], run("")["loss"]
    assert (before.alpha, loss.alpha) == (16, 4)
    before.alpha = loss.alpha
    images, labels = scope["dataset"].tensors
    with torch.no_grad():
        start = before(run("")["network"](images), labels)
        assert loss(scope["network"](images), labels) < start
    assert not torch.equal(loss.weight, before.weight)


def test_a_temperature_of_another_loss_follows_the_schedule():
    assert 0.1 < run(OTHER)["loss"].temperature < 0.25


def test_what_each_loop_adds_is_at_most_six_lines():
    for code in (PLAIN, TRAINER, LIGHTNING):
        assert len([line for line in code.splitlines() if line]) <= 6
