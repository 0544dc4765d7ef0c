"""MLflow's pages in a real Chromium, as a user opens them: `python -m heated.tracking`."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tracked
from playwright.sync_api import Page, expect, sync_playwright
from server_process import Server

from heated.evaluation.metrics import summarize_seeds
from heated.tracking.publish import experiment_note, publish_report, publish_run, run_note

pytestmark = [
    pytest.mark.browser,
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.xdist_group("mlflow-pages"),
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
METRICS = {
    "bn": summarize_seeds({0: {"recall_at_1": 0.71}, 7: {"recall_at_1": 0.74}}),
    "hbn": summarize_seeds({0: {"recall_at_1": 0.725}, 7: {"recall_at_1": 0.775}}),
}
TIMEOUT = 60_000  # milliseconds
PLOTTED = """Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].flatMap(
    (each) => each.data.map((line) => [line.name, line.y])))"""


@pytest.fixture(scope="module")
def pages(mlflow_folder: Path) -> Iterator[str]:
    """The address of the pages of a store with two methods, the paper's values, and a report."""
    runs = []
    for method, metrics in METRICS.items():
        record = tracked.make_record(method, method)
        rows = {seed: tracked.history(seed) for seed in (0, 7)}
        if method == "bn":
            record["params"]["alpha"] = {"name": "constant", "value": 16.0}
            rows = {s: [{**row, "alpha": 16.0} for row in rows[s]] for s in rows}
        note = run_note(record, metrics, {"recall_at_1": 0.747})
        publish_run(record, rows, metrics, note=note, draw=lambda: {None: {"curves.svg": "<svg/>"}})
        runs.append((record, metrics))
    note = experiment_note(runs, {method: {"recall_at_1": 0.747} for method in METRICS})
    publish_report(runs[0][0], {"index.html": "<!doctype html><h1>The report</h1>"}, note=note)
    command = [sys.executable, "-m", "heated.tracking"]
    with Server(command, "/health", mlflow_folder) as server:
        yield server.address


@pytest.fixture
def page(pages: str) -> Iterator[Page]:
    """A new browser on the runs of the experiment."""
    path = next((path for path in map(shutil.which, NAMES) if path), None)
    if path is None:
        pytest.skip(f"needs Chromium ({', '.join(NAMES)}): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.set_default_timeout(TIMEOUT)
        expect.set_options(timeout=TIMEOUT)
        page.goto(f"{pages}/#/experiments")
        page.get_by_text("Model training", exact=True).click()
        page.get_by_role("link", name="digits", exact=True).click()
        expect(page.get_by_role("link", name="hbn · digits", exact=True)).to_be_visible()
        yield page
        browser.close()


def test_the_experiment_lists_the_described_runs_and_charts_need_no_set_up(page):
    for name in ("bn · digits", "report · digits"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("each run is a method, and its child runs")).to_be_attached()
    page.goto(f"{page.url}&compareRunsMode=CHART")
    for section in ("final", "interval", "schedule", "train", "unseen"):
        expect(page.get_by_text(section, exact=True).first).to_be_attached()
    expect(page.get_by_text("final/recall_at_1").first).to_be_visible()


def test_two_runs_are_compared_by_parameters_metrics_and_the_curve_of_alpha(page):
    for name in ("bn · digits", "hbn · digits"):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for text in ("alpha.start", "augment.crop.size", "0.725", "0.75", "interval/n"):
        expect(page.get_by_text(text, exact=True).first).to_be_attached()
    page.get_by_role("link", name="schedule/alpha").click()
    page.wait_for_function(f"Object.keys({PLOTTED}).length == 2")
    lines = page.evaluate(PLOTTED)
    assert lines == {"bn · digits": [16] * 4, "hbn · digits": tracked.ALPHAS}


def test_a_runs_description_has_the_papers_result(page):
    page.get_by_role("link", name="hbn · digits", exact=True).click()
    expect(page.get_by_role("link", name="arXiv 1809.04157")).to_be_attached()
    expect(page.get_by_text("74.70 %")).to_be_attached()
