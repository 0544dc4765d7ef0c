import json
from dataclasses import replace

import pytest
from conftest import ROOT
from reported import SECTION, chapter

from heated.reporting import release
from heated.reporting.folder import write
from heated.reporting.paper import departures


@pytest.fixture
def report(results, tmp_path):
    write(tmp_path / "report", [chapter(results)])
    return tmp_path / "report"


def released(folder, dataset="digits"):
    return json.loads((folder / "results" / f"{dataset}.json").read_text(encoding="utf-8"))


def test_the_document_has_every_seeds_number_and_every_judgement(results, report):
    told = released(report)
    for result in results:
        assert told["studies"]["run"][result.method] == json.loads(json.dumps(result.metrics))
    assert told["claims"] == json.loads(json.dumps(chapter(results).judgements))
    assert told["made"]["torch"] == "2.0"


def test_each_table_says_first_where_it_departs_from_the_paper(results, report):
    text = (report / "results" / "digits.md").read_text(encoding="utf-8")
    heading, told, table, *_ = text[text.index("### Main table") :].split("\n\n")
    assert heading == "### Main table"
    assert told.startswith("*Departs from the paper's protocol:* data digits instead of cars196, ")
    assert table.startswith("| method | n | R@1 |")
    record = results[0].record
    assert all(each in told for each in departures(record, SECTION))


def test_a_claim_is_told_with_its_numbers_or_as_not_run(report):
    lines = (report / "results" / "digits.md").read_text(encoding="utf-8").splitlines()
    (heat,) = (line for line in lines if line.startswith("| Heat <helps> |"))
    assert "recall_at_1: hbn − bn | +25.00 |" in heat
    assert heat.endswith("| 1 |  | ? undecided |")
    (best,) = (line for line in lines if line.startswith("| 16 is best |"))
    assert best.endswith("|  | – not run |")


def test_the_rules_of_the_verdicts_stand_above_them(report):
    text = (report / "results" / "digits.md").read_text(encoding="utf-8")
    assert text.index("A claim holds where") < text.index("| claim | compared |")


def test_a_verdict_that_does_not_survive_the_correction_says_so(results):
    one = chapter(results).judgements[0] | {"verdict": "fails", "p": 0.98, "interval": [-0.2, -0.1]}
    one |= {"p_against": 0.02, "p_against_adjusted": 0.03}
    assert "| 0.030 | ✗ fails, not after Holm |" in release.verdicts([one])
    assert "| 0.020 | ✗ fails |" in release.verdicts([one | {"p_against_adjusted": 0.02}])


def test_the_commands_name_data_sets_methods_and_seeds_of_what_ran(results):
    whole, single = release.commands(chapter(results))
    assert "'run.datasets=[digits]'" in whole
    assert "'run.methods=[hbn,bn]'" in whole
    assert "'run.seeds=[0,1]'" in whole
    assert "studies.alphas" not in whole
    assert "'run.methods=[bn]'" in single
    assert "'run.seeds=[0]'" in single


def test_a_data_set_of_a_study_alone_is_not_run_with_the_main_methods(results):
    flat = [replace(result, dataset="flat") for result in results]
    grids = {"run": {"datasets": [], "methods": ["sm"]}}
    grids |= {"planes": {"datasets": ["flat"], "methods": ["hbn", "bn"]}}
    told = replace(chapter(flat, dataset="flat"), grids=grids)
    for command in release.commands(told):
        assert "run.datasets" not in command  # which has to name one
        assert "'studies.planes.datasets=[flat]'" in command
    assert "'studies.planes.methods=[bn]'" in command


def test_a_release_joins_what_was_released_before(results, report, tmp_path):
    places = report, tmp_path / "results", tmp_path / "RESULTS.md"
    release.release(*places)
    alone = places[2].read_text(encoding="utf-8")
    assert [line for line in alone.splitlines() if line.startswith("## ")] == ["## digits"]
    write(report, [chapter([replace(r, dataset="more") for r in results], dataset="more")])
    for path in (report / "results").glob("digits.*"):
        path.unlink()
    release.release(*places)
    both = places[2].read_text(encoding="utf-8")
    assert [line for line in both.splitlines() if line.startswith("## ")] == [
        "## digits",
        "## more",
    ]
    assert both.startswith(alone.strip())
    assert {path.name for path in places[1].iterdir()} == {
        f"{name}{end}" for name in ("digits", "more") for end in (".json", ".md", "-curves.svg")
    }


def test_without_a_report_the_stage_that_makes_it_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="report"):
        release.release(tmp_path / "report", tmp_path / "results", tmp_path / "RESULTS.md")


def test_the_projects_results_are_joined_as_they_lie_there():
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "results").glob("*.md"))]
    joined = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert joined == "\n".join([release.HEAD, *texts])
