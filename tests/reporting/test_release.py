import csv
import json
import re
from dataclasses import replace

import pytest
from conftest import ROOT
from reported import GRIDS, METHODS, SECTION, Page, claim, comparison, dataset_report

from heated.reporting.html import inline_svg
from heated.reporting.paper_results import departures
from heated.reporting.release import (
    claims_markdown,
    join_results,
    release_results,
    render_report,
    repro_commands,
)

BOTH = ("digits", "more")


@pytest.fixture(scope="module")
def html(digits):
    return render_report([digits])


@pytest.fixture(scope="module")
def two(report):
    """The page of both data sets."""
    return (report / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def other(more):
    """A page without neighbors, with two studies and a claim with two comparisons."""
    same = claim("The same", comparison("hbn", "bn", 0.5), comparison("bn", "hbn", 0.5))
    grids = GRIDS | {
        "run": {"datasets": ["more"], "methods": ["hbn"]},
        "alphas": {"datasets": ["more"], "methods": ["bn"]},
    }
    return render_report([dataset_report(more.results, claims={"same": same}, grids=grids)])


@pytest.fixture(scope="module")
def text(report):
    return (report / "results" / "digits.md").read_text(encoding="utf-8")


def test_the_page_has_all_sections_and_nested_headings(html, two):
    titles = ["Replication results", "Tables", "Figures", "Neighbors", "How it was made"]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == titles
    levels = [int(level) for level in re.findall(r"<h([1-5])", two)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_page_has_every_methods_cells_and_one_table_per_study(html, other):
    rows = Page(html).rows
    assert ["method", "n", "R@1", "MAP@R", "NMI, geometric", "intra-class variance ↓"] in rows
    assert ["hbn", "1", "75.00", "25.00", "50.00", "12.50"] in rows
    assert ["bn", "2", "62.50 ± 158.83"] in [row[:3] for row in rows]
    names = [row[0] for row in rows if row[0] in METHODS]
    assert names == METHODS * 2  # results and parameters
    assert re.findall(r"<caption>(.*?)</caption>", other) == ["Main table", "Constant alphas"]


def test_a_claim_shows_word_and_symbol_or_what_to_change(html, other):
    verdict = re.search(r'<span class="verdict">(.*?)</span> *([\w ]+)</span>', html)
    assert verdict.group(1).endswith("·")
    assert verdict.group(2) == "no verdict"
    assert "2 claims: 1 no verdict, 1 not run" in html
    (folded,) = re.findall(r'<details class="absent">(.*?)</details>', html, re.DOTALL)
    assert "16 is best" in folded
    assert "add digits to studies.alphas.datasets" in folded
    (folded,) = re.findall(r"<details>\s*<summary>2 comp(.*?)</details>", other, re.DOTALL)
    assert folded.count("<li>") == 2


def test_the_page_loads_nothing_from_outside(two):
    loads = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    tags = Page(two).tags
    addresses = [given[name] for _, given in tags for name in loads if name in given]
    addresses += re.findall(r"url\(([^)]*)\)", two)
    assert addresses
    assert [a for a in addresses if not a.strip("'\"").startswith(("#", "data:"))] == []
    assert "@import" not in two
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in tags}
    assert [given for tag, given in tags if tag == "script"] == [{}]


def test_ids_are_unique_and_links_lead_to_them(html, two):
    tags = Page(two).tags
    names = [given["id"] for _, given in tags if "id" in given]
    assert len(set(names)) == len(names)
    links = {given["href"].removeprefix("#") for tag, given in tags if tag == "a"}
    labels = {given["aria-labelledby"] for _, given in tags if "aria-labelledby" in given}
    assert links | labels <= set(names)
    assert all(f'href="#{name}"' in two for name in ("tables-more", "neighbors-digits"))
    assert 'href="#neighbors-more"' not in two
    assert 'href="#tables-digits"' not in html
    assert two.count('<table class="sortable">') == two.count("<svg ") == 2
    svg = '<?xml?><svg><metadata>who</metadata><g id="a"/><use xlink:href="#a" x="url(#a)"/></svg>'
    assert inline_svg(svg, "p") == (
        '<svg><g id="p-a"/><use xlink:href="#p-a" x="url(#p-a)"/></svg>'
    )


def test_figures_have_their_description_as_text_alternative(digits, html):
    (figure,) = digits.figures
    (drawn,) = [given for _, given in Page(html).tags if given.get("role") == "img"]
    assert drawn["aria-label"] == figure.description
    assert f"<b>{figure.title}.</b> {figure.description}" in html


def test_neighbors_are_marked_by_symbol_and_text(html, other):
    images = [given for tag, given in Page(html).tags if tag == "img"]
    assert [given["alt"] for given in images[:3]] == [
        "query of class cat & dog",
        "neighbor 1 of class cat & dog: right",
        "neighbor 2 of class bee: wrong",
    ]
    assert len(images) == 9
    assert ["class" in given for given in images[:3]] == [True, True, False]
    assert re.findall(r"<h4>(.*?)</h4>", html) == ["Best", "Typical", "Worst"]
    assert "✗ <span" in html
    assert not re.search("Neighbors|<img", other)


def test_the_page_shows_the_provenance_escapes_outside_text_and_is_reproducible(
    digits, results, html
):
    for fact in ("3.11.7", "ab" * 32, "0123456789ab, 0123456789ab with changes"):
        assert fact in Page(html).texts
    assert "Maker&#39;s &lt;b&gt;fast&lt;/b&gt; &amp; cheap" in html
    assert "<b>fast</b>" not in html
    assert "Heat &lt;helps&gt;" in html
    assert render_report([dataset_report(results, gallery=digits.gallery)]) == html


def test_the_folder_has_the_files_of_each_data_set_and_of_all(report):
    kinds = ("tables/{}.csv", "tables/{}.tex", "tables/{}.md", "figures/{}-curves.svg")
    kinds += ("results/{}.json", "results/{}.md")
    each = {kind.format(dataset) for dataset in BOTH for kind in kinds}
    found = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert found == {"index.html", "table.md", "claims.json", "curves.csv"} | each
    tables = [(report / f"tables/{name}.md").read_text(encoding="utf-8") for name in BOTH]
    assert (report / "table.md").read_text(encoding="utf-8") == "\n".join(tables)
    with (report / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["dataset"], row["method"], row["epoch"]) for row in csv.DictReader(file)]
    assert rows == [(d, m, str(epoch)) for d in BOTH for m in METHODS for epoch in range(3)]


