"""Judgements on claims in words: verdict, effect, interval, and what would decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.analysis.claims import MIN_SEEDS, TARGET_POWER
from heated.reporting.paper import published
from heated.reporting.results import Result
from heated.reporting.tables import title

Judgement = Mapping[str, Any]
Grids = Mapping[str, Mapping[str, Any]]  # datasets and methods of `run` and each study

SYMBOLS = {
    "supported": "✓",
    "contradicted": "✗",
    "no relevant difference": "≈",
    "undecided": "?",
    "no verdict": "·",
    "not run": "–",
}
DECISIVE = {"contradicted": "p_against", "no relevant difference": "p_equivalent"}
P_OF = {"contradicted": "p of the opposite", "no relevant difference": "p of a relevant difference"}
ORIGINS = {
    "paper": "claimed by the paper",
    "authors": "from the authors' code and figure",
    "open": "left open by the paper",
}
WORDS = {
    "accuracy": "Training accuracy",
    "compactness": "Compactness (lower is more compact)",
    "nmi_geometric": "NMI",
}
LEAST = 0.001  # of p, that is told


@dataclass(frozen=True)
class Verdict:
    """A claim as the page tells it: `evidence` on the comparison farthest from holding, `notes` on
    how to take it, `parts` the evidence on each comparison of several."""

    says: str
    origin: str
    verdict: str
    evidence: str
    notes: list[str]
    parts: list[str]

    @property
    def symbol(self) -> str:
        """What stands beside the word, so that neither is told by colour alone."""
        return SYMBOLS[self.verdict]


def verdict(
    judgement: Judgement, results: Sequence[Result], section: Mapping[str, Any], grids: Grids
) -> Verdict:
    """A judgement in words. section: what params.yaml says of the data set."""
    parts = judgement["parts"] if len(judgement["parts"]) > 1 else []
    ran = judgement["verdict"] != "not run"
    return Verdict(
        says=judgement["says"],
        origin=f"{ORIGINS[judgement['origin']]}, {judgement['status']}",
        verdict=judgement["verdict"],
        evidence=evidence(judgement, results, section) if ran else "",
        notes=notes(judgement) if ran else remedies(judgement, results, grids),
        parts=[evidence(part, results, section) for part in parts],
    )


def evidence(part: Judgement, results: Sequence[Result], section: Mapping[str, Any]) -> str:
    """A comparison in a sentence, with the paper's own number where the protocols agree."""
    metric = part["metric"]
    name = WORDS.get(metric, title(metric).replace("R@", "Recall@"))
    told = f"{name}, {compared(part)}: "
    told += "no seed in common" if part["effect"] is None else f"{points(part['effect'])} points"
    if part["interval"] is not None:
        told += f", 95 % interval {' to '.join(map(points, part['interval']))}"
    told += f"; n = {part['n']}"
    if part["p"] is not None:
        told += f"; {chance(part)}"
    if part["margin"]:
        told += f"; claimed to be above {points(-part['margin'])}"
    printed = in_paper(part, results, section)
    return f"{told}." if printed is None else f"{told}. In the paper: {points(printed)}."


def compared(part: Judgement) -> str:
    """The two sides of a comparison.

    >>> compared({"a": "hbn + bn", "b": "bn-heat + bn-drop"}), compared({"a": "hbn", "b": "bn"})
    ('mean(hbn, bn) − mean(bn-heat, bn-drop)', 'hbn − bn')
    """
    sides = (part[side].split(" + ") for side in ("a", "b"))
    return " − ".join(f"mean({', '.join(each)})" if len(each) > 1 else each[0] for each in sides)


def chance(part: Judgement) -> str:
    """p of what the verdict says, also after Holm where it is a claim's.

    >>> chance({"p": 0.0001, "p_adjusted": 0.04, "verdict": "supported"}), chance({"p": 0.3})
    ('p < 0.001, after Holm 0.040', 'p = 0.300')
    >>> p = {"p": 0.99, "p_against": 0.01, "p_against_adjusted": 0.04}
    >>> chance(p | {"verdict": "contradicted"})
    'p of the opposite = 0.010, after Holm 0.040'
    """
    if "verdict" not in part:
        return f"p {equals(part['p'])}"
    alone, adjusted = decisive(part)
    return f"{P_OF.get(part['verdict'], 'p')} {equals(alone)}, after Holm {probability(adjusted)}"


