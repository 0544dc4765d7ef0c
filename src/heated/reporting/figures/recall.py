"""Recall@1 in figures: in percent, the mean with its 95 % interval."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from heated.reporting.figures.looks import Look
from heated.reporting.results import Result

LABEL = "Recall@1 (%)"


def mean(result: Result) -> float:
    """The seeds' mean, in percent."""
    return float(100 * result.metrics["recall_at_1"]["mean"])


def told(result: Result) -> str:
    """The mean as text: `79.36`."""
    return f"{mean(result):.2f}"


def half(result: Result) -> float | None:
    """Half of the interval's width, in percent; None where one seed has no interval."""
    interval = result.metrics["recall_at_1"]["interval"]
    return None if interval is None else float(50 * (interval[1] - interval[0]))


def seeds(result: Result) -> dict[str, float]:
    """Each seed's value, in percent."""
    values = result.metrics["recall_at_1"]["seeds"]
    return {seed: 100 * value for seed, value in values.items()}


def numbers(results: Sequence[Result]) -> str:
    """How many seeds the means are of: `3 seeds`, or `2 to 3 seeds`."""
    counts = sorted({result.metrics["recall_at_1"]["n"] for result in results})
    return " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) + (
        " seed" if counts[-1] == 1 else " seeds"
    )


def point(axes: Axes, x: float, result: Result, look: Look, **more: Any) -> None:
    """The mean as a marker, with its interval."""
    axes.errorbar(
        x,
        mean(result),
        half(result),
        fmt=look.marker,
        color=look.colour,
        markerfacecolor="white",
        markersize=6,
        capsize=3,
        zorder=3,
        **more,
    )


def within_bounds(axes: Axes) -> None:
    """No part of the axis is further than a point from what a recall can be."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1), min(high, 101))
