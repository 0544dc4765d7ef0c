import csv
import json
import re
from dataclasses import replace

import pytest
from reported import GRIDS, METHODS, STATED, Page, comparison

from heated.reporting.html import inlined
from heated.reporting.page import page


@pytest.fixture(scope="module")
def html(digits):
    return page([digits])


@pytest.fixture(scope="module")
def two(report):
    """The page of both data sets."""
    return (report / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def other(more):
    """A page without neighbors, with two studies, and with a claim of two comparisons."""
    pair = [comparison(["hbn"], ["bn"], 0.5), comparison(["bn"], ["hbn"], 0.5)]
    claims = {"same": STATED | {"says": "They are the same", "origin": "paper", "all": pair}}
    grids = GRIDS | {"alphas": {"datasets": ["more"], "methods": ["bn"]}}
    grids["run"] = {"datasets": ["more"], "methods": ["hbn"]}
    return page([replace(more, claims=claims, grids=grids)])


def test_the_sections_come_in_the_order_in_which_a_reader_asks(html, two):
    order = ["Verdicts", "Tables", "Figures", "Neighbours", "How it was made"]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == order
    levels = [int(tag[1]) for tag in Page(two).headings()]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_page_has_every_methods_cells_and_every_heading(html):
    rows = Page(html).rows
    assert ["method", "n", "R@1", "MAP@R", "NMI, geometric", "compactness ↓"] in rows
    assert ["hbn", "1", "75.00", "25.00", "50.00", "12.50"] in rows
    assert ["bn", "2", "62.50 ± 158.83"] in [row[:3] for row in rows]
    names = [row[0] for row in rows if row[0] in METHODS]
    assert names == METHODS * 2  # results and parameters


def test_a_verdict_is_told_by_word_and_symbol_and_what_was_not_run_with_what_to_do(html):
    verdict = re.search(r'<span class="verdict">(.*?)</span> *([\w ]+)</span>', html)
    assert verdict.group(1).endswith("·")
    assert verdict.group(2) == "no verdict"
    assert "2 claims: 1 no verdict, 1 not run" in html
    (folded,) = re.findall(r'<details class="absent">(.*?)</details>', html, re.DOTALL)
    assert "16 is best" in folded
    assert "add digits to studies.alphas.datasets" in folded


def test_a_claim_of_several_comparisons_has_them_folded(other):
    (folded,) = re.findall(r"<details>\s*<summary>Its 2 comp(.*?)</details>", other, re.DOTALL)
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


def test_every_link_within_the_page_leads_somewhere_and_no_name_comes_twice(two):
    tags = Page(two).tags
    names = [given["id"] for _, given in tags if "id" in given]
    assert len(set(names)) == len(names)
    links = {given["href"].removeprefix("#") for tag, given in tags if tag == "a"}
    labels = {given["aria-labelledby"] for _, given in tags if "aria-labelledby" in given}
    assert links | labels <= set(names)


def test_the_contents_list_each_data_set_where_there_are_several(html, two):
    assert all(f'href="#{name}"' in two for name in ("tables-more", "neighbours-digits"))
    assert 'href="#neighbours-more"' not in two
    assert 'href="#tables-digits"' not in html
    assert two.count('<table class="sortable">') == two.count("<svg ") == 2


def test_figures_have_their_description_as_text_alternative(digits, html):
    (figure,) = digits.figures
    (drawn,) = [given for _, given in Page(html).tags if given.get("role") == "img"]
    assert drawn["aria-label"] == figure.description
    assert f"<b>{figure.title}.</b> {figure.description}" in html


def test_neighbours_are_marked_by_symbol_and_text(html, other):
    pictures = [given for tag, given in Page(html).tags if tag == "img"]
    assert [given["alt"] for given in pictures[:3]] == [
        "query of class cat & dog",
        "neighbour 1 of class cat & dog: right",
        "neighbour 2 of class bee: wrong",
    ]
    assert len(pictures) == 9
    assert ["class" in given for given in pictures[:3]] == [True, True, False]
    assert re.findall(r"<h4>(.*?)</h4>", html) == ["Best", "Typical", "Worst"]
    assert "✗ <span" in html
    assert not re.search("Neighbours|<img", other)


def test_each_study_that_ran_has_its_table(other):
    assert re.findall(r"<caption>(.*?)</caption>", other) == ["Main table", "Constant alphas"]


def test_the_page_says_how_its_results_were_made_and_escapes_what_comes_from_outside(html):
    for fact in ("3.11.7", "ab" * 32, "0123456789ab, 0123456789ab with changes"):
        assert fact in Page(html).texts
    assert "Maker&#39;s &lt;b&gt;fast&lt;/b&gt; &amp; cheap" in html
    assert "<b>fast</b>" not in html
    assert "Heat &lt;helps&gt;" in html


def test_the_page_is_the_same_when_made_twice(digits, html):
    assert page([replace(digits)]) == html  # a new chapter, which draws its figures again


def test_names_in_a_figure_get_its_prefix_and_its_metadata_goes():
    svg = '<?xml?><svg><metadata>who</metadata><g id="a"/><use xlink:href="#a" x="url(#a)"/></svg>'
    assert inlined(svg, "p") == '<svg><g id="p-a"/><use xlink:href="#p-a" x="url(#p-a)"/></svg>'


def test_the_folder_has_a_page_and_files_of_each_data_set(report):
    kinds = ("tables/{}.csv", "tables/{}.tex", "tables/{}.md", "figures/{}-curves.svg")
    kinds += ("results/{}.json", "results/{}.md")
    each = {kind.format(dataset) for dataset in ("digits", "more") for kind in kinds}
    found = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert found == {"index.html", "table.md", "claims.json", "curves.csv"} | each


def test_claims_are_the_judgements_on_all_data_sets(digits, report):
    claims = json.loads((report / "claims.json").read_text(encoding="utf-8"))
    told = digits.judgements
    assert claims == json.loads(json.dumps([*told, *({**one, "dataset": "more"} for one in told)]))
    design = {"claim", "dataset", "metric", "a", "b", "effect", "interval", "n", "p_adjusted"}
    assert all(design | {"verdict"} <= one.keys() for one in claims)


def test_tables_and_curves_of_all_data_sets_are_those_of_each(report):
    paths = [report / "tables" / f"{name}.md" for name in ("digits", "more")]
    together = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    assert (report / "table.md").read_text(encoding="utf-8") == together
    with (report / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["dataset"], row["method"], row["epoch"]) for row in csv.DictReader(file)]
    datasets = ("digits", "more")
    assert rows == [(d, m, str(epoch)) for d in datasets for m in METHODS for epoch in range(3)]
