import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from heated import config
from heated.analysis.claims import assess_claims
from heated.reporting import judge
from heated.reporting.release import verdicts

CLAIMS = {name: claim.model_dump() for name, claim in config.load(ROOT).claims.items()}
RELEASED = sorted((ROOT / "results").glob("*.json"))
# README's columns, from the second on: effects with batch norm.
COLUMNS = ("bn-heat-recall", "bn-heat-map", "bn-drop-recall", "bn-drop-map")


def points(share: float) -> str:
    """In points of percent, with a true minus."""
    return f"{100 * share:+.2f}".replace("-", "−")


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_verdicts_follow_from_the_released_numbers_and_the_claims(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    found = assess_claims(CLAIMS, judge.values(document), document["dataset"])
    assert len(found) == len(document["claims"])
    for one, kept in zip(found, document["claims"], strict=True):
        assert one.keys() == kept.keys()
        for key, value in one.items():
            if key not in ("interval", "parts"):
                assert kept[key] == (pytest.approx(value) if isinstance(value, float) else value)
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert verdicts(document["claims"]) in text
    assert text in (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def test_judging_anew_changes_verdicts_alone(tmp_path: Path) -> None:
    name = RELEASED[0].stem
    before = {}
    for suffix in (".json", ".md"):
        before[suffix] = (ROOT / "results" / f"{name}{suffix}").read_text(encoding="utf-8")
        (tmp_path / f"{name}{suffix}").write_text(before[suffix], encoding="utf-8")
    judge.judge(tmp_path, CLAIMS)
    assert {each.suffix: each.read_text(encoding="utf-8") for each in tmp_path.iterdir()} == before
    judge.judge(tmp_path, {name: CLAIMS[name] for name in ("hbn-over-bn", "bn-over-sm")})
    document = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert [one["claim"] for one in document.pop("claims")] == ["hbn-over-bn", "bn-over-sm"]
    assert document == {k: v for k, v in json.loads(before[".json"]).items() if k != "claims"}


def test_readmes_table_has_the_released_numbers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    released = {path.stem for path in RELEASED}
    assert {row[0].split("`")[1] for row in rows} == released
    for name, n, *effects in rows:
        path = ROOT / "results" / f"{name.split('`')[1]}.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        claims = {one["claim"]: one for one in document["claims"]}
        assert int(n) == claims["hbn-over-bn"]["n"]
        for cell, column in zip(effects, COLUMNS, strict=True):
            low, high = (points(bound) for bound in claims[column]["interval"])
            assert (
                re.sub(r"\*", "", cell) == f"{points(claims[column]['effect'])} ({low} to {high})"
            )
            sure = claims[column]["verdict_adjusted"] in ("supported", "contradicted")
            assert cell.startswith("**") == sure
