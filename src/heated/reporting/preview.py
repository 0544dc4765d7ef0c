"""Draw alpha, temperature and learning rate of every method before any training.

`python -m heated.reporting.preview` reads the settings that `python -m stages.resolve` writes.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from heated.common.errors import run
from heated.common.io import load_settings, write_text
from heated.reporting.figures.base import WIDTH, DescribedFigure, report_style, set_ticks, svg_text
from heated.reporting.html import template_environment
from heated.training.schedules import SCHEDULES, schedule_values

PAGE = Path("preview.html")  # ignored by git; report/ is written as a whole by the pipeline
COLORS = {"alpha": "C2", "temperature": "C1", "lr": "C0"}
Schedules = dict[str, list[float]]  # values by epoch, with the keys of COLORS
ScheduleRows = dict[str, Schedules]  # by the names of the methods that share them


def evaluate_schedules(settings: Mapping[str, Any]) -> Schedules:
    """Return learning rate, and alpha and temperature if alpha has a schedule, by epoch."""
    by_epoch = {}
    for key in ("lr_schedule", "alpha"):
        options = dict(settings.get(key, {"name": None}))
        if (name := options.pop("name")) in SCHEDULES:
            by_epoch[key] = schedule_values(name, options, epochs=settings["epochs"])
    found = {"lr": [settings["lr"] * factor for factor in by_epoch["lr_schedule"]]}
    if alphas := by_epoch.get("alpha"):
        found |= {"alpha": alphas, "temperature": [1 / alpha for alpha in alphas]}
    return found


def merge_equal(schedules: Mapping[str, Schedules]) -> ScheduleRows:
    """Merge methods with equal schedules, in order of first appearance.

    >>> merge_equal({"ln": {"alpha": [16.0]}, "ln-4": {"alpha": [4.0]}, "bn": {"alpha": [16.0]}})
    {'ln, bn': {'alpha': [16.0]}, 'ln-4': {'alpha': [4.0]}}
    """
    names: dict[str, list[str]] = {}
    for name, each in schedules.items():
        names.setdefault(repr(each), []).append(name)
    return {", ".join(equal): schedules[equal[0]] for equal in names.values()}


def describe_schedule(schedules: Schedules, quantity: str) -> str:
    """Format the first and last value of a quantity, one value if it is constant.

    >>> describe_schedule({"alpha": [16, 4]}, "alpha"), describe_schedule({"lr": [1, 1]}, "lr")
    ('alpha 16 → 4', 'lr 1')
    """
    row = schedules[quantity]
    ends = row[:1] if len(set(row)) == 1 else [row[0], row[-1]]
    return f"{quantity} " + " → ".join(f"{value:g}" for value in ends)


def draw_schedules(rows: ScheduleRows) -> DescribedFigure:
    """Draw one row per schedule and one column per quantity, with a common scale."""
    figure, sentences = Figure(figsize=(WIDTH, 0.4 + 1.45 * len(rows))), []
    panels = figure.subplots(len(rows), len(COLORS), sharex=True, sharey="col", squeeze=False)
    for row, (names, schedules) in zip(panels, rows.items(), strict=True):
        row[0].set_title(fill(names, 70) + "\n", loc="left", weight="bold")
        texts = {key: describe_schedule(schedules, key) for key in COLORS if key in schedules}
        sentences.append(f"{names}: {', '.join(texts.values())}")
        for axes, (quantity, color) in zip(row, COLORS.items(), strict=True):
            axes.set_title(texts.get(quantity, f"{quantity}: no schedule"), loc="right")
            if quantity in schedules:
                axes.stairs(schedules[quantity], baseline=None, color=color, linewidth=2.5)
    for top, bottom, quantity in zip(panels[0], panels[-1], COLORS, strict=True):
        curves = [row[quantity] for row in rows.values() if quantity in row]
        top.set_yscale("log", base=2)
        set_ticks(top.yaxis, sorted({curve[i] for curve in curves for i in (0, -1)}))
        bottom.set_xlabel("epoch")
    return f"{'; '.join(sentences)}.", figure


@report_style()
def render_preview(grids: Mapping[str, Any]) -> str:
    """Render the page with a figure for each data set and study."""
    datasets = dict.fromkeys(dataset for grid in grids.values() for dataset in grid["datasets"])
    sections = []
    for dataset, (study, grid) in product(datasets, grids.items()):
        if dataset in grid["datasets"]:
            paths = {method: f"runs/{dataset}/{method}.json" for method in grid["methods"]}
            settings = {method: load_settings(path)["settings"] for method, path in paths.items()}
            rows = merge_equal({m: evaluate_schedules(each) for m, each in settings.items()})
            text, figure = draw_schedules(rows)
            svg = svg_text(figure, "Schedules")
            svg = Markup(svg[svg.index("<svg") :])  # SVG by matplotlib needs no escaping
            sections.append({"dataset": dataset, "study": study, "description": text, "svg": svg})
    template = template_environment().get_template("reporting/templates/preview.html")
    return template.render(sections=sections)


def main() -> None:
    """Write the page, and print its address."""
    write_text(PAGE, render_preview(load_settings("report.json")["grids"]))
    print(PAGE.resolve().as_uri())


if __name__ == "__main__":
    run(main)