def decisive(judgement: Judgement) -> tuple[float, float]:
    """The p that a verdict rests on, before and after Holm's correction."""
    p = DECISIVE.get(judgement["verdict"], "p")
    return judgement[p], judgement[f"{p}_adjusted"]


def survives(judgement: Judgement) -> bool:
    """Whether the verdict is the same after the correction for the number of claims."""
    return bool(judgement["verdict"] == judgement["verdict_adjusted"])


def equals(p: float) -> str:
    """p with its sign of equality."""
    return probability(p) if p < LEAST else f"= {probability(p)}"


def probability(p: float) -> str:
    """p to three places, or that it is below."""
    return f"< {LEAST}" if p < LEAST else f"{p:.3f}"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign.

    >>> points(0.0123), points(-0.5), points(-1e-9)
    ('+1.23', '−50.00', '0.00')
    """
    told = f"{100 * share:+.2f}"
    return told.replace("-", "−") if float(told) else "0.00"


def in_paper(
    part: Judgement, results: Sequence[Result], section: Mapping[str, Any]
) -> float | None:
    """The comparison of the paper's own numbers; None unless there is one of every method."""
    records = {result.method: result.record for result in results}
    sides = []
    for side in ("a", "b"):
        names = part[side].split(" + ")
        values = [published(records[name], section, part["metric"]) for name in names]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        sides.append(sum(known) / len(known))
    return sides[0] - sides[1]


def notes(judgement: Judgement) -> list[str]:
    """What would decide a claim, and whether its verdict survives the correction."""
    if judgement["verdict"] == "no verdict":
        return [f"A verdict needs at least {MIN_SEEDS} seeds whose differences vary."]
    if judgement["verdict"] == "undecided":
        return [power_note(judgement)]
    if not survives(judgement):
        return [f"After Holm's correction: {judgement['verdict_adjusted']}."]
    return []


def power_note(judgement: Judgement) -> str:
    """How many seeds would detect the smallest effect of interest."""
    effect = points(judgement["margin"] or judgement["smallest_effect"]).removeprefix("+")
    if judgement["seeds_needed"] is None:
        return f"Not even 10,000 seeds would detect an effect of {effect} points."
    return (
        f"To detect an effect of {effect} points takes {judgement['seeds_needed']:,} seeds "
        f"({100 * TARGET_POWER:.0f} % power, with the spread seen)."
    )


def remedies(judgement: Judgement, results: Sequence[Result], grids: Grids) -> list[str]:
    """What to change in params.yaml so that the claim can be tested, a sentence a change."""
    dataset, ran = judgement["dataset"], {result.method for result in results}
    wanted: dict[str, list[str]] = {}
    for method in judgement["missing"]:
        change = remedy(dataset, method, grids)
        if method in ran:
            change = f"{judgement['metric']} is not among what datasets.{dataset}.evaluation gives"
        wanted.setdefault(change, []).append(method)
    return [f"Lacks {', '.join(methods)}: {change}." for change, methods in wanted.items()]


def remedy(dataset: str, method: str, grids: Grids) -> str:
    """What to name where, for a method to be trained on a data set."""
    if dataset not in grids["run"]["datasets"]:
        return "add to studies.planes.methods"
    for study, grid in grids.items():
        if study not in ("run", "planes") and method in grid["methods"]:
            return f"add {dataset} to studies.{study}.datasets"
    return "add to run.methods"


def counts(verdicts: Sequence[Verdict]) -> str:
    """How many claims have which verdict, those that occur.

    >>> counts([])
    '0 claims'
    """
    found = [verdict.verdict for verdict in verdicts]
    each = ", ".join(f"{found.count(kind)} {kind}" for kind in SYMBOLS if kind in found)
    return f"{len(found)} claims: {each}" if found else "0 claims"
