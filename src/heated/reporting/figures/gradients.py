"""How strongly a trained model's samples are pulled at each alpha, by kind of sample."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from heated.common.io import read_json
from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import COLOURS
from heated.reporting.figures.selecting import Studies
from heated.reporting.results import Result

KINDS = {
    "centroid": "near the centroid",
    "boundary": "near the boundary",
    "misclassified": "misclassified",
}
BANDS = (("0.1", "0.9", 0.2), ("0.25", "0.75", 0.35))  # quantiles, and how opaque
TITLE = "How strongly samples are pulled, by alpha"
Curves = Mapping[str, Any]  # of one seed


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """The first seed's model of every method that the study looked at; None where it has none."""
    curves = {result.method: first_seed(result) for result in results if looked_at(result)}
    if not curves:
        return None
    return Figure("gradients", TITLE, description(curves), svg(drawn(curves), TITLE))


def looked_at(result: Result) -> bool:
    """Whether the study of gradients was made of a run."""
    return (result.folder / "gradients.json").exists()


def first_seed(result: Result) -> Curves:
    """The curves of the first seed's model."""
    seeds = read_json(result.folder / "gradients.json")["seeds"]
    curves: Curves = seeds[min(seeds, key=int)]
    return curves


def description(curves: Mapping[str, Curves]) -> str:
    """Where the kinds of each method peak."""
    sentences = " ".join(f"{method}: {peaks(each)}." for method, each in curves.items())
    return (
        "The length of the loss's gradient by a normalised embedding, against alpha, of the first "
        "seed's model: the median over samples, bands from 10 to 90 % and from 25 to 75 % of "
        f"them, a dotted line at the alpha it was left at. Median peaks: {sentences}"
    )


def peaks(curves: Curves) -> str:
    """The kinds' medians of the largest norm and of the alpha where it is."""
    kinds, alphas = curves["kinds"], curves["alphas"]
    texts = (peak(kinds[kind], alphas) if kind in kinds else "no sample" for kind in KINDS)
    return ", ".join(f"{shown} {text}" for shown, text in zip(KINDS.values(), texts, strict=True))


def peak(kind: Curves, alphas: Sequence[float]) -> str:
    """Where one kind's samples are pulled most, if that is between the alphas looked at."""
    if kind["peak_alpha"] == alphas[-1]:
        return f"still rising at alpha {alphas[-1]:g}, to {kind['quantiles']['0.5'][-1]:.1f}"
    below = " or below" if kind["peak_alpha"] == alphas[0] else ""
    return f"{kind['peak_norm']:.1f} at alpha {kind['peak_alpha']:g}{below}"


def drawn(curves: Mapping[str, Curves]) -> Canvas:
    """A row a method, a column a kind, each with a scale of its own."""
    sheet = canvas(0.5 + 2.2 * len(curves))
    panels = sheet.subplots(len(curves), len(KINDS), sharex=True, squeeze=False)
    for row, (method, each) in zip(panels, curves.items(), strict=True):
        for index, (axes, kind) in enumerate(zip(row, KINDS, strict=True)):
            of_kind(axes, each, kind, COLOURS[index + 1])
        row[0].set_ylabel(method + "\n" + r"$\|\partial\ell/\partial\hat{f}\|$")
    for axes, title in zip(panels[0], KINDS.values(), strict=True):
        axes.set_title(title)
    for axes in panels[-1]:
        axes.set_xlabel("alpha")
    return sheet


def of_kind(axes: Axes, curves: Curves, kind: str, colour: str) -> None:
    """The median and the bands of one kind's samples."""
    axes.grid()
    axes.axvline(curves["alpha"], color="black", linestyle=":", linewidth=1)
    if kind not in curves["kinds"]:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
        return
    found, alphas = curves["kinds"][kind], curves["alphas"]
    for low, high, opaque in BANDS:
        pair = (found["quantiles"][low], found["quantiles"][high])
        axes.fill_between(alphas, *pair, color=colour, alpha=opaque, linewidth=0)
    axes.plot(alphas, found["quantiles"]["0.5"], color=colour, linewidth=2)
    axes.set_xlim(0, alphas[-1])
    axes.set_ylim(bottom=0)
    axes.text(0.97, 0.95, f"n = {found['n']}", ha="right", va="top", transform=axes.transAxes)