def test_results_and_claims_have_every_value_for_programs(results, digits, report):
    found = json.loads((report / "results" / "digits.json").read_text(encoding="utf-8"))
    for result in results:
        assert found["studies"]["run"][result.method] == json.loads(json.dumps(result.metrics))
    assert found["claims"] == json.loads(json.dumps(digits.claim_results))
    assert found["made"]["torch"] == "2.0"
    claims = json.loads((report / "claims.json").read_text(encoding="utf-8"))
    assert claims == found["claims"] + [{**one, "dataset": "more"} for one in found["claims"]]
    keys = {"claim", "dataset", "metric", "a", "b", "effect", "interval", "n", "p_adjusted"}
    assert all(keys | {"verdict"} <= one.keys() for one in claims)


def test_each_table_begins_with_the_departures_from_the_paper(results, text):
    heading, listed, table, *_ = text[text.index("### Main table") :].split("\n\n")
    assert heading == "### Main table"
    start = "*Departures from the paper's protocol:* data digits instead of cars196, "
    assert listed.startswith(start)
    assert table.startswith("| method | n | R@1 |")
    assert all(each in listed for each in departures(results[0].record, SECTION))


def test_claims_follow_the_rules_with_their_numbers_or_as_not_run(digits, text):
    assert text.index("A claim is *supported*") < text.index("| claim | comparison |")
    start = "| Heat <helps> (exploratory) |"
    (heat,) = (line for line in text.splitlines() if line.startswith(start))
    assert "recall_at_1: hbn − bn | +25.00 |" in heat
    assert heat.endswith("| 1 |  | · no verdict | · no verdict |")
    assert "\n\nNot run: best.\n\n### How it was made\n\n- processor" in text
    one = digits.claim_results[0] | {"verdict": "contradicted", "p": 0.98, "interval": [-0.2, -0.1]}
    one |= {"p_against": 0.02, "p_against_adjusted": 0.03, "verdict_adjusted": "undecided"}
    expected = "| [−20.00, −10.00] | 1 | 0.030 | ✗ contradicted | ? undecided |"
    assert expected in claims_markdown([one])


def test_the_commands_name_data_sets_methods_and_seeds(digits):
    every, single = repro_commands(digits)
    for setting in ("run.datasets=[digits]", "run.methods=[hbn,bn]", "run.seeds=[0,1]"):
        assert f"'{setting}'" in every
    assert "studies.alphas" not in every
    assert "'run.methods=[bn]'" in single
    assert "'run.seeds=[0]'" in single
    # A data set of a study alone is not run with the main methods.
    commands = repro_commands(replace(digits, dataset="flat", studies={"embeddings_2d": METHODS}))
    for command in commands:
        assert "run.datasets" not in command
        assert "'studies.embeddings_2d.datasets=[flat]'" in command
    assert "'studies.embeddings_2d.methods=[bn]'" in commands[1]


def test_a_release_keeps_earlier_releases(report, tmp_path):
    folder, results, joined = tmp_path / "report", tmp_path / "results", tmp_path / "RESULTS.md"
    with pytest.raises(FileNotFoundError, match="report"):
        release_results(folder, results, joined)
    texts = []
    for name in BOTH:  # each report has one data set
        for path in [*report.glob(f"results/{name}.*"), *report.glob(f"figures/{name}-*")]:
            copy = folder / name / path.relative_to(report)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        release_results(folder / name, results, joined)
        texts.append(joined.read_text(encoding="utf-8"))
    headings = [line for line in texts[1].splitlines() if line.startswith("## ")]
    assert headings == ["## digits", "## more"]
    assert "## more" not in texts[0]
    assert texts[1].startswith(texts[0].strip())
    names = {f"{name}{end}" for name in BOTH for end in (".json", ".md", "-curves.svg")}
    assert {path.name for path in results.iterdir()} == names


def test_the_projects_released_results_are_joined(tmp_path):
    join_results(ROOT / "results", tmp_path / "RESULTS.md")
    joined = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert joined == (ROOT / "RESULTS.md").read_text(encoding="utf-8")
