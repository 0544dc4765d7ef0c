"""The main effects of heating and of the learning rate's drop, over all released data sets."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heated.analysis.claims import MIN_SEEDS, MetricValues, paired_differences, paired_t_test
from heated.analysis.class_bootstrap import bootstrap_interval, class_effects
from heated.analysis.random_effects import combine
from heated.reporting.figures.base import WIDTH, add_values, report_style, svg_text
from heated.reporting.run_results import RunResult
from heated.reporting.tables import format_points, markdown_table

NORMALIZATIONS = {"bn": "batch norm", "ln": "L2 normalization"}
EFFECTS = {"heat": "lower α", "drop": "lower learning rate", "interaction": "interaction"}
METRICS = {"recall": "Recall@1", "map": "MAP@R"}
EFFECTS_HEADING = ("data set", "normalization", "effect", "metric", "points", "95 % CI", "n")
Document = Mapping[str, Any]  # a results file


def values_by_seed(document: Document) -> MetricValues:
    """Collect every metric by method and seed from a results file; older ones lack `accuracy`."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for methods in document["studies"].values():
        for method, metrics in methods.items():
            found[method] = {
                name: {int(seed): value for seed, value in summary["seeds"].items()}
                for name, summary in metrics.items()
            }
    for method, seeds in document.get("accuracy", {}).items():
        found[method]["accuracy"] = {int(seed): value for seed, value in seeds.items()}
    return found


def effect_samples(documents: Sequence[Document], claim: str) -> dict[str, Any]:
    """Return the effect by seed (n,) for each recipe with at least two seeds of all methods."""
    samples = {}
    for document in documents:
        part = next((each for each in document["claims"] if each["claim"] == claim), None)
        if part and not part["missing"] and part["n"] > 1:
            sides = {"higher": part["a"].split(" + "), "lower": part["b"].split(" + ")}
            comparison = {"metric": part["metric"], **sides}
            samples[document["dataset"]] = paired_differences(comparison, values_by_seed(document))
    return samples


def longest_trainings(documents: Sequence[Document], claim: str) -> dict[str, Any]:
    """Return `effect_samples` of one recipe for each set of images: that with the most epochs."""
    samples = effect_samples(documents, claim)
    measured = [each for each in documents if each["dataset"] in samples]
    measured.sort(key=lambda each: int(each["parameters"].get("epochs", 0)))
    names = {json.dumps(each["split"], sort_keys=True): each["dataset"] for each in measured}
    return {name: samples[name] for name in names.values()}


