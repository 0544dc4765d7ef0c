"""How runs are told apart: by colour, and by dashes and markers where there are no colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from heated.reporting.results import Result

# After M. Okabe, K. Ito: told apart with every kind of colour vision.
COLOURS = ("#555555", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("s", "o", "^", "D", "v", "P", "X")
SCALES = {"recall_at_1": 100}  # of a history's columns: in percent
NORMALISATIONS = {
    "none": "nothing normalised",
    "l2": "L2 normalisation",
    "batch": "batch norm",
    "l2_embeddings": "L2 normalisation of embeddings",
}  # families


@dataclass(frozen=True)
class Look:
    colour: str
    dashes: str
    marker: str

    def line(self) -> dict[str, Any]:
        """Of a line with hollow markers."""
        shape = {"color": self.colour, "linestyle": self.dashes, "marker": self.marker}
        return shape | {"markersize": 4.5, "markerfacecolor": "white"}


def look(group: int, member: int) -> Look:
    """A group's colour and marker, with the dashes of one of its members."""
    turn = group % len(COLOURS)
    return Look(COLOURS[turn], DASHES[member % len(DASHES)], MARKERS[turn])


def normalisation(result: Result) -> str:
    """What is done to a run's embeddings before the classifier; empty where no record says."""
    return str(result.record["params"].get("normalise", {}).get("name", ""))


def families(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The runs by their normalisation, in the order they come up."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(normalisation(result), []).append(result)
    return found


def looks(results: Sequence[Result]) -> dict[str, Look]:
    """Each method's look: a colour a family, the same in all figures; dashes a member of it."""
    order = list(NORMALISATIONS)
    return {
        result.method: look(order.index(name) if name in order else len(order), member)
        for name, family in families(results).items()
        for member, result in enumerate(family)
    }


def legend(canvas: Canvas, results: Sequence[Result]) -> None:
    """Below all panels, a column a family."""
    shown = looks(results)
    columns = list(families(results).values())
    height = max(len(column) for column in columns)
    handles = [
        Line2D([], [], label=result.method, **shown[result.method].line())
        for column in columns
        for result in column
    ]
    ends = [sum(len(c) for c in columns[: i + 1]) for i in range(len(columns))]
    for end, column in reversed(list(zip(ends, columns, strict=True))):
        blank = Line2D([], [], linestyle="none", label=" ")
        handles[end:end] = [blank] * (height - len(column))
    canvas.legend(handles=handles, loc="outside lower center", ncols=len(columns), handlelength=3.5)


def over_epochs(axes: Axes, result: Result, column: str, look: Look) -> None:
    """The mean over seeds as a line, Recall@1 in percent."""
    epochs, values = result.curve(column)
    every = max(1, len(epochs) // 8)
    heights = [SCALES.get(column, 1) * value for value in values]
    axes.plot(epochs, heights, label=result.method, markevery=every, **look.line())


def moment(axes: Axes, result: Result, column: str, look: Look) -> None:
    """A dot at the first epoch after alpha fell, if it did: the moment of heating."""
    heated, points = result.heated_at(), zip(*result.curve(column), strict=True)
    later = [(x, y) for x, y in points if heated is not None and x >= heated]
    if later:
        x, y = later[0]
        axes.plot(x, SCALES.get(column, 1) * y, "o", color=look.colour, markersize=8, zorder=3)
