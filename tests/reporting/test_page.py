import re

import pytest
from reported import GRIDS, METHODS, Page, chapter, comparison

from heated.reporting.page import inlined, page
from heated.reporting.pictures import Example, Picture

PIXEL = "data:image/png;base64,iVBORw0KGgo="
RIGHT = Picture(PIXEL, "cat & dog", right=True, small=True)
WRONG = Picture(PIXEL, "bee", right=False, small=False)
EXAMPLES = [Example(kind, 0.5, RIGHT, [RIGHT, WRONG]) for kind in ("best", "typical", "worst")]


@pytest.fixture(scope="module")
def html(results):
    return page([chapter(results, examples=EXAMPLES)])


@pytest.fixture(scope="module")
def two(results):
    """A page of two data sets, one of which has no neighbours to show."""
    return page([chapter(results, examples=EXAMPLES), chapter(results, dataset="more")])


def test_the_sections_come_in_the_order_in_which_a_reader_asks(html):
    order = ["Verdicts", "Tables", "Figures", "Neighbours", "How it was made"]
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert headings == order


def test_headings_do_not_skip_a_level(two):
    levels = [int(tag[1]) for tag in Page(two).headings()]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_page_has_every_methods_cells_and_every_heading(results, html):
    rows = Page(html).rows
    heading = ["method", "n", "R@1", "MAP@R", "NMI, geometric", "compactness ↓"]
    assert heading in rows
    assert ["hbn", "1", "75.00", "25.00", "50.00", "12.50"] in rows
    assert ["bn", "2", "62.50 ± 158.83"] in [row[:3] for row in rows]


def test_a_verdict_is_told_by_word_and_symbol(html):
    verdict = re.search(r'<span class="verdict">(.*?)</span> *(\w+)</span>', html)
    assert verdict.group(1).endswith("?")
    assert verdict.group(2) == "undecided"
    assert "0 hold, 0 fail, 1 undecided, 1 not run" in html


def test_claims_that_were_not_run_are_folded_with_what_to_do(html):
    (folded,) = re.findall(r'<details class="absent">(.*?)</details>', html, re.DOTALL)
    assert "16 is best" in folded
    assert "add digits to studies.alphas.datasets" in folded


def test_a_claim_of_several_comparisons_has_them_folded(results):
    claims = {
        "same": {
            "says": "They are the same",
            "origin": "paper",
            "all": [comparison(["hbn"], ["bn"], 0.5), comparison(["bn"], ["hbn"], 0.5)],
        }
    }
    html = page([chapter(results, claims=claims)])
    (folded,) = re.findall(r"<details>\s*<summary>Its 2 comp(.*?)</details>", html, re.DOTALL)
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
    links = [given["href"] for tag, given in tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(names)
    labels = [given["aria-labelledby"] for _, given in tags if "aria-labelledby" in given]
    assert set(labels) <= set(names)


def test_the_contents_list_each_data_set_where_there_are_several(html, two):
    assert 'href="#tables-more"' in two
    assert 'href="#neighbours-digits"' in two
    assert 'href="#neighbours-more"' not in two
    assert 'href="#tables-digits"' not in html


def test_figures_have_their_description_as_text_alternative(results, html):
    (figure,) = chapter(results).figures
    (drawn,) = [given for _, given in Page(html).tags if given.get("role") == "img"]
    assert drawn["aria-label"] == figure.description
    assert f"<b>{figure.title}.</b> {figure.description}" in html


def test_neighbours_are_marked_by_symbol_and_text(html):
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


def test_without_examples_there_are_no_neighbours(results):
    html = page([chapter(results)])
    assert "Neighbours" not in html
    assert "<img" not in html


def test_each_study_that_ran_has_its_table(results):
    grids = GRIDS | {"alphas": {"datasets": ["digits"], "methods": ["bn"]}}
    grids["run"] = {"datasets": ["digits"], "methods": ["hbn"]}
    html = page([chapter(results, grids=grids)])
    assert re.findall(r"<caption>(.*?)</caption>", html) == ["Main table", "Constant alphas"]


def test_the_page_says_how_its_results_were_made(html):
    texts = Page(html).texts
    for fact in ("3.11.7", "ab" * 32, "0123456789ab, 0123456789ab with changes"):
        assert fact in texts


def test_texts_from_outside_are_escaped(html):
    assert "Maker&#39;s &lt;b&gt;fast&lt;/b&gt; &amp; cheap" in html
    assert "<b>fast</b>" not in html
    assert "Heat &lt;helps&gt;" in html


def test_the_page_is_the_same_when_made_twice(results, html):
    assert page([chapter(results, examples=EXAMPLES)]) == html


def test_each_data_set_has_its_own_section(two):
    assert two.count('<table class="sortable">') == two.count("<svg ") == 2


def test_names_in_a_figure_get_its_prefix_and_its_metadata_goes():
    svg = '<?xml?><svg><metadata>who</metadata><g id="a"/><use xlink:href="#a" x="url(#a)"/></svg>'
    assert inlined(svg, "p") == '<svg><g id="p-a"/><use xlink:href="#p-a" x="url(#p-a)"/></svg>'


def test_methods_of_the_fixture_have_a_row_each(html):
    methods = [row[0] for row in Page(html).rows]
    assert [name for name in methods if name in METHODS] == METHODS * 2  # results and parameters
