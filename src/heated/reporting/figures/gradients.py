"""How strongly a trained model's samples are pulled at each alpha, by kind of sample."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from heated.common.io import read_json
from heated.reporting.figures.base import Drawing, Studies, canvas
from heated.reporting.results import Result

KINDS = {
    "centroid": "near the centroid",
    "boundary": "near the boundary",
    "misclassified": "misclassified",
}
BANDS = (("0.1", "0.9", 0.2), ("0.25", "0.75", 0.35))  # quantiles, and how opaque
Curves = Mapping[str, Any]  # of one seed


def gradients(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """The first seed's model of every method that the stage looked at: a row a method, a column a
    kind, each with a scale of its own; None where there is none."""
    curves = {}
    for result in results:
        path = result.folder / "gradients.json"
        if path.exists():
            seeds = read_json(path)["seeds"]
            curves[result.method] = seeds[min(seeds, key=int)]
    return drawing(curves) if curves else None


def drawing(curves: Mapping[str, Curves]) -> Drawing:
    """The curves by method, with where the kinds peak in words."""
    sheet = canvas(0.5 + 2.2 * len(curves))
    panels = sheet.subplots(len(curves), len(KINDS), sharex=True, squeeze=False)
    for row, (method, each) in zip(panels, curves.items(), strict=True):
        for index, (axes, kind) in enumerate(zip(row, KINDS, strict=True)):
            of_kind(axes, each, kind, f"C{index + 1}")
        row[0].set_ylabel(method + "\n" + r"$\|\partial\ell/\partial\hat{f}\|$")
    for top, bottom, title in zip(panels[0], panels[-1], KINDS.values(), strict=True):
        top.set_title(title)
        bottom.set_xlabel("alpha")
    sentences = [
        f"{method}: {', '.join(f'{shown} {peak(each, kind)}' for kind, shown in KINDS.items())}."
        for method, each in curves.items()
    ]
    return (
        "The length of the loss's gradient by a normalised embedding, against alpha, of the first "
        "seed's model: the median over samples, bands from 10 to 90 % and from 25 to 75 % of "
        f"them, a dotted line at the alpha it was left at. Median peaks: {' '.join(sentences)}"
    ), sheet


def peak(curves: Curves, kind: str) -> str:
    """Where one kind's samples are pulled most, if that is between the alphas looked at."""
    if kind not in curves["kinds"]:
        return "no sample"
    found, alphas = curves["kinds"][kind], curves["alphas"]
    if found["peak_alpha"] == alphas[-1]:
        return f"still rising at alpha {alphas[-1]:g}, to {found['quantiles']['0.5'][-1]:.1f}"
    below = " or below" if found["peak_alpha"] == alphas[0] else ""
    return f"{found['peak_norm']:.1f} at alpha {found['peak_alpha']:g}{below}"


def of_kind(axes: Axes, curves: Curves, kind: str, color: str) -> None:
    """The median and the bands of one kind's samples."""
    axes.axvline(curves["alpha"], color="black", linestyle=":", linewidth=1)
    if kind not in curves["kinds"]:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
        return
    found, alphas = curves["kinds"][kind], curves["alphas"]
    for low, high, opaque in BANDS:
        pair = (found["quantiles"][low], found["quantiles"][high])
        axes.fill_between(alphas, *pair, color=color, alpha=opaque, linewidth=0)
    axes.plot(alphas, found["quantiles"]["0.5"], color=color, linewidth=2)
    axes.set_xlim(0, alphas[-1])
    axes.set_ylim(bottom=0)
    axes.text(0.97, 0.95, f"n = {found['n']}", ha="right", va="top", transform=axes.transAxes)
