import json
from dataclasses import replace

import pytest
from conftest import ROOT
from reported import SECTION, chapter

from heated.reporting import release
from heated.reporting.paper import departures


@pytest.fixture(scope="module")
def text(report):
    return (report / "results" / "digits.md").read_text(encoding="utf-8")


def test_the_document_has_every_seeds_number_and_every_judgement(results, digits, report):
    told = json.loads((report / "results" / "digits.json").read_text(encoding="utf-8"))
    for result in results:
        assert told["studies"]["run"][result.method] == json.loads(json.dumps(result.metrics))
    assert told["claims"] == json.loads(json.dumps(digits.judgements))
    assert told["made"]["torch"] == "2.0"


def test_each_table_says_first_where_it_departs_from_the_paper(results, text):
    heading, told, table, *_ = text[text.index("### Main table") :].split("\n\n")
    assert heading == "### Main table"
    assert told.startswith("*Departs from the paper's protocol:* data digits instead of cars196, ")
    assert table.startswith("| method | n | R@1 |")
    record = results[0].record
    assert all(each in told for each in departures(record, SECTION))


def test_a_claim_is_told_below_the_rules_with_its_numbers_or_as_not_run(text):
    assert text.index("A claim is *supported*") < text.index("| claim | compared |")
    (heat,) = (
        line for line in text.splitlines() if line.startswith("| Heat <helps> (exploratory) |")
    )
    assert "recall_at_1: hbn − bn | +25.00 |" in heat
    assert heat.endswith("| 1 |  | · no verdict | · no verdict |")
    assert "\n\nNot run: best." in text


def test_a_verdict_stands_beside_the_one_after_the_correction(digits):
    one = digits.judgements[0] | {"verdict": "contradicted", "p": 0.98, "interval": [-0.2, -0.1]}
    one |= {"p_against": 0.02, "p_against_adjusted": 0.03, "verdict_adjusted": "undecided"}
    assert "| 0.030 | ✗ contradicted | ? undecided |" in release.verdicts([one])


def test_the_commands_name_data_sets_methods_and_seeds_of_what_ran(digits):
    whole, single = release.commands(digits)
    for setting in ("run.datasets=[digits]", "run.methods=[hbn,bn]", "run.seeds=[0,1]"):
        assert f"'{setting}'" in whole
    assert "studies.alphas" not in whole
    assert "'run.methods=[bn]'" in single
    assert "'run.seeds=[0]'" in single


def test_a_data_set_of_a_study_alone_is_not_run_with_the_main_methods(results):
    grids = {"run": {"datasets": [], "methods": ["sm"]}}
    grids |= {"planes": {"datasets": ["flat"], "methods": ["hbn", "bn"]}}
    flat = [replace(result, dataset="flat") for result in results]
    commands = release.commands(chapter(flat, dataset="flat", grids=grids))
    for command in commands:
        assert "run.datasets" not in command  # which has to name one
        assert "'studies.planes.datasets=[flat]'" in command
    assert "'studies.planes.methods=[bn]'" in commands[1]


def test_a_release_joins_what_was_released_before(report, tmp_path):
    folder, results, joined = tmp_path / "report", tmp_path / "results", tmp_path / "RESULTS.md"
    texts = []
    for name in ("digits", "more"):  # each report has one data set
        (folder / name / "results").mkdir(parents=True)
        for path in [*report.glob(f"results/{name}.*"), *report.glob(f"figures/{name}-*")]:
            copy = folder / name / path.relative_to(report)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
        release.release(folder / name, results, joined)
        texts.append(joined.read_text(encoding="utf-8"))
    headings = [line for line in texts[1].splitlines() if line.startswith("## ")]
    assert headings == ["## digits", "## more"]
    assert "## more" not in texts[0]
    assert texts[1].startswith(texts[0].strip())
    names = {f"{name}{end}" for name in ("digits", "more") for end in (".json", ".md")}
    curves = {"digits-curves.svg", "more-curves.svg"}
    assert {path.name for path in results.iterdir()} == names | curves


def test_without_a_report_the_stage_that_makes_it_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="report"):
        release.release(tmp_path / "report", tmp_path / "results", tmp_path / "RESULTS.md")


def test_the_projects_results_are_joined_as_they_lie_there():
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "results").glob("*.md"))]
    joined = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert joined == "\n".join([release.HEAD, *texts])
