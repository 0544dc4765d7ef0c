import csv
import json
from dataclasses import replace

import pytest
from reported import METHODS, chapter

from heated.reporting.folder import write

pytestmark = pytest.mark.xdist_group("folder")  # one process writes the folder


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "report"
    more = [replace(result, dataset="more") for result in results]
    write(path, [chapter(results), chapter(more, dataset="more")])
    return path


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_a_page_and_files_of_each_data_set(folder):
    each = {
        f"{kind}/{dataset}{ending}"
        for dataset in ("digits", "more")
        for kind, ending in [
            ("tables", ".csv"),
            ("tables", ".tex"),
            ("tables", ".md"),
            ("figures", "-curves.svg"),
            ("results", ".json"),
            ("results", ".md"),
        ]
    }
    assert names(folder) == {"index.html", "table.md", "claims.json", "curves.csv"} | each


def test_claims_are_the_judgements_on_all_data_sets(results, folder):
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    told = chapter(results).judgements
    assert claims == json.loads(json.dumps([*told, *({**one, "dataset": "more"} for one in told)]))
    design = {"claim", "dataset", "metric", "a", "b", "effect", "interval", "n", "p_adjusted"}
    assert all(design | {"verdict"} <= one.keys() for one in claims)


def test_the_tables_of_all_data_sets_are_those_of_each(folder):
    together = (folder / "table.md").read_text(encoding="utf-8")
    each = [
        (folder / f"tables/{name}.md").read_text(encoding="utf-8") for name in ("digits", "more")
    ]
    assert together == "\n".join(each)


def test_the_curves_have_a_row_for_each_data_set_method_and_epoch(folder):
    with (folder / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["dataset"], row["method"], row["epoch"]) for row in csv.DictReader(file)]
    assert rows == [
        (dataset, method, str(epoch))
        for dataset in ("digits", "more")
        for method in METHODS
        for epoch in range(3)
    ]
