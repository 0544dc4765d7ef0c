"""What figures share: their file, which runs they show, and how the runs are told apart.

Their style is report.mplstyle. They are readable without colors.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from heated.reporting.results import Result, half_width

STYLE = "heated.reporting.figures.report"
RECALL = "Recall@1 (%)"
DASHES = ("-", "--", ":", "-.")
MARKERS = "so^DvPX"  # one for each color of the style
NORMALISATIONS = {
    "none": "nothing normalised",
    "l2": "L2 normalisation",
    "batch": "batch norm",
    "l2_embeddings": "L2 normalisation of embeddings",
}  # families
Studies = Mapping[str, Sequence[str]]  # the methods of each study that were trained
Look = dict[str, Any]  # a line's properties
Drawing = tuple[str, Canvas]  # what is to be seen in words, and the figure


@dataclass(frozen=True)
class Figure:
    """`name` is that of its file, without .svg; `description` says in words what is to be seen."""

    name: str
    title: str
    description: str
    svg: str


def canvas(height: float) -> Canvas:
    """An empty figure of so many inches."""
    return Canvas(figsize=(6.4, height))


def svg(canvas: Canvas, title: str) -> str:
    """SVG text; STYLE has to hold from before the canvas is made."""
    text = io.StringIO()
    canvas.savefig(text, format="svg", dpi=150, metadata={"Date": None, "Title": title})
    return text.getvalue()


def of_studies(results: Sequence[Result], studies: Studies, *names: str) -> list[Result]:
    """The runs of the named studies, in their own order."""
    methods = {method for name in names for method in studies.get(name, ())}
    return [result for result in results if result.method in methods]


def schedule(result: Result, key: str) -> Mapping[str, Any]:
    """The schedule `alpha` or `lr_factor` of a run, with its name and options."""
    return result.params.get(key) or {"name": None}


def heating(result: Result) -> tuple[float, float, float] | None:
    """Start, end and moment of alpha's step, where the learning rate drops at the same moment, as
    in the paper; else None."""
    alpha, lr_factor = schedule(result, "alpha"), schedule(result, "lr_factor")
    if (alpha["name"], lr_factor["name"]) == ("step", "step") and alpha["at"] == lr_factor["at"]:
        return float(alpha["start"]), float(alpha["end"]), float(alpha["at"])
    return None


def normalisation(result: Result) -> str:
    """What is done to a run's embeddings before the classifier; empty where no record says."""
    return str(result.params.get("normalise", {}).get("name", ""))


def families(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The runs by their normalisation, in the order they come up."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(normalisation(result), []).append(result)
    return found


def look(group: int, member: int) -> Look:
    """A group's color and marker, with the dashes of one of its members."""
    return {
        "color": f"C{group}",
        "marker": MARKERS[group % len(MARKERS)],
        "linestyle": DASHES[member % len(DASHES)],
        "markerfacecolor": "white",
        "markersize": 4.5,
    }


def looks(results: Sequence[Result]) -> dict[str, Look]:
    """Each method's look: a color a family, the same in all figures; dashes a member of it."""
    order = list(NORMALISATIONS)
    return {
        result.method: look(order.index(name) if name in order else len(order), member)
        for name, family in families(results).items()
        for member, result in enumerate(family)
    }


def legend(canvas: Canvas, results: Sequence[Result]) -> None:
    """Below all panels, a column a family."""
    shown, columns = looks(results), families(results).values()
    height = max(map(len, columns))
    handles = []
    for family in columns:
        handles += [Line2D([], [], label=r.method, **shown[r.method]) for r in family]
        handles += [Line2D([], [], linestyle="none", label=" ")] * (height - len(family))
    canvas.legend(handles=handles, loc="outside lower center", ncols=len(columns), handlelength=3.5)


def mean(result: Result) -> float:
    """The seeds' mean Recall@1, in percent."""
    return float(100 * result.metrics["recall_at_1"]["mean"])


def half(result: Result) -> float | None:
    """Half the width of Recall@1's 95 % interval, in percent; None where there is one seed."""
    width = half_width(result.metrics["recall_at_1"])
    return None if width is None else 100 * width


def told(result: Result, between: str | None = None) -> str:
    """Recall@1 as text: `79.36`; with half its interval's width where `between` is given."""
    width = half(result)
    beside = "" if between is None or width is None else f"{between}± {width:.2f}"
    return f"{mean(result):.2f}{beside}"


def numbers(results: Sequence[Result]) -> str:
    """How many seeds the means are of: `3 seeds`, or `2 to 3 seeds`."""
    counts = sorted({result.metrics["recall_at_1"]["n"] for result in results})
    ends = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{ends} seed" if counts[-1] == 1 else f"{ends} seeds"


def point(axes: Axes, x: float, result: Result, look: Look, **more: Any) -> None:
    """The mean of Recall@1 as a marker, with its interval."""
    options = {**look, "linestyle": "none", "markersize": 6, "zorder": 3, **more}
    axes.errorbar(x, mean(result), half(result), **options)


def within_bounds(axes: Axes) -> None:
    """No part of the axis is further than a point from what a recall can be."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1), min(high, 101))


def ticks_at(axis: Axis, values: Sequence[float]) -> None:
    """Ticks at these values alone."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_minor_locator(NullLocator())