def summaries(documents: Sequence[Document]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield normalization, effect, metric and random-effects summary over sets of images."""
    for names in product(NORMALIZATIONS, EFFECTS, METRICS):
        if found := combine([*longest_trainings(documents, "-".join(names)).values()]):
            yield *names, found


def effects_by_class(
    claims: Mapping[str, Mapping[str, Any]], results: Sequence[RunResult]
) -> dict[str, dict[str, Any]]:
    """Return each main effect of a data set by test class, with its interval over the classes.

    By claim: `interval`, and `labels`, `queries` and `effects` (C,).
    """
    scores = {each.method: each.class_scores for each in results if each.class_scores}
    found = {}
    for claim in map("-".join, product(NORMALIZATIONS, EFFECTS, METRICS)):
        comparison = claims[claim]["all"][0] if claim in claims else None
        if comparison and {*comparison["higher"], *comparison["lower"]} <= scores.keys():
            labels, queries, effects = class_effects(comparison, scores)
            found[claim] = {
                "interval": bootstrap_interval(effects, queries),
                "labels": labels.astype(int).tolist(),
                "queries": queries.astype(int).tolist(),
                "effects": effects.tolist(),
            }
    return found


def class_table(document: Document) -> str:
    """Format the main effects of a data set with both intervals, over seeds and over classes."""
    rows = []
    claims = {each["claim"]: each for each in document["claims"]}
    for names in product(NORMALIZATIONS, EFFECTS, METRICS):
        if found := document["test_classes"].get("-".join(names)):
            claim = claims["-".join(names)]
            title = [t[n] for t, n in zip((NORMALIZATIONS, EFFECTS, METRICS), names, strict=True)]
            ranges = (
                each and f"[{', '.join(map(format_points, each))}]"
                for each in (claim["interval"], found["interval"])
            )
            rows.append([*title, format_points(claim["effect"]), *(each or "" for each in ranges)])
    heading = ["normalization", "effect", "metric", "mean", "over seeds", "over test classes"]
    return markdown_table(heading, rows) if rows else ""


def front_page(documents: Sequence[Document]) -> dict[str, str]:
    """Format the table and the sentences at the top of RESULTS.md."""
    rows, changes, clear = [], dict[str, list[str]](), []
    for normalization, effect, metric, found in summaries(documents):
        names = [NORMALIZATIONS[normalization], EFFECTS[effect], METRICS[metric]]
        ranges = (map(format_points, found[key]) for key in ("interval", "prediction"))
        numbers = [format_points(found["effect"]), *(f"[{', '.join(each)}]" for each in ranges)]
        rows.append([*names, *numbers, f"{100 * found['i2']:.0f} %", str(found["k"])])
        if normalization == "bn" and effect != "interaction":
            change = f"{METRICS[metric]} by {numbers[0]} points (95 % CI {numbers[1]}"
            changes.setdefault(effect, []).append(f"{change}, {found['k']} data sets)")
            clear += [f"{EFFECTS[effect]}, {METRICS[metric]}"] if is_clear(numbers[1]) else []
    heading = ["normalization", "effect", "metric", "mean", "95 % CI", "95 % prediction", "I²", "k"]
    starts = {"heat": "With batch norm, lowering alpha", "drop": "Lowering the learning rate"}
    sentences = [f"{starts[name]} changed {' and '.join(changes[name])}." for name in changes]
    if sentences:
        sentences.append(f"The intervals that exclude 0: {'; '.join(clear) or 'none'}.")
    return {"table": markdown_table(heading, rows), "sentences": " ".join(sentences)}


def effect_rows(documents: Sequence[Document]) -> list[list[str]]:
    """Format each data set's own main effects: names, effect, interval and number of seeds."""
    rows = []
    for normalization, effect, metric in product(NORMALIZATIONS, ("heat", "drop"), METRICS):
        samples = effect_samples(documents, "-".join((normalization, effect, metric)))
        for dataset, sample in samples.items():
            found = paired_t_test(np.asarray(sample))
            low, high = found["interval"]
            ends = (
                f"[{format_points(low)}, {format_points(high)}]"
                if low < high
                else "none: equal differences"
            )
            names = [dataset, NORMALIZATIONS[normalization], EFFECTS[effect], METRICS[metric]]
            rows.append([*names, format_points(found["effect"]), ends, str(len(sample))])
    return rows


def with_effects(documents: Sequence[Document]) -> list[Document]:
    """Return the documents that have a main effect."""
    return [document for document in documents if effect_rows([document])]


def summary_sentences(documents: Sequence[Document]) -> list[str]:
    """Describe the comparison, the effect of heating, and its uncertainty in plain words."""
    names, rows = [each["dataset"] for each in documents], effect_rows(documents)
    methods = dict.fromkeys(m for each in documents for m in each["methods"])
    ways = "1 way" if len(methods) == 1 else f"{len(methods)} ways"
    first = f"This report compares {ways} to train an embedding on {', '.join(names)}."
    heated = [row for row in rows if row[1:3] == [NORMALIZATIONS["bn"], EFFECTS["heat"]]]
    if not heated:
        return [first, "The four methods that show the effect of heating were not all trained."]
    changes = [f"{row[3]} by {row[4]} points (95 % CI {row[5]}, {row[0]})" for row in heated]
    found = f"With batch norm, heating (a lower alpha) changes {', and '.join(changes)}."
    n = min(int(row[-1]) for row in heated)
    if n < MIN_SEEDS:
        few = f"That is not sure: {n} seeds are too few for a verdict, which needs {MIN_SEEDS}."
        longer = "RESULTS.md has longer trainings with more seeds."
        return [first, found, f"{few} {longer}"]
    clear = [f"{row[3]} on {row[0]}" for row in heated if is_clear(row[5])]
    sure = f"excludes 0 for {', '.join(clear)}" if clear else "includes 0 in each case"
    return [first, found, f"The interval {sure}. It is over seeds; other classes may differ."]


def is_clear(interval: str) -> bool:
    """Return whether a formatted interval excludes 0.

    >>> is_clear("[−2.00, −1.00]"), is_clear("[−1.00, +2.00]"), is_clear("none: equal differences")
    (True, False, False)
    """
    return interval.startswith("[") and interval.count("−") != 1


def forest_plot(documents: Sequence[Document]) -> str:
    """Draw each recipe's main effects with batch norm, and below them the means, as SVG text."""
    summary = {(n, e, m): found for n, e, m, found in summaries(documents)}
    shown = {
        name
        for part in product(("heat", "drop"), METRICS)
        for name in effect_samples(documents, "-".join(("bn", *part)))
    }
    names = [each["dataset"] for each in documents if each["dataset"] in shown]
    labels = [*names, "mean"] if summary else names
    with report_style():
        figure = Figure(figsize=(WIDTH, 1.5 + 0.5 * len(names)))
        panels = figure.subplots(2, 2, sharey=True)
        kinds = product(("heat", "drop"), METRICS)
        for axes, (effect, metric) in zip(panels.flat, kinds, strict=True):
            axes.set_title(f"{EFFECTS[effect]}, {METRICS[metric]}")
            axes.axvline(0, color="black", linewidth=0.8)
            claim = f"bn-{effect}-{metric}"
            in_mean = longest_trainings(documents, claim)
            for name, sample in effect_samples(documents, claim).items():
                found = paired_t_test(np.asarray(sample))
                fill = "C0" if name in in_mean else "white"  # not in the mean: hollow
                draw_effect(axes, names.index(name), name, found, fmt="C0o", markerfacecolor=fill)
            if mean := summary.get(("bn", effect, metric)):
                draw_effect(axes, len(names), "mean", mean, fmt="C1D")
        # One axis for all panels, to compare them: the widest interval fits, but at least 6 points.
        limit = max(6, *(abs(end) for axes in panels.flat for end in axes.get_xlim()))
        for axes in panels.flat:
            axes.set_xlim(-limit, limit)
            axes.xaxis.set_major_locator(
                MaxNLocator(5, integer=True, prune="both")
            )  # for the next panel's
        panels[0, 0].set_yticks(range(len(labels)), labels)
        panels[0, 0].set_ylim(-0.5, max(len(labels), 1) - 0.5)
        panels[0, 0].invert_yaxis()
        figure.supxlabel("points, 95 % confidence interval", fontsize="medium")
        return svg_text(figure, "Main effects of heating and of the learning rate's drop")


def draw_effect(axes: Axes, row: int, name: str, found: Mapping[str, Any], **style: Any) -> None:
    """Draw an effect and its 95 % interval in points, with the numbers at the pointer."""
    effect, interval = found["effect"], found["interval"]
    axes.errorbar(100 * effect, row, xerr=50 * np.diff(interval), **style)
    ends = ", ".join(map(format_points, interval))
    text = f"{name}: {format_points(effect)} points, 95 % CI [{ends}]"
    add_values(axes, [100 * effect], [row], [text])
