"""Curves over epochs as SVG text, colour-blind-safe, the same bytes for the same numbers."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heated.reporting.results import Result

PANELS = {
    "recall_at_1": "Recall@1, unseen classes",
    "alpha": "alpha = 1 / temperature",
    "loss": "training loss",
}
# P. Okabe, K. Ito: told apart with every kind of colour vision; dashes tell the second round.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
DASHES = ("-", "--", ":")
STYLE: dict[Any, Any] = {"svg.hashsalt": "heated", "svg.fonttype": "path", "font.size": 9}


def curves(results: Sequence[Result]) -> str:
    """One SVG with a panel a quantity and a line a method (mean over seeds); a dot is the first
    epoch after alpha fell: the moment of heating."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4), layout="constrained")
        for axes, (column, heading) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
            for index, result in enumerate(results):
                draw(axes, result, column, index)
            axes.set(title=heading, xlabel="epoch")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[1].set_yscale("log", base=2)
        figure.axes[1].yaxis.set_major_formatter("{x:g}")
        lines = figure.axes[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=10)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def draw(axes: Axes, result: Result, column: str, index: int) -> None:
    """A method's line, with its moment of heating."""
    epochs, values = result.curve(column)
    colour = COLOURS[index % len(COLOURS)]
    dashes = DASHES[index // len(COLOURS) % len(DASHES)]
    axes.plot(epochs, values, color=colour, linestyle=dashes, label=result.method, linewidth=1.5)
    heated = result.heated_at()
    later = [
        (epoch, value)
        for epoch, value in zip(epochs, values, strict=True)
        if heated is not None and epoch >= heated
    ]
    if later:
        axes.plot(*later[0], "o", color=colour, markersize=5)
