"""The page in a real Chromium, from the pipeline and with more methods."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT
from playwright.sync_api import sync_playwright
from reported import GRIDS, QUERIES, claim, comparison, dataset_report

from heated.common.io import write_text
from heated.evaluation.metrics import summarize_seeds
from heated.reporting.release import render_report

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("built")]
ARTEFACTS = ROOT / "tests" / "artifacts"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CUT = """[...document.querySelectorAll(".wide")]
    .filter((each) => each.scrollWidth > each.clientWidth + 1).map((each) => each.ariaLabel)"""
LONG_NAME = "a-method-with-a-name-that-does-not-end-soon"


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium is here ({', '.join(NAMES)}): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(browser):
    """A function that opens a page offline, and records its requests and error messages."""
    contexts = []

    def open_page(path, *, width=1280, **options):
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, offline=True, **options))
        visit = SimpleNamespace(page=contexts[-1].new_page(), requests=[], problems=[])
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("requestfailed", lambda request: visit.problems.append(request.url))
        visit.page.on("console", lambda message: visit.problems.append(message.text))
        visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
        visit.page.goto(path.as_uri())
        visit.page.wait_for_load_state("networkidle")
        return visit

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def built_page(built):
    return built.folder / "report/index.html"


@pytest.fixture(scope="module")
def long_page(results, tmp_path_factory):
    """A page of unsorted methods with long names, and with claims of every verdict."""
    values = {"bn-16": 0.5, "ln": 0.9, "bn-4": 0.1, LONG_NAME: 0.7}
    runs = []
    for number, (name, value) in enumerate(values.items(), 2):
        seeds = {seed: {"recall_at_1": value + seed % number / 1e6} for seed in range(6)}
        runs.append(replace(results[0], method=name, metrics=summarize_seeds(seeds)))
    lower = {"supported": "bn-4", "contradicted": LONG_NAME, "no verdict": "bn-16", "not run": "sm"}
    last = comparison("ln", "bn-4")
    claims = {
        verdict: claim(f"Claimed, and it is: {verdict}", comparison("bn-16", method), last)
        for verdict, method in lower.items()
    }
    grids = GRIDS | {"run": {"datasets": ["digits"], "methods": [*values]}}
    gallery = [replace(each, query=replace(each.query, class_name="n" * 90)) for each in QUERIES]
    path = tmp_path_factory.mktemp("page") / "index.html"
    report = dataset_report(runs, grids=grids, claims=claims, gallery=gallery)
    write_text(path, render_report([report]))
    return path


@pytest.fixture(scope="module")
def full_page(results, tmp_path_factory):
    """A page with every metric of digits, and intervals, which has the widest table."""
    clusters = ("nmi_geometric", "nmi_arithmetic", "ami", "f1")
    names = [*(f"recall_at_{k}" for k in (1, 2, 4, 8)), "map_at_r", "r_precision", *clusters]
    names += ["intra_class_variance", "inter_class_distance"]
    seeds = {seed: dict.fromkeys(names, 0.2 + seed / 5) for seed in range(3)}
    metrics = summarize_seeds(seeds)
    metrics |= {name: metrics[name] | {"engine": "scikit-learn"} for name in clusters}
    runs = [replace(results[0], method=name, metrics=metrics) for name in ("bn", "bn-drop")]
    path = tmp_path_factory.mktemp("full") / "index.html"
    grids = GRIDS | {"run": {"datasets": ["digits"], "methods": ["bn", "bn-drop"]}}
    write_text(path, render_report([dataset_report(runs, grids=grids)]))
    return path


def test_the_built_page_opens_without_error_or_request_and_all_of_it_loads(visit, built_page):
    visited = visit(built_page)
    page = visited.page
    assert visited.problems == []
    assert [url for url in visited.requests if not url.startswith("data:")] == [built_page.as_uri()]
    loaded = page.evaluate("[...document.images].map((e) => e.complete && e.naturalWidth > 0)")
    drawn = page.evaluate(
        """[...document.querySelectorAll("figure svg")].map((each) => {
             const box = each.getBoundingClientRect();
             return box.width > 200 && box.height > 100 && each.querySelectorAll("path").length > 9;
           })"""
    )
    assert len(loaded) * len(drawn) > 0
    assert all(loaded + drawn)
    claims = json.loads((built_page.parent / "claims.json").read_text(encoding="utf-8"))
    assert page.locator(".verdicts > li, .absent li").count() == len(claims) > 0
    headings = "table.sortable thead th"
    assert page.locator(headings).count() == page.locator(f"{headings} > button").count() > 0


CONTRASTS = """() => {
  const shine = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const linear = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (each) => {
    for (; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
  };
  const all = [...document.querySelectorAll("body *:not(svg, svg *, script)")];
  return all.filter((each) => [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((each) => {
      const [a, b] = [getComputedStyle(each).color, behind(each)].map(shine);
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML.slice(0, 80)];
    });
}"""


def lightness(page, selector, style):
    """Return the mean of red, green and blue in [0, 1]."""
    color = page.locator(selector).first.evaluate(f"(each) => getComputedStyle(each).{style}")
    return sum(map(int, color.removeprefix("rgb(").rstrip(")").split(","))) / (3 * 255)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_readers_scheme(visit, built_page, long_page, scheme, capsys):
    """Verdicts are visible words, contrasts satisfy WCAG, and figures are on white."""
    visits = [visit(path, color_scheme=scheme) for path in (built_page, long_page)]
    for visited in visits:
        contrasts = visited.page.evaluate(CONTRASTS)
        assert len(contrasts) > 30
        assert [each for each in contrasts if each[0] < 4.5] == []
    page = visits[1].page
    for kind in ("supported", "contradicted", "no verdict"):
        (item,) = page.locator(f".verdicts > li.{kind.replace(' ', '-')}").all()
        assert f"Claimed, and it is: {kind}" in item.inner_text()
        assert kind in item.locator(".verdict").inner_text()
        assert item.locator("details li").count() == 2
    page.locator(".absent summary").click()
    assert "Claimed, and it is: not run" in page.locator(".absent li").inner_text()
    assert visits[1].problems == []
    page = visits[0].page
    dark = scheme == "dark"
    assert (lightness(page, "body", "backgroundColor") < 0.2) == dark
    assert (lightness(page, "body", "color") > 0.8) == dark
    assert lightness(page, ".drawn", "backgroundColor") == 1
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        path = ARTEFACTS / f"page-{width}-{scheme}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 10_000
        with capsys.disabled():
            print(f"\nscreenshot: {path}")


def test_the_page_never_scrolls_sideways(visit, built_page, long_page):
    for path in (built_page, long_page):
        page = visit(path).page
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        for width in (320, 360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", ["built_page", "full_page"])
def test_no_table_is_cut_off_on_a_desktop(visit, request, name):
    page = visit(request.getfixturevalue(name)).page
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.locator(".wide").count() > 0
    assert page.evaluate(CUT) == []


def test_a_point_of_a_curve_has_its_value_where_the_pointer_is(visit, built_page):
    page = visit(built_page).page
    figure = page.locator("figure", has_text="Training curves").locator("svg")
    figure.scroll_into_view_if_needed()
    texts = figure.evaluate("""(svg) => [...svg.querySelectorAll("g > title")].map((title) => {
        const box = title.nextElementSibling.getBoundingClientRect();
        const at = [box.x + box.width / 2, box.y + box.height / 2];
        const shown = document.elementFromPoint(...at)?.closest("g:has(> title)");
        return [title.textContent, shown?.querySelector("title").textContent];
    })""")
    names = ["epoch 1: Recall@1", *(f"epoch {e}: {n}" for n in ("alpha", "loss") for e in (1, 0))]
    assert [text.rpartition(" ")[0] for text, _ in texts[1:]] == [f"hbn, {n}" for n in names[1:]]
    assert texts[0][0].startswith(f"hbn, {names[0]}")
    assert all(text == shown for text, shown in texts)


def column(page, number):
    """Return the texts of a column of the first table, without the intervals."""
    cells = page.locator("table.sortable").first.locator(f"tbody tr > :nth-child({number})")
    return [text.partition("±")[0].strip() for text in cells.all_inner_texts()]


def test_a_heading_sorts_best_first_by_a_click_anywhere_in_it_and_by_keyboard(visit, long_page):
    page = visit(long_page).page
    rising = ["10.00", "50.00", "70.00", "90.00"]
    table = page.locator("table.sortable").first
    headings = table.locator("thead th")
    assert headings.nth(2).get_attribute("aria-sort") is None
    for order, expected in (("descending", rising[::-1]), ("ascending", rising)):
        headings.nth(2).click(position={"x": 2, "y": 2})  # its corner, beside the text
        assert headings.nth(2).get_attribute("aria-sort") == order
        assert column(page, 3) == expected
    names = [LONG_NAME, "bn-4", "bn-16", "ln"]  # with numbers in the order of the numbers
    headings.nth(0).get_by_role("button").focus()
    for key, expected in (("Enter", names), ("Space", names[::-1])):
        page.keyboard.press(key)
        assert column(page, 1) == expected
        assert table.locator("thead th[aria-sort]").count() == 1
        assert page.evaluate("document.activeElement.textContent") == "method"


def test_the_page_has_the_same_content_without_scripts(visit, long_page):
    for scripts in (True, False):
        page = visit(long_page, java_script_enabled=scripts).page
        assert column(page, 3) == ["50.00", "90.00", "10.00", "70.00"]
        assert (page.locator("thead button").count() > 0) == scripts


def test_the_keyboard_skips_to_the_results_and_in_print_nothing_is_folded_or_cut(visit, built_page):
    page = visit(built_page, width=1032).page  # A4 on its side, less the margins
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the replication results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "claims"
    page.emulate_media(media="print")
    folded = page.locator("details dl, details ul")
    assert folded.count() > 0
    assert all(folded.nth(index).is_visible() for index in range(folded.count()))
    assert page.evaluate(CUT) == []


def test_dvcs_page_of_curves_is_drawn_without_a_network(built, visit):
    built.run("dvc", "plots", "show")
    path = built.folder / "dvc_plots/index.html"
    visited = visit(path)
    assert visited.page.locator(".vega-embed canvas").count() == 3
    assert visited.requests == [path.as_uri()]
    assert visited.problems == []
