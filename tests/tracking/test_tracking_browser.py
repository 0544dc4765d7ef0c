"""MLflow's pages in a real Chromium, at the address that `python -m heated.tracking` prints."""

import base64
import io
import json
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tracked
from conftest import ROOT
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from server_process import Server

from heated.evaluation.metrics import summarize_seeds
from heated.tracking.publish import experiment_note, publish_report, publish_run, run_note
from heated.tracking.saved_view import COLUMNS, view_state
from heated.tracking.store import open_store

pytestmark = [
    pytest.mark.browser,
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.xdist_group("mlflow-pages"),
]
ARTIFACTS = ROOT / "tests" / "artifacts"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OTHERS = {"map_at_r": 0.25, "nmi_geometric": 0.5}
RECALLS = {"bn": {0: 0.71, 7: 0.74}, "hbn": {0: 0.725, 7: 0.775}}
METRICS = {
    method: summarize_seeds({seed: {"recall_at_1": r, **OTHERS} for seed, r in recalls.items()})
    for method, recalls in RECALLS.items()
}
COLOR = "#0072b2"
TIMEOUT = 60_000  # milliseconds
PLOTTED = """Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].flatMap(
    (each) => each.data.map((line) => [line.name, line.y])))"""


@pytest.fixture(scope="module")
def pages(mlflow_folder: Path) -> Iterator[SimpleNamespace]:
    """The address that is printed, of a store with two methods and a report; and MLflow's client.

    The project built another data set before, so that its page is not the first.
    """
    runs = []
    for method, metrics in METRICS.items():
        record = tracked.make_record(method, method)
        rows = {seed: tracked.history(seed) for seed in (0, 7)}
        if method == "bn":
            record["params"]["alpha"] = {"name": "constant", "value": 16.0}
            rows = {s: [{**row, "alpha": 16.0} for row in rows[s]] for s in rows}
        else:
            record["tags"]["mlflow.runColor"] = COLOR
        note = run_note(record, metrics, {"recall_at_1": 0.747})
        publish_run(record, rows, metrics, note=note, draw=lambda: {None: {"curves.svg": "<svg/>"}})
        runs.append((record, metrics))
    note = experiment_note(runs, {method: {"recall_at_1": 0.747} for method in METRICS})
    publish_report(runs[0][0], {"index.html": "<!doctype html><h1>The report</h1>"}, note=note)
    client = open_store()
    with Server([sys.executable, "-m", "heated.tracking"], "/health", mlflow_folder) as server:
        printed = ""
        while not (found := re.search(r"Open (http\S+)  \(digits\)", printed)):
            server.log.seek(0)
            printed = server.log.read().decode()
        yield SimpleNamespace(address=found[1], client=client)


@pytest.fixture
def page(pages: SimpleNamespace) -> Iterator[Page]:
    """A new browser at the printed address; MLflow opens its assistant at the first visit."""
    path = next((path for path in map(shutil.which, NAMES) if path), None)
    if path is None:
        pytest.skip(f"needs Chromium ({', '.join(NAMES)}): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        page = browser.new_page(viewport={"width": 1600, "height": 800})
        page.set_default_timeout(TIMEOUT)
        expect.set_options(timeout=TIMEOUT)
        page.goto(pages.address)
        expect(page.get_by_role("link", name="hbn · digits", exact=True)).to_be_visible()
        column = page.get_by_role("columnheader", name="alpha.start", exact=True)
        expect(column.first).to_be_attached()  # the view is open
        page.get_by_role("button", name="Close", exact=True).first.click()
        yield page
        browser.close()


def screenshot(page: Page, name: str, height: int) -> None:
    """Save the top of a page without the menu, with few colors so that it is small."""
    clip = {"x": 195, "y": 0, "width": 1405, "height": height}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip)))
    ARTIFACTS.mkdir(exist_ok=True)
    image.convert("RGB").quantize(64).save(ARTIFACTS / f"{name}.png", optimize=True)


