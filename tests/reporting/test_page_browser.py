"""The page in a real Chromium, from the pipeline and with more methods."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project
from playwright.sync_api import Browser, Page, sync_playwright
from reported import GRIDS, QUERIES, claim, comparison, dataset_report

from heated.common.io import write_text
from heated.evaluation.summary import summarize_seeds
from heated.reporting.release import render_report

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("built")]
ARTEFACTS = ROOT / "tests" / "artefacts"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no Chromium is here ({', '.join(NAMES)}): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An opened page with its requests, failed requests, and messages."""

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def visit(browser: Browser) -> Iterator[Any]:
    """A function that opens a page offline, with a screen width and a color scheme."""
    contexts = []

    def open_page(path: Path, *, width: int = 1280, scheme: Any = "light") -> Visit:
        size: Any = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, offline=True))
        visit = Visit(contexts[-1].new_page())
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
def built_page(built: Project) -> Path:
    return built.folder / "report/index.html"


@pytest.fixture(scope="module")
def long_page(results: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of unsorted methods with long names, and with claims of every verdict."""
    names = ["bn-16", "ln", "bn-4", "a-method-with-a-name-that-does-not-end-soon"]
    values = [0.5, 0.9, 0.1, 0.7]
    made = []
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        seeds = {seed: {"recall_at_1": value + seed % (2 + number) / 1e6} for seed in range(6)}
        made.append(replace(results[0], method=name, metrics=summarize_seeds(seeds)))
    compared = {"supported": "bn-4", "contradicted": names[3], "no verdict": "bn-16"}
    claims = {
        verdict: claim(
            f"Claimed, and it is: {verdict}", comparison("bn-16", less), comparison("ln", "bn-4")
        )
        for verdict, less in {**compared, "not run": "sm"}.items()
    }
    grids = GRIDS | {"run": {"datasets": ["digits"], "methods": names}}
    gallery = [replace(each, query=replace(each.query, class_name="n" * 90)) for each in QUERIES]
    path = tmp_path_factory.mktemp("page") / "index.html"
    options = {"grids": grids, "claims": claims, "gallery": gallery}
    write_text(path, render_report([dataset_report(made, **options)]))
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
    assert loaded
    assert drawn
    assert all(loaded + drawn)
    claims = json.loads((built_page.parent / "claims.json").read_text(encoding="utf-8"))
    assert page.locator(".verdicts > li, .absent li").count() == len(claims) > 0
    headings = page.locator("table.sortable thead th")
    assert headings.count() == page.locator("table.sortable thead th > button").count() > 0


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_readers_scheme(visit, built_page, long_page, scheme, capsys):
    """Verdicts are visible words, contrasts satisfy WCAG, and figures are on white."""
    visits = [visit(path, scheme=scheme) for path in (built_page, long_page)]
    for visited in visits:
        found = visited.page.evaluate(CONTRASTS)
        assert len(found) > 30
        assert [each for each in found if each[0] < 4.5] == []
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

    def lightness(selector: str, what: str) -> float:
        color = page.locator(selector).first.evaluate(f"(each) => getComputedStyle(each).{what}")
        return sum(map(int, color.removeprefix("rgb(").rstrip(")").split(","))) / (3 * 255)

    dark = scheme == "dark"
    assert (lightness("body", "backgroundColor") < 0.2) == dark
    assert (lightness("body", "color") > 0.8) == dark
    assert lightness(".drawn", "backgroundColor") == 1
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


def column(page: Page, number: int) -> list[str]:
    """Return the texts of a column of the first table, without the intervals."""
    cells = page.locator("table.sortable").first.locator(f"tbody tr > :nth-child({number})")
    return [text.partition("±")[0].strip() for text in cells.all_inner_texts()]


def test_a_heading_sorts_rising_then_falling_by_click_and_by_keyboard(visit, long_page):
    page = visit(long_page).page
    assert column(page, 3) == ["50.00", "90.00", "10.00", "70.00"]
    rising = ["10.00", "50.00", "70.00", "90.00"]
    headings = page.locator("table.sortable").first.locator("thead th")
    assert headings.nth(2).get_attribute("aria-sort") is None
    for order, expected in (("ascending", rising), ("descending", rising[::-1])):
        headings.nth(2).get_by_role("button").click()
        assert headings.nth(2).get_attribute("aria-sort") == order
        assert column(page, 3) == expected
    # names with numbers in the order of the numbers
    names = ["a-method-with-a-name-that-does-not-end-soon", "bn-4", "bn-16", "ln"]
    headings.nth(0).get_by_role("button").focus()
    for key, expected in (("Enter", names), ("Space", names[::-1])):
        page.keyboard.press(key)
        assert column(page, 1) == expected
        assert page.locator("table.sortable").first.locator("thead th[aria-sort]").count() == 1
        assert page.evaluate("document.activeElement.textContent") == "method"


def test_the_page_has_the_same_content_without_scripts(browser, long_page):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(long_page.as_uri())
    assert column(page, 3) == ["50.00", "90.00", "10.00", "70.00"]
    assert page.locator("thead button").count() == 0
    context.close()


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
    cut = "[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    assert page.evaluate(f"{cut}.map((each) => each.ariaLabel)") == []


def test_dvcs_page_of_curves_is_drawn_without_a_network(built: Project, visit: Any) -> None:
    built.run("dvc", "plots", "show")
    path = built.folder / "dvc_plots/index.html"
    seen = visit(path)
    assert seen.page.locator(".vega-embed canvas").count() == 3
    assert seen.requests == [path.as_uri()]
    assert seen.problems == []
