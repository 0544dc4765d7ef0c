"""A figure of the report: SVG text, the same bytes for the same numbers, readable without colours.

All are of one width and one size of letters, so that they can be scaled alike, down to a phone's.
"""

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Canvas

WIDTH = 6.4  # inches
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "heated",
    "svg.fonttype": "path",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Figure:
    """`name` is that of its file, without .svg; `description` says in words what is to be seen."""

    name: str
    title: str
    description: str
    svg: str


def canvas(height: float) -> Canvas:
    """An empty figure of so many inches."""
    return Canvas(figsize=(WIDTH, height), layout="constrained")


def svg(canvas: Canvas, title: str) -> str:
    """SVG text; STYLE has to hold from before the canvas is made."""
    text = io.StringIO()
    canvas.savefig(text, format="svg", dpi=150, metadata={"Date": None, "Title": title})
    return text.getvalue()
