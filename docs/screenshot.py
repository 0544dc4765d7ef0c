"""Take the screenshot of MLflow that README shows, from a built project, with a real Chromium.

Run `python docs/screenshot.py` after `make repro`. It starts MLflow on a free port and compares the
runs `bn` and `hbn` of the experiment `digits`.
"""

import argparse
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("bn · digits", "hbn · digits")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 300  # seconds
LARGEST = 200_000  # bytes
CLIP = {"x": 0, "y": 0, "width": 1184, "height": 680}  # without the assistant at the right


@contextmanager
def mlflow(project: Path) -> Iterator[str]:
    """Start MLflow for a project; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "heated.tracking", "--port", str(port)]
    server = subprocess.Popen(command, cwd=project, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(TIMEOUT):
            with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=10):
                break
            time.sleep(1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def compare(page: Page, address: str) -> None:
    """Open the comparison of two runs, and then the curve of alpha."""
    page.goto(f"{address}/#/experiments")
    page.get_by_text("Model training", exact=True).click()
    page.get_by_role("link", name="digits", exact=True).click()
    for name in RUNS:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    chosen = page.url.partition("compare-runs?")[2]
    metric = '"schedule/alpha"'
    page.goto(f"{address}/#/metric?{chosen}&metric={metric}&plot_metric_keys=[{metric}]")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length > 0")
    page.get_by_text("Step", exact=True).click()
    page.wait_for_timeout(5000)  # animations


def main(project: Path, output: Path) -> None:
    """Write the screenshot of a project's runs, with few colors so that it is small."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)))
    with mlflow(project) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path)
        page = browser.new_page(viewport={"width": 1600, "height": 800})
        page.set_default_timeout(1000 * TIMEOUT)
        expect.set_options(timeout=1000 * TIMEOUT)
        compare(page, address)
        image = Image.open(io.BytesIO(page.screenshot(clip=CLIP)))
        browser.close()
    image.convert("RGB").quantize(64).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size} bytes, expected at most {LARGEST}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/mlflow-compare.png")
    main(**vars(parser.parse_args()))
