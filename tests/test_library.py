"""docs/library.md: each loop trains, and its scheduler reaches the last alpha."""

import re
import warnings

import pytest
import torch
from conftest import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
CODES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", CODES, ids=["plain", "other", "trainer", "lightning"])
def test_a_loop_of_the_page_trains_with_alpha_by_schedule(code):
    if "lightning" in code:
        pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")
    torch.manual_seed(0)
    scope = {}
    with warnings.catch_warnings():
        if "HeatedSoftmax" in code and ("lightning" in code or "trainers" in code):
            warnings.simplefilter("ignore")  # of the other library
        exec(compile(code, "docs/library.md", "exec"), scope)
    if "SupConLoss" in code:
        assert 0.1 < scope["loss"].temperature < 0.25
        return
    assert scope["loss"].alpha == 4
    assert scope["loss"].bias.abs().sum() > 0  # which starts at 0
