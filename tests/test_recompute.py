"""The released tables follow from the released values per seed."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAIN = runpy.run_path(str(ROOT / "results" / "recompute.py"))["main"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copy(ROOT / "RESULTS.md", tmp_path)
    return tmp_path / "results"


def test_every_number_of_the_tables_is_recomputed(copy, capsys):
    assert MAIN(copy) == 0
    assert capsys.readouterr().out.count(": 0 differences") == len(list(copy.glob("*.json")))


def test_an_altered_number_is_found(copy, capsys, subtests):
    def metric(document):
        document["studies"]["run"]["bn"]["map_at_r"]["seeds"]["0"] += 0.01

    def effect(document):
        document["claims"][0]["effect"] += 0.001

    def verdict(document):
        document["claims"][0]["verdict_adjusted"] = "contradicted"

    for other in {*copy.glob("*.json")} - {copy / "omniglot.json"}:
        other.unlink()
    path = copy / "omniglot.json"
    original = path.read_text(encoding="utf-8")
    for alter in (metric, effect, verdict):
        with subtests.test(alter.__name__):
            document = json.loads(original)
            alter(document)
            path.write_text(json.dumps(document), encoding="utf-8")
            assert MAIN(copy) == 1
            assert "omniglot: 0 differences" not in capsys.readouterr().out
    path.write_text(original, encoding="utf-8")
    text = path.with_suffix(".md")
    text.write_text(text.read_text(encoding="utf-8").replace("| bn | 8 |", "| bn | 7 |"))
    assert MAIN(copy) == 1
    printed = capsys.readouterr().out
    assert "expected 8" in printed
    assert "RESULTS.md does not have" in printed