def test_the_printed_address_opens_a_table_with_numbers_best_first_and_without_seeds(page):
    links = page.get_by_role("link", name=re.compile(r"· digits"))
    assert links.all_inner_texts() == ["hbn · digits", "bn · digits"]
    for column in [*COLUMNS][:6]:  # the others are right of the page
        name = column.split("`")[1]
        expect(page.get_by_role("columnheader", name=name, exact=True).first).to_be_attached()
    row = page.get_by_role("row").filter(has=page.get_by_text("0.75", exact=True))
    assert {"0.75", "16.0", "4.0", "step"} <= {*row.first.inner_text().split("\n")}
    colors = "[...document.querySelectorAll('*')].map((e) => getComputedStyle(e).backgroundColor)"
    assert "rgb(0, 114, 178)" in page.evaluate(colors)  # COLOR
    screenshot(page, "mlflow-runs", 400)


def save_view(page: Page, client: Any) -> dict[str, Any]:
    """Save the page's view as a user does, and return the state that MLflow writes."""
    before = client.get_experiment_by_name("digits").tags
    page.get_by_role("button", name="Views", exact=True).click()
    page.get_by_text("Save as new view").click()
    page.get_by_role("dialog").locator("input").first.fill("A user's")
    page.get_by_test_id("save-view-save-button").click()
    while True:
        page.wait_for_timeout(500)
        tags = client.get_experiment_by_name("digits").tags
        for name in tags.keys() - before.keys():
            packed = json.loads(tags[name])["state"].removeprefix("deflate;")
            return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def test_the_view_is_as_mlflow_itself_saves_views(page, pages):
    ours = view_state()
    page.goto(f"{pages.address.partition('&')[0]}&compareRunsMode=CHART")
    page.reload()
    expect(page.get_by_text("schedule/alpha").first).to_be_visible()
    saved = save_view(page, pages.client)
    assert ours.keys() <= saved.keys()
    for name in ("compareRunCharts", "compareRunSections"):
        theirs = {(each.get("type"), *sorted(each)) for each in saved[name]}
        assert {(each.get("type"), *sorted(each)) for each in ours[name]} <= theirs


def test_charts_need_no_set_up_and_come_in_a_useful_order(page):
    page.goto(f"{page.url}&compareRunsMode=CHART")
    expect(page.get_by_text("schedule/alpha").first).to_be_visible()
    heights = []
    for section in ("schedule", "unseen", "train", "final"):
        title = page.get_by_text(section, exact=True).first
        expect(title).to_be_attached()
        heights.append(title.evaluate("(each) => each.getBoundingClientRect().top"))
    assert heights == sorted(heights)


def test_two_runs_are_compared_by_parameters_metrics_and_the_curve_of_alpha(page):
    for name in ("bn · digits", "hbn · digits"):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for text in ("alpha.start", "augment.crop.size", "0.725", "0.75", "interval/n"):
        expect(page.get_by_text(text, exact=True).first).to_be_attached()
    for axis in ("alpha.at", "alpha.end"):  # of the parallel coordinates
        expect(page.locator(".js-plotly-plot").get_by_text(axis).first).to_be_attached()
    page.get_by_role("link", name="schedule/alpha").click()
    page.wait_for_function(f"Object.keys({PLOTTED}).length == 2")
    lines = page.evaluate(PLOTTED)
    assert lines == {"bn · digits": [16] * 4, "hbn · digits": tracked.ALPHAS}


def test_descriptions_lead_to_the_report_and_have_the_papers_result(page):
    expect(page.get_by_text("each run is a method, and its child runs")).to_be_attached()
    link = page.get_by_role("link", name="The report", exact=True).get_attribute("href")
    page.get_by_role("link", name="hbn · digits", exact=True).click()
    expect(page.get_by_role("link", name="arXiv 1809.04157")).to_be_attached()
    expect(page.get_by_text("74.70 %")).to_be_attached()
    page.goto(page.url.partition("#")[0] + link)
    expect(page.frame_locator("iframe").get_by_text("The report")).to_be_visible()
