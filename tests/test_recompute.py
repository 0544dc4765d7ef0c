"""The released tables follow from the released values per seed."""

import json
import re
import runpy

import pytest
from conftest import ROOT

from heated import config
from heated.analysis.claims import assess_claims
from heated.reporting import training_length

RECOMPUTE = runpy.run_path(str(ROOT / "results" / "recompute.py"))
JOINED = (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def test_every_number_of_the_tables_is_recomputed(capsys):
    assert RECOMPUTE["main"]() == 0
    count = len(list((ROOT / "results").glob("*.json")))
    assert capsys.readouterr().out.count(": 0 differences") == count + 1


def test_an_altered_number_is_found(subtests):
    original = (ROOT / "results" / "omniglot.json").read_text(encoding="utf-8")
    text = (ROOT / "results" / "omniglot.md").read_text(encoding="utf-8")

    def problems(document, text=text):
        values = RECOMPUTE["read_values"](document)
        checks = (RECOMPUTE["check_metrics"], RECOMPUTE["check_claims"])
        return [problem for check in checks for problem in check(text, document, values)]

    def metric(document):
        document["studies"]["run"]["bn"]["map_at_r"]["seeds"]["0"] += 0.01

    def effect(document):
        document["claims"][0]["effect"] += 0.001

    def verdict(document):
        document["claims"][0]["verdict_adjusted"] = "contradicted"

    assert problems(json.loads(original)) == []
    for alter in (metric, effect, verdict):
        with subtests.test(alter.__name__):
            document = json.loads(original)
            alter(document)
            assert problems(document)
    altered = text.replace("| bn | 8 |", "| bn | 7 |")
    assert any("expected 8" in each for each in problems(json.loads(original), altered))


def test_an_altered_summary_over_data_sets_is_found():
    documents = [json.loads(p.read_bytes()) for p in sorted((ROOT / "results").glob("*.json"))]
    check = RECOMPUTE["check_front_page"]
    assert list(check(JOINED, documents)) == []
    mean = re.search(r"lower α \| MAP@R \| \+(\d\.\d\d) \|", JOINED)[1]
    assert list(check(JOINED.replace(f"| +{mean} |", f"| +{float(mean) + 0.1:.2f} |"), documents))
    assert list(check("# Results", documents))


@pytest.mark.parametrize("key", ["effects", "queries", "interval"])
def test_an_altered_effect_over_test_classes_is_found(key):
    path = ROOT / "results" / "cub100-224.json"
    document, text = json.loads(path.read_bytes()), path.with_suffix(".md").read_text("utf-8")
    values, check = RECOMPUTE["read_values"](document), RECOMPUTE["check_classes"]
    assert list(check(text, document, values)) == []
    numbers = document["test_classes"]["bn-heat-map"][key]
    numbers[0] += 7 if key == "queries" else 0.002
    assert list(check(text, document, values))
    del document["test_classes"]["bn-heat-map"]
    assert any("expected ['bn-heat-recall'" in each for each in check(text, document, values))


def test_the_claims_of_today_give_the_released_verdicts():
    """A claim that is added later may not change them through Holm's correction."""
    claims = config.load_params(ROOT).model_dump()["claims"]
    for path in sorted((ROOT / "results").glob("*.json")):
        document = json.loads(path.read_bytes())
        found = assess_claims(claims, RECOMPUTE["read_values"](document), path.stem)
        today = {each["claim"]: (each["verdict"], each["verdict_adjusted"]) for each in found}
        for each in document["claims"]:
            verdicts = (each["verdict"], each["verdict_adjusted"])
            assert today[each["claim"]] == verdicts, (path.stem, each["claim"])


def test_tables_of_the_trainings_length_are_recomputed():
    names = ("omniglot-small", "omniglot-small-e100", "cub100-224")
    documents = [json.loads((ROOT / "results" / f"{name}.json").read_bytes()) for name in names]
    for document in documents:
        document["split"] = "the same"
        document["accuracy_before_heating"] = {"hbn": {"100": 0.9, "101": 0.8}}
    (group,) = training_length.equal_images(documents)
    text = f"# Results\n\n{training_length.length_table(group)}\n\n## omniglot\n"
    check = RECOMPUTE["check_lengths"]
    tables = RECOMPUTE["front_tables"](text)[1]
    assert list(check(tables, documents)) == []
    for cell in ("| 85.0 |", "| 100 |", "+0.36", "+0.40"):
        changed = text.replace(cell, cell.replace("0", "3").replace("6", "7").replace("9", "1"))
        assert changed != text
        assert list(check(RECOMPUTE["front_tables"](changed)[1], documents)), cell
    assert list(check([], documents))
