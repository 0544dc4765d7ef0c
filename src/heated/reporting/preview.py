"""Draw alpha, temperature and learning rate of every method, before any training.

`python -m heated.reporting.preview` reads the resolved settings, which `python -m stages.resolve`
writes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure as Canvas

from heated.common.cli import run
from heated.common.io import write_text
from heated.common.paths import resolved
from heated.reporting.figures.base import STYLE, canvas, svg, ticks_at
from heated.reporting.html import environment
from heated.training.schedules import SCHEDULES, schedule_values

PAGE = Path("preview.html")  # git ignores it; report/ is one output of the pipeline, whole
COLORS = {"alpha": "C2", "temperature": "C1", "lr": "C0"}
Schedules = dict[str, list[float]]  # COLORS' keys, a value an epoch
Rows = dict[str, Schedules]  # by the names of the methods that share them


def scheduled(settings: Mapping[str, Any]) -> Schedules:
    """Alpha, temperature and learning rate in each epoch, from what params.yaml says of a data
    set's training and of a method; without the first two where no schedule sets them."""

    def by_epoch(choice: Mapping[str, Any]) -> list[float]:
        options = {key: value for key, value in choice.items() if key != "name"}
        return schedule_values(choice["name"], options, epochs=settings["epochs"])

    lr = {"lr": [settings["lr"] * factor for factor in by_epoch(settings["lr_factor"])]}
    if settings.get("alpha", {"name": None})["name"] not in SCHEDULES:
        return lr
    alphas = by_epoch(settings["alpha"])
    return {"alpha": alphas, "temperature": [1 / alpha for alpha in alphas], **lr}


def planned(grids: Mapping[str, Any]) -> dict[str, dict[str, Rows]]:
    """Return by data set and study the schedules of all methods that are to be trained."""
    found: dict[str, dict[str, Rows]] = {}
    for study, grid in grids.items():
        for dataset in grid["datasets"]:
            each = {
                method: scheduled(resolved(f"runs/{dataset}/{method}.json")["settings"])
                for method in grid["methods"]
            }
            found.setdefault(dataset, {})[study] = shared(each)
    return found


def shared(schedules: Mapping[str, Schedules]) -> Rows:
    """Methods of equal schedules together, in the order they come up.

    >>> shared({"ln": {"alpha": [16.0]}, "ln-4": {"alpha": [4.0]}, "bn": {"alpha": [16.0]}})
    {'ln, bn': {'alpha': [16.0]}, 'ln-4': {'alpha': [4.0]}}
    """
    names: dict[str, list[str]] = {}
    for name, each in schedules.items():
        names.setdefault(repr(each), []).append(name)
    return {", ".join(alike): schedules[alike[0]] for alike in names.values()}


def told(row: Sequence[float]) -> str:
    """A schedule's ends: one value where it never changes.

    >>> told([16, 16]), told([16, 4])
    ('16', '16 → 4')
    """
    ends = [row[0]] if len(set(row)) == 1 else [row[0], row[-1]]
    return " → ".join(f"{value:g}" for value in ends)


def described(rows: Rows) -> str:
    """All schedules' ends in words."""
    texts = [
        f"{names}: " + ", ".join(f"{key} {told(row[key])}" for key in COLORS if key in row)
        for names, row in rows.items()
    ]
    return "; ".join(texts) + "."


def drawn(rows: Rows) -> Canvas:
    """A row for each schedule, a column a quantity, of one scale."""
    sheet = canvas(0.4 + 1.45 * len(rows))
    panels = sheet.subplots(len(rows), len(COLORS), sharex=True, sharey="col", squeeze=False)
    for row, (names, schedules) in zip(panels, rows.items(), strict=True):
        row[0].set_title(fill(names, 70) + "\n", loc="left", weight="bold")
        for axes, (quantity, color) in zip(row, COLORS.items(), strict=True):
            if quantity not in schedules:
                axes.set_title(f"{quantity}: no schedule", loc="right")
                continue
            heights = schedules[quantity]
            axes.stairs(heights, baseline=None, color=color, linewidth=2.5)
            axes.set_title(f"{quantity} {told(heights)}", loc="right")
    for top, bottom, quantity in zip(panels[0], panels[-1], COLORS, strict=True):
        shown = [row[quantity] for row in rows.values() if quantity in row]
        top.set_yscale("log", base=2)
        ticks_at(top.yaxis, sorted({each[i] for each in shown for i in (0, -1)}))
        bottom.set_xlabel("epoch")
    return sheet


@style.context(STYLE)
def preview(grids: Mapping[str, Any]) -> str:
    """Return HTML with a figure for each data set and study."""
    sections = []
    for dataset, studies in planned(grids).items():
        for study, rows in studies.items():
            text = svg(drawn(rows), "Schedules")
            image = Markup(text[text.index("<svg") :])  # made by matplotlib, so no escaping
            section = {"dataset": dataset, "study": study, "svg": image}
            sections.append({**section, "description": described(rows)})
    template = environment().get_template("reporting/templates/preview.html")
    return template.render(sections=sections)


def main() -> None:
    """Write the page, and print its address."""
    write_text(PAGE, preview(resolved("report.json")["grids"]))
    print(f"{PAGE.resolve().as_uri()}")


if __name__ == "__main__":
    run(main)
