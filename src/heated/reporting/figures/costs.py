"""Recall@1 of competitors against the seconds that their training takes."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from heated.reporting.costs import Cost, costs
from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import COLOURS, MARKERS
from heated.reporting.figures.recall import LABEL
from heated.reporting.figures.selecting import Studies
from heated.reporting.results import Result

TITLE = "What accuracy costs"
KINDS = ("softmax and relatives", "pytorch-metric-learning's losses")


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """A point a method; None where the study was not run."""
    found = costs(results, studies)
    if not found:
        return None
    ours = {result.method for result in results if "loss" not in result.record["params"]}
    ranked = sorted(found, key=lambda each: -each.recall.mean)
    words = ", ".join(f"{each.method} {each.recall} ({each.seconds:.0f} s)" for each in ranked)
    described = (
        "Recall@1 (%) with its 95 % interval against the median seconds of a training; the best "
        f"first: {words}."
    )
    return Figure("costs", TITLE, described, svg(drawn(ranked, ours), TITLE))


def drawn(ranked: Sequence[Cost], ours: set[str]) -> Canvas:
    """Seconds to the right, the method's rank beside its point, and the ranks' names below."""
    sheet = canvas(5.6)
    axes = sheet.subplots()
    for rank, each in enumerate(ranked, 1):
        kind = int(each.method not in ours)
        x, y = each.seconds, 100 * each.recall.mean
        half = None if each.recall.half is None else 100 * each.recall.half
        axes.errorbar(
            x,
            y,
            half,
            fmt=MARKERS[kind],
            color=COLOURS[kind + 1],
            markerfacecolor="white",
            capsize=2,
        )
        axes.annotate(f" {rank}", (x, y), fontsize=8)
    for kind, label in enumerate(KINDS):
        axes.plot(
            [], [], MARKERS[kind], color=COLOURS[kind + 1], markerfacecolor="white", label=label
        )
    axes.set(xlabel="seconds of a training, median", ylabel=LABEL)
    axes.grid()
    names = "   ".join(f"{rank} {each.method}" for rank, each in enumerate(ranked, 1))
    sheet.supxlabel(names, fontsize=8, wrap=True)
    sheet.legend(loc="outside upper center", ncols=2)
    return sheet
