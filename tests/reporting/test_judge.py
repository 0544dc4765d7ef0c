import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from heated import config
from heated.analysis.claims import assess_claims
from heated.reporting.judge import judge_results, values_by_seed
from heated.reporting.release import claims_markdown

CLAIMS = {name: claim.model_dump() for name, claim in config.load_params(ROOT).claims.items()}
RELEASED = sorted((ROOT / "results").glob("*.json"))
# README's columns, from the second on: effects with batch norm.
COLUMNS = ("bn-heat-recall", "bn-heat-map", "bn-drop-recall", "bn-drop-map")


def points(share: float) -> str:
    """Format in percentage points as README does, with a true minus."""
    return f"{100 * share:+.2f}".replace("-", "−")


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_verdicts_follow_from_the_released_numbers_and_the_claims(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    found = assess_claims(CLAIMS, values_by_seed(document), document["dataset"])
    assert len(found) == len(document["claims"])
    for one, kept in zip(found, document["claims"], strict=True):
        assert one.keys() == kept.keys()
        for key, value in one.items():
            if key not in ("interval", "parts"):
                assert kept[key] == (pytest.approx(value) if isinstance(value, float) else value)
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert claims_markdown(document["claims"]) in text
    assert text in (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def test_judging_changes_only_the_claims(tmp_path: Path) -> None:
    name = RELEASED[0].stem
    paths = [tmp_path / f"{name}{suffix}" for suffix in (".json", ".md")]
    for path in paths:
        path.write_bytes((ROOT / "results" / path.name).read_bytes())
    old = paths[1].read_text(encoding="utf-8")
    paths[1].write_text(old.replace("### Replication results", "### Verdicts"), encoding="utf-8")
    judge_results(tmp_path, CLAIMS)  # also reads the former title
    before = [path.read_text(encoding="utf-8") for path in paths]
    assert before[0] == (ROOT / "results" / f"{name}.json").read_text(encoding="utf-8")
    ends = re.compile(r"### (Verdicts|Replication results)\n.*(?=\n\n### How it was made)", re.S)
    assert ends.sub("", before[1]) == ends.sub("", old)
    judge_results(tmp_path, CLAIMS)
    assert [path.read_text(encoding="utf-8") for path in paths] == before
    judge_results(tmp_path, {name: CLAIMS[name] for name in ("hbn-over-bn", "bn-over-sm")})
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    assert [one["claim"] for one in document.pop("claims")] == ["hbn-over-bn", "bn-over-sm"]
    assert document == {k: v for k, v in json.loads(before[0]).items() if k != "claims"}


def test_readmes_table_has_the_released_numbers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert {row[0].split("`")[1] for row in rows} == {path.stem for path in RELEASED}
    for name, n, *effects in rows:
        path = ROOT / "results" / f"{name.split('`')[1]}.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        claims = {one["claim"]: one for one in document["claims"]}
        assert int(n) == claims["hbn-over-bn"]["n"]
        for cell, column in zip(effects, COLUMNS, strict=True):
            low, high = map(points, claims[column]["interval"])
            effect = points(claims[column]["effect"])
            assert cell.replace("*", "") == f"{effect} ({low} to {high})"
            significant = claims[column]["verdict_adjusted"] in ("supported", "contradicted")
            assert cell.startswith("**") == significant
