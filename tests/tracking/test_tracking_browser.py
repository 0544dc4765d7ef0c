"""MLflow's pages in a real Chromium, as a user opens them: `python -m heated.tracking`."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tracked
from conftest import ROOT
from mlflow_server import await_answer, free_port
from playwright.sync_api import Page, expect, sync_playwright

from heated.evaluation.summary import summaries
from heated.tracking.describing import experiment_note, run_note
from heated.tracking.publishing import publish, publish_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOWS),
    pytest.mark.xdist_group("mlflow-pages"),
]
ARTEFACTS = ROOT / "tests" / "artefacts"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
METRICS = {
    "bn": summaries({0: {"recall_at_1": 0.71}, 7: {"recall_at_1": 0.74}}),
    "hbn": summaries({0: {"recall_at_1": 0.725}, 7: {"recall_at_1": 0.775}}),
}
PATIENCE = 60_000  # milliseconds
PLOTTED = """Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].flatMap(
    (each) => each.data.map((line) => [line.name, line.y])))"""


@pytest.fixture(scope="module")
def store(mlflow_folder: Path) -> Path:
    """A project's folder whose store has two methods, with paper's numbers, and a report."""
    told = []
    for method, metrics in METRICS.items():
        heated = method == "hbn"
        alpha = {"name": "step", "start": 16.0, "end": 4.0, "at": 0.7}
        record = tracked.record(method, method)
        record["params"]["alpha"] = alpha if heated else {"name": "constant", "value": 16.0}
        rows = {seed: curves(tracked.history(seed), heated) for seed in (0, 7)}
        note = run_note(record, metrics, {"recall_at_1": 0.747})
        publish(record, rows, metrics, note=note, files=lambda: {None: {"curves.svg": "<svg/>"}})
        told.append((record, metrics))
    papers = {method: {"recall_at_1": 0.747} for method in METRICS}
    page = {"index.html": "<!doctype html><h1>The report</h1>"}
    publish_report(told[0][0], page, note=experiment_note(told, papers))
    return mlflow_folder


def curves(rows: list[dict[str, float]], heated: bool) -> list[dict[str, float]]:
    """Rows whose alpha falls, or does not."""
    return rows if heated else [{**row, "alpha": 16.0, "temperature": 1 / 16} for row in rows]


@pytest.fixture(scope="module")
def pages(store: Path) -> Iterator[str]:
    """The address of the pages while they are served."""
    port = free_port()
    with (store / "log").open("wb") as log:
        command = [sys.executable, "-m", "heated.tracking", "--port", str(port)]
        server = subprocess.Popen(
            command, cwd=store, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        await_answer(server, f"{address}/health", store / "log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.fixture
def page(pages: str) -> Iterator[Page]:
    """A browser that was never here, on the experiments of model training."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no Chromium is here ({', '.join(NAMES)}): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.goto(f"{pages}/#/experiments")
        page.get_by_text("Model training", exact=True).click()
        yield page
        browser.close()


def opened(page: Page) -> None:
    """The experiment's runs, as a click on it shows them."""
    page.get_by_role("link", name="digits", exact=True).click()
    expect(page.get_by_role("link", name="hbn · digits", exact=True)).to_be_visible()


def kept(page: Page, name: str) -> None:
    """A screenshot for people to look at."""
    path = ARTEFACTS / f"mlflow-{name}.png"
    page.wait_for_timeout(1000)  # what is drawn with a movement
    page.screenshot(path=path)
    assert path.stat().st_size > 10_000


def test_the_experiment_lists_the_runs_with_what_it_is_about(page: Page) -> None:
    opened(page)
    for name in ("bn · digits", "report · digits"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("a run is a method, the runs below it its seeds")).to_be_attached()
    kept(page, "experiment")


def test_charts_come_without_any_set_up(page: Page) -> None:
    opened(page)
    page.goto(f"{page.url}&compareRunsMode=CHART")
    for section in ("final", "interval", "schedule", "train", "unseen"):
        expect(page.get_by_text(section, exact=True).first).to_be_attached()
    expect(page.get_by_text("final/recall_at_1").first).to_be_visible()
    kept(page, "charts")


def test_two_runs_are_compared_by_parameters_metrics_and_the_curve_of_alpha(page: Page) -> None:
    opened(page)
    for name in ("bn · digits", "hbn · digits"):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_role("checkbox").first.check()
    kept(page, "chosen")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    kept(page, "compare")
    for text in ("alpha.start", "augment.crop.size", "0.725", "0.75", "interval/n"):
        expect(page.get_by_text(text, exact=True).first).to_be_attached()
    page.get_by_role("link", name="schedule/alpha").click()
    page.wait_for_function(f"Object.keys({PLOTTED}).length == 2")
    lines = page.evaluate(PLOTTED)
    assert lines == {"bn · digits": [16] * 4, "hbn · digits": tracked.ALPHAS}
    kept(page, "alpha")


def test_a_run_tells_its_result_beside_the_papers(page: Page) -> None:
    opened(page)
    page.get_by_role("link", name="hbn · digits", exact=True).click()
    expect(page.get_by_role("link", name="arXiv 1809.04157")).to_be_attached()
    expect(page.get_by_text("74.70 %")).to_be_attached()
    kept(page, "run")
