"""Take the screenshots of README and docs from a built project, with a real Chromium.

Run `python docs/screenshot.py` after `make repro`. It starts MLflow on a free port, opens the
address that it prints, and compares `bn` and `hbn` on `digits`. It also opens the report on a
desktop, in the dark, on a phone and as it is printed, and takes the part on neighbors.
"""

import argparse
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("bn · digits", "hbn · digits")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 300_000  # milliseconds
LARGEST = 200_000  # bytes
REPORT = {  # widths and heights in pixels, options of the browser, and a part of the page
    "report-desktop": (1280, 900, {}, ""),
    "report-dark": (1280, 900, {"color_scheme": "dark"}, ""),
    "report-phone": (390, 900, {"device_scale_factor": 2}, ""),
    "report-printed": (1032, 900, {}, ""),  # A4 on its side, less the margins
    "report-neighbors": (1280, 900, {}, "#neighbors"),
}


@contextmanager
def mlflow(project: Path) -> Iterator[str]:
    """Start MLflow for a project; yield the address of the runs on digits, which it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "heated.tracking", "--port", str(port)]
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=project, **options) as server:
        try:
            printed = (re.match(r"Open (\S+)  \(digits\)", line) for line in server.stdout)
            yield next(filter(None, printed))[1]
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def save(picture: bytes, path: Path) -> None:
    """Write a screenshot with 256 colors, so that it is small."""
    image = Image.open(io.BytesIO(picture))
    image.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes, expected at most {LARGEST}")


def compare(browser: Browser, address: str, folder: Path) -> None:
    """Save the table of runs, the comparison of two of them, and their curves of alpha."""
    page = browser.new_page(viewport={"width": 1600, "height": 800})
    page.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    clip = {"x": 195, "y": 0, "width": 1405, "height": 680}  # without the menu
    page.goto(address)
    expect(page.get_by_role("link", name=RUNS[0], exact=True)).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).first.click()  # MLflow's assistant
    page.wait_for_timeout(5000)  # animations
    save(page.screenshot(clip=clip), folder / "mlflow-runs.png")
    for name in RUNS:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    page.wait_for_timeout(5000)
    save(page.screenshot(clip=clip), folder / "mlflow-parallel.png")
    page.get_by_role("link", name="schedule/alpha").click()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length > 0")
    page.get_by_text("Step", exact=True).first.click()
    page.wait_for_timeout(5000)
    save(page.screenshot(clip=clip), folder / "mlflow-compare.png")


def open_report(browser: Browser, project: Path, folder: Path) -> None:
    """Save the report's pages of REPORT."""
    for name, (width, height, options, part) in REPORT.items():
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(TIMEOUT)
        page.goto((project.resolve() / "report/index.html").as_uri() + part)
        if name == "report-printed":
            page.emulate_media(media="print")
        save(page.screenshot(), folder / f"{name}.png")
        page.close()


def main(project: Path, output: Path) -> None:
    """Write the screenshots of a project's report and runs into a folder."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path)
        open_report(browser, project, output)
        with mlflow(project) as address:
            compare(browser, address, output)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images")
    main(**vars(parser.parse_args()))
