"""Describe the results of testing claims: verdict, effect, interval, and what would decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from heated.analysis.claims import MIN_SEEDS, TARGET_POWER
from heated.reporting.paper_results import paper_value
from heated.reporting.run_results import RunResult
from heated.reporting.tables import format_points, metric_title

ClaimResult = Mapping[str, Any]
Runs = Sequence[RunResult]
Section = Mapping[str, Any]  # a data set's section of the configuration
Grids = Mapping[str, Mapping[str, Any]]  # data sets and methods of `run` and of each study

SYMBOLS = {
    "supported": "✓",
    "contradicted": "✗",
    "no relevant difference": "≈",
    "undecided": "?",
    "no verdict": "·",
    "not run": "–",
}
# The p-value that a verdict is based on, and its name in the text; `p` for all other verdicts.
DECIDING_P = {
    "contradicted": ("p_against", "p of the opposite"),
    "no relevant difference": ("p_equivalent", "p of a relevant difference"),
}
ORIGINS = {
    "paper": "claimed by the paper",
    "authors": "from the authors' code and figure",
    "open": "open: not addressed by the paper",
}
METRIC_NAMES = {
    "accuracy": "Training accuracy",
    "intra_class_variance": "Intra-class variance (lower is more compact)",
    "nmi_geometric": "NMI",
}


@dataclass(frozen=True)
class ClaimText:
    """A claim's result in words."""

    statement: str
    origin: str  # with its status, confirmatory or exploratory
    verdict: str
    symbol: str  # so that the verdict is not conveyed by color alone
    evidence: str  # on the comparison farthest from support; empty if not tested
    notes: list[str]
    parts: list[str]  # the evidence on each comparison if there are several


def describe_claim(claim: ClaimResult, results: Runs, section: Section, grids: Grids) -> ClaimText:
    """Describe a claim's result."""
    tested = claim["verdict"] != "not run"
    parts = claim["parts"] if len(claim["parts"]) > 1 else []
    return ClaimText(
        statement=claim["statement"],
        origin=f"{ORIGINS[claim['origin']]}; {claim['status']}",
        verdict=claim["verdict"],
        symbol=SYMBOLS[claim["verdict"]],
        evidence=describe_comparison(claim, results, section) if tested else "",
        notes=verdict_notes(claim) if tested else missing_methods(claim, results, grids),
        parts=[describe_comparison(part, results, section) for part in parts],
    )


def describe_comparison(part: ClaimResult, results: Runs, section: Section) -> str:
    """Describe a comparison, with the paper's difference if both runs follow its protocol."""
    metric, details, effect = part["metric"], f"n = {part['n']}", "no seed in common"
    if part["effect"] is not None:
        effect = f"{format_points(part['effect'])} points"
    if part["interval"] is not None:
        low, high = part["interval"]
        details = f"95 % CI [{format_points(low)}, {format_points(high)}], {details}"
        if part["p"] is not None and low <= 0 <= high:
            details, effect = f"{effect}, {details}", "no significant difference"
    name = METRIC_NAMES.get(metric, metric_title(metric).replace("R@", "Recall@"))
    text = f"{name}, {comparison_title(part)}: {effect} ({details})"
    if part["p"] is not None:
        p, adjusted = format_deciding_p(part)
        text += f"; {p}" + (f", after Holm's correction {adjusted}" if adjusted else "")
    if part["margin"]:
        text += f"; claimed: above {format_points(-part['margin'])}"
    paper = paper_difference(part, results, section)
    return text + ("." if paper is None else f". Paper: {format_points(paper)}.")


def comparison_title(part: ClaimResult) -> str:
    """Format the two sides of a comparison.

    >>> comparison_title({"a": "hbn + bn", "b": "bn-heat + bn-drop"})
    'mean(hbn, bn) − mean(bn-heat, bn-drop)'
    """
    sides = (part[side].split(" + ") for side in ("a", "b"))
    return " − ".join(f"mean({', '.join(each)})" if len(each) > 1 else each[0] for each in sides)


def format_deciding_p(part: ClaimResult) -> tuple[str, str]:
    """Format the p-value that a verdict is based on, and after Holm's correction (claims only).

    >>> format_deciding_p({"verdict": "supported", "p": 0.0001, "p_adjusted": 0.04})
    ('p < 0.001', '0.040')
    >>> p = {"p": 0.99, "p_against": 0.01, "p_against_adjusted": 0.0001}
    >>> format_deciding_p(p | {"verdict": "contradicted"}), format_deciding_p({"p": 0.3})
    (('p of the opposite = 0.010', '< 0.001'), ('p = 0.300', ''))
    """
    key, name = DECIDING_P.get(part.get("verdict", ""), ("p", "p"))
    p, adjusted = (
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
        for p in (part[key], part.get(f"{key}_adjusted"))
    )
    return f"{name} {p}" if p[0] == "<" else f"{name} = {p}", adjusted


def paper_difference(part: ClaimResult, results: Runs, section: Section) -> float | None:
    """Compare the paper's values; None unless the paper has one for every method."""
    records = {result.method: result.record for result in results}
    means = []
    for side in ("a", "b"):
        methods = part[side].split(" + ")
        values = [paper_value(records[name], section, part["metric"]) for name in methods]
        means.append(nan if None in values else sum(filter(None, values)) / len(values))
    return None if isnan(sum(means)) else means[0] - means[1]


def verdict_notes(claim: ClaimResult) -> list[str]:
    """Describe how an open claim could be decided, or how the correction changes a verdict."""
    if claim["verdict"] == "no verdict":
        return [f"A verdict needs at least {MIN_SEEDS} seeds with differences that vary."]
    if claim["verdict"] != "undecided":
        changed = claim["verdict"] != claim["verdict_adjusted"]
        return [f"After Holm's correction: {claim['verdict_adjusted']}."] if changed else []
    effect = format_points(claim["margin"] or claim["smallest_effect"]).removeprefix("+")
    if claim["seeds_needed"] is None:
        return [f"Even 10,000 seeds would not detect an effect of {effect} points."]
    return [
        f"Detecting an effect of {effect} points needs {claim['seeds_needed']:,} seeds "
        f"({100 * TARGET_POWER:.0f} % power at the observed standard deviation)."
    ]


def missing_methods(claim: ClaimResult, results: Runs, grids: Grids) -> list[str]:
    """Describe the changes of the configuration that are needed to test a claim."""
    dataset, trained = claim["dataset"], {result.method for result in results}
    by_change: dict[str, list[str]] = {}
    for method in claim["missing"]:
        studies = (name for name in grids if name not in ("run", "embeddings_2d"))
        study = next((name for name in studies if method in grids[name]["methods"]), None)
        if method in trained:
            change = f"datasets.{dataset}.evaluation does not include {claim['metric']}"
        elif dataset not in grids["run"]["datasets"]:
            change = "add to studies.embeddings_2d.methods"
        else:
            change = f"add {dataset} to studies.{study}.datasets" if study else "add to run.methods"
        by_change.setdefault(change, []).append(method)
    return [f"Missing {', '.join(methods)}: {change}." for change, methods in by_change.items()]
