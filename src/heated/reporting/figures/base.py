"""What figures share: styles (readable without colors), legends, Recall@1 with its interval."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from heated.reporting.run_results import RunResult, half_width

WIDTH = 6.4  # inches
RECALL = "Recall@1 (%)"
DASHES = ("-", "--", ":", "-.")
SHADES = (0.4, 0.65, -0.4, 0)  # of the same length; the last member is the heated method
MARKERS = "so^DvPX"  # one per color of the style
NORMALIZATIONS = {
    "none": "no normalization",
    "l2": "L2 normalization",
    "batch": "batch norm",
    "l2_embeddings": "L2-normalized embeddings",
}
LineStyle = dict[str, Any]  # properties of a line
VALUE = "value:"  # marks a link whose address is a text for its point
VALUE_LINK = re.compile(f'<a xlink:href="{VALUE}([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
DescribedFigure = tuple[str, Figure]  # the text alternative, and the figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure as SVG text, with its file name (without .svg) and a text alternative."""

    name: str
    title: str
    description: str
    svg: str


@contextmanager
def report_style() -> Iterator[None]:
    """Draw in the report's style, from matplotlib's defaults: a user's matplotlibrc has no effect.

    A context manager and a decorator.
    """
    with style.context("heated.reporting.figures.report", after_reset=True):
        yield


def svg_text(figure: Figure, title: str) -> str:
    """Save a figure as SVG text; `report_style` must be active since before it was made.

    The texts of `add_values` become SVG titles, which viewers show at the pointer.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=150, metadata={"Date": None, "Title": title})
    return VALUE_LINK.sub(r"<g><title>\1</title>\2</g>", text.getvalue())


def add_values(
    axes: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str], size: float = 11
) -> None:
    """Give points a text each, shown while the pointer is within `size` / 2 points of them.

    Matplotlib's only texts for single points are the addresses of links.
    """
    # A face that is fully transparent has no fill, and a shape without fill ignores the pointer.
    areas = axes.scatter(x, y, s=size**2, color="white", alpha=0.001, linewidths=0, clip_on=False)
    areas.set_urls([f"{VALUE}{text}" for text in texts])
    areas.set_in_layout(False)
    areas.set_zorder(9)


def schedule_of(result: RunResult, key: str) -> Mapping[str, Any]:
    """Return the name and options of a run's schedule of `alpha` or `lr_schedule`."""
    return result.params.get(key) or {"name": None}


def heating_step(result: RunResult) -> tuple[float, float, float] | None:
    """Return start, end and time of alpha's step, None unless the learning rate drops with it."""
    alpha, lr = schedule_of(result, "alpha"), schedule_of(result, "lr_schedule")
    if (alpha["name"], lr["name"]) == ("step", "step") and alpha["at"] == lr["at"]:
        return float(alpha["start"]), float(alpha["end"]), float(alpha["at"])
    return None


def alpha_title(result: RunResult) -> str:
    """Return a run's method with its first and last alpha, such as "hbn: alpha 16, then 4"."""
    alphas = result.curve("alpha")[1]
    ends = dict.fromkeys((alphas[0], alphas[-1]))
    return f"{result.method}: alpha {', then '.join(f'{alpha:g}' for alpha in ends)}"


def by_normalization(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Group runs by the normalization of embeddings, empty if the method has no such option."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        name = str(result.params.get("normalize", {}).get("name", ""))
        groups.setdefault(name, []).append(result)
    return groups


def line_style(group: int, member: int) -> LineStyle:
    """Return the color and marker of a group with the dashes of one of its members."""
    style = {"color": f"C{group}", "marker": MARKERS[group % len(MARKERS)]}
    dashes = DASHES[member % len(DASHES)]
    return {**style, "linestyle": dashes, "markerfacecolor": "white", "markersize": 4.5}


def method_styles(results: Sequence[RunResult]) -> dict[str, LineStyle]:
    """Return each method's style: one color per normalization, the same in all figures."""
    order = list(NORMALIZATIONS)
    return {
        result.method: line_style(order.index(name) if name in order else len(order), member)
        for name, group in by_normalization(results).items()
        for member, result in enumerate(group)
    }


def method_colors(results: Sequence[RunResult]) -> dict[str, str]:
    """Return each method's color where no dashes are drawn: a shade of its color per dash."""
    with report_style():
        return {
            method: to_hex(shade(style["color"], SHADES[DASHES.index(style["linestyle"])]))
            for method, style in method_styles(results).items()
        }


def shade(color: str, share: float) -> tuple[float, float, float]:
    """Mix a color with a share of white, or of black if it is negative.

    >>> [tuple(map(float, shade("red", share))) for share in (0, 0.5, -0.5)]
    [(1.0, 0.0, 0.0), (1.0, 0.5, 0.5), (0.5, 0.0, 0.0)]
    """
    red, green, blue = ((1 - abs(share)) * part + max(share, 0) for part in to_rgb(color))
    return red, green, blue


def add_legend(figure: Figure, results: Sequence[RunResult]) -> None:
    """Add a legend below all panels, with one column per normalization."""
    styles, columns = method_styles(results), by_normalization(results).values()
    height = max(map(len, columns))
    handles = []
    for group in columns:
        handles += [Line2D([], [], label=r.method, **styles[r.method]) for r in group]
        handles += [Line2D([], [], linestyle="none", label=" ")] * (height - len(group))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(columns), handlelength=3.5)


def mean_recall(result: RunResult) -> float:
    """Return the mean Recall@1 over the seeds, in percent."""
    return float(100 * result.metrics["recall_at_1"]["mean"])


def format_recall(result: RunResult, separator: str | None = None) -> str:
    """Format Recall@1, after the separator also half the width of its interval if it has one."""
    width = half_width(result.metrics["recall_at_1"])
    half = "" if separator is None or width is None else f"{separator}± {100 * width:.2f}"
    return f"{mean_recall(result):.2f}{half}"


def seed_count(results: Sequence[RunResult]) -> str:
    """Format the number of seeds of the means: "3 seeds" or "2 to 3 seeds"."""
    counts = sorted({result.metrics["recall_at_1"]["n"] for result in results})
    ends = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{ends} seed" if counts[-1] == 1 else f"{ends} seeds"


def plot_recall(axes: Axes, x: float, result: RunResult, style: LineStyle, **changes: Any) -> None:
    """Plot the mean of Recall@1 as a marker, with its interval."""
    width = half_width(result.metrics["recall_at_1"])
    options = {**style, "linestyle": "none", "markersize": 6, "zorder": 3, **changes}
    axes.errorbar(x, mean_recall(result), None if width is None else 100 * width, **options)
    text = f"{result.method}: Recall@1 {format_recall(result, ' ')} %"
    add_values(axes, [x], [mean_recall(result)], [text])


def clip_to_percent(axes: Axes) -> None:
    """Limit the y axis to the possible range of Recall@1, with a margin of one point."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1), min(high, 101))


def set_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Put ticks at these values only."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_minor_locator(NullLocator())
