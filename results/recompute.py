"""Recompute every number of RESULTS.md's tables from the values per seed in results/*.json.

Needs numpy and scipy only, and shares no code with the pipeline. Exits with 1 if a number differs:

    python results/recompute.py

Recomputed: means and intervals of the metrics; effects, intervals, n, p and both verdicts of the
claims; intervals over test classes; the summary over data sets; effects by length of the training.
Seconds and MiB of the cost table are measurements, so that they are compared with nothing.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

METRICS = {
    "R@1": "recall_at_1",
    "R@2": "recall_at_2",
    "R@4": "recall_at_4",
    "R@8": "recall_at_8",
    "MAP@R": "map_at_r",
    "R-precision": "r_precision",
    "NMI, geometric": "nmi_geometric",
    "NMI, arithmetic": "nmi_arithmetic",
    "AMI": "ami",
    "F1": "f1",
    "intra-class variance ↓": "intra_class_variance",
    "inter-class distance": "inter_class_distance",
}
TABLES = {
    "Main table": "run",
    "Constant alphas": "alphas",
    "Smooth schedules": "schedule_shapes",
    "Competitors, on equal terms": "competitors",  # of earlier releases
    "Competitors under equal conditions": "competitors",
    "Losses with a constant and with a heated scale": "heated_partners",
    "Constant alphas by embedding dimension": "embedding_dims",
    "Start, end and time of heating": "timing",
}
FRONT = {  # parts of claims' names
    "batch norm": "bn",
    "L2 normalization": "ln",
    "lower α": "heat",
    "lower learning rate": "drop",
    "interaction": "interaction",
    "Recall@1": "recall",
    "MAP@R": "map",
}
LENGTHS = {  # columns of the tables of the training's length, and claims
    "lower α, Recall@1": "bn-heat-recall",
    "lower learning rate, Recall@1": "bn-drop-recall",
    "both (hbn − bn), Recall@1": "hbn-over-bn",
    "lower α, MAP@R": "bn-heat-map",
    "lower learning rate, MAP@R": "bn-drop-map",
    "both (hbn − bn), MAP@R": "hbn-over-bn-map",
}
MIN_RECIPES = 3  # with the same images, for such a table
CLASSES = "Main effects over test classes"
ROUNDING = 0.005 + 1e-9  # tables have two decimals
LEVEL, EQUIVALENCE_LEVEL, MIN_SEEDS = 0.025, 0.05, 5
P_VALUES = ("supported", "contradicted", "no relevant difference")

Seeds = dict[int, float]
Values = dict[str, dict[str, Seeds]]  # by method and metric


def read_values(document: dict[str, Any]) -> Values:
    """Return the values per seed of a results file."""
    values: Values = {}
    for methods in document["studies"].values():
        for method, metrics in methods.items():
            values[method] = {name: seeds_of(each["seeds"]) for name, each in metrics.items()}
    for method, seeds in document.get("accuracy", {}).items():
        values[method]["accuracy"] = seeds_of(seeds)
    return values


def seeds_of(seeds: dict[str, float]) -> Seeds:
    """Return a mapping with integer seeds."""
    return {int(seed): value for seed, value in seeds.items()}


def interval(sample: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval of a mean."""
    low, high = stats.t.interval(level, len(sample) - 1, sample.mean(), stats.sem(sample))
    return float(low), float(high)


def differences(part: dict[str, Any], values: Values) -> np.ndarray:
    """Return the difference of the two sides' means for each seed that all methods have."""
    sides = [part[side].split(" + ") for side in ("a", "b")]
    tables = [[values[method][part["metric"]] for method in side] for side in sides]
    seeds = sorted(set.intersection(*(set(table) for side in tables for table in side)))
    a, b = (np.array([[table[seed] for seed in seeds] for table in side]) for side in tables)
    return a.mean(axis=0) - b.mean(axis=0)


def p_values(claim: dict[str, Any], values: Values) -> list[float | None]:
    """Return the one-sided p of the claim, of its opposite, and of equivalence."""
    samples = [(differences(part, values), part["margin"]) for part in claim["parts"]]
    if any(len(sample) < MIN_SEEDS or np.ptp(sample) < 1e-9 for sample, _ in samples):
        return [None, None, None]

    def p(sample: np.ndarray, mean: float, alternative: str) -> float:
        return float(stats.ttest_1samp(sample, mean, alternative=alternative).pvalue)

    worst = max(p(sample, -margin, "greater") for sample, margin in samples)
    opposite = min(1.0, len(samples) * (1 - worst))
    effect = claim["smallest_effect"]
    if any(margin for _, margin in samples):
        return [worst, opposite, None]
    equivalent = max(
        max(p(sample, -effect, "greater"), p(sample, effect, "less")) for sample, _ in samples
    )
    return [worst, opposite, equivalent]


def holm(family: list[float]) -> list[float]:
    """Return p-values corrected by Holm's method."""
    order = np.argsort(family, kind="stable")
    scaled = np.array(family)[order] * (len(family) - np.arange(len(family)))
    adjusted = np.empty(len(family))
    adjusted[order] = np.maximum.accumulate(np.minimum(scaled, 1))
    return adjusted.tolist()


def verdict(p: list[float | None]) -> str:
    """Return the verdict of the three p-values."""
    supported, contradicted, equivalent = p
    if supported is None or contradicted is None:
        return "no verdict"
    if equivalent is not None and equivalent < EQUIVALENCE_LEVEL:
        return "no relevant difference"
    if supported < LEVEL:
        return "supported"
    return "contradicted" if contradicted < LEVEL else "undecided"


def judge(claims: list[dict[str, Any]], values: Values) -> Iterator[dict[str, Any]]:
    """Yield the recomputed row of each claim that was run."""
    claims = [claim for claim in claims if not claim["missing"]]
    p = [p_values(claim, values) for claim in claims]
    adjusted = [list(each) for each in p]
    for status in ("confirmatory", "exploratory"):
        for column in range(3):
            rows = [
                row
                for row, claim in enumerate(claims)
                if claim["status"] == status and p[row][column] is not None
            ]
            for row, value in zip(rows, holm([p[row][column] or 0.0 for row in rows]), strict=True):
                adjusted[row][column] = value
    for claim, before, after in zip(claims, p, adjusted, strict=True):
        sample = differences(claim, values)
        first, last = verdict(before), verdict(after)
        decisive = P_VALUES.index(first) if first in P_VALUES else 0
        yield {
            "claim": claim["claim"],
            "effect": float(sample.mean()),
            "interval": list(interval(sample)) if len(sample) > 1 else None,
            "n": len(sample),
            "p": after[decisive],
            "verdict": first,
            "verdict_adjusted": last if last in (first, "no verdict") else "undecided",
        }


def numbers(cell: str) -> list[float]:
    """Return the numbers of a table's cell."""
    return [float(each) for each in re.findall(r"[-+]?\d+\.?\d*", cell.replace("−", "-"))]


def parse_table(text: str) -> list[dict[str, str]]:
    """Return the rows of the table in a text, by column; none if there is no table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    if not lines:
        return []
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(heading, row, strict=True)) for row in rows]


def table_rows(text: str, title: str) -> list[dict[str, str]]:
    """Return the rows of the table under a heading, by column."""
    _, found, rest = text.partition(f"\n### {title}\n")
    return parse_table(rest.partition("\n### ")[0]) if found else []


def front_tables(text: str) -> tuple[list[dict[str, str]], list[list[dict[str, str]]]]:
    """Return the table over data sets, and those of the length of the training."""
    front = text.partition("\n## ")[0]
    tables = [rows for part in front.split("\n\n") if (rows := parse_table(part))]
    lengths = [rows for rows in tables if "recipe" in rows[0]]
    return next((rows for rows in tables if "k" in rows[0]), []), lengths


def check_metrics(text: str, document: dict[str, Any], values: Values) -> Iterator[str]:
    """Yield what differs between the tables of metrics and the values per seed."""
    for study in dict.fromkeys(TABLES.values()):
        titles = [title for title, each in TABLES.items() if each == study]
        rows = [row for title in titles for row in table_rows(text, title)]
        title = titles[-1]
        if {row["method"] for row in rows} != set(document["studies"].get(study, {})):
            yield f"{title}: got methods {[row['method'] for row in rows]}"
        for row in rows:
            for column, cell in row.items():
                metric = METRICS.get(column.partition(" (")[0])
                if metric is None:
                    continue
                sample = np.array(list(values[row["method"]][metric].values()))
                half = np.diff(interval(sample))[0] / 2 if len(sample) > 1 else None
                expected = [100 * sample.mean(), *([] if half is None else [100 * half])]
                if not np.allclose(numbers(cell), expected, rtol=0, atol=ROUNDING):
                    yield f"{title}, {row['method']}, {column}: got {cell}, expected {expected}"
                if int(row["n"]) != len(sample):
                    yield f"{title}, {row['method']}: got n = {row['n']}, expected {len(sample)}"


def check_claims(text: str, document: dict[str, Any], values: Values) -> Iterator[str]:
    """Yield what differs between the claims, their table and the values per seed."""
    stored = [claim for claim in document["claims"] if not claim["missing"]]
    rows = table_rows(text, "Replication results")
    for claim, row, new in zip(stored, rows, judge(stored, values), strict=True):
        for key in ("effect", "interval", "n", "verdict", "verdict_adjusted"):
            old = claim[key]
            equal = old == new[key] if isinstance(old, str | None) else np.allclose(old, new[key])
            if not equal:
                yield f"{claim['claim']}, {key}: got {old}, expected {new[key]}"
        cells = [row["effect"], row["95 % CI"]]
        shown = [100 * new["effect"], *(100 * bound for bound in new["interval"] or [])]
        got = [number for cell in cells for number in numbers(cell)]
        if not np.allclose(got, shown, rtol=0, atol=ROUNDING):
            yield f"{claim['claim']}: the table has {cells}, expected {shown}"
        p = numbers(row["adjusted p"])
        if (new["p"] is None) != (not p) or (
            p and not (new["p"] < p[0] if "<" in row["adjusted p"] else abs(p[0] - new["p"]) < 6e-4)
        ):
            yield f"{claim['claim']}: the table has p {row['adjusted p']}, expected {new['p']}"
        if [row["verdict"].split(" ", 1)[1], row["adjusted"].split(" ", 1)[1]] != [
            new["verdict"],
            new["verdict_adjusted"],
        ]:
            yield f"{claim['claim']}: the table has {row['verdict']}, {row['adjusted']}"


def check_classes(text: str, document: dict[str, Any], values: Values) -> Iterator[str]:
    """Yield what differs between the effects by test class, their table, and a new bootstrap."""
    found, claims = document.get("test_classes", {}), {c["claim"]: c for c in document["claims"]}
    rows = {
        "-".join(FRONT[row[column]] for column in ("normalization", "effect", "metric")): row
        for row in table_rows(text, CLASSES)
    }
    if rows.keys() != found.keys():
        yield f"{CLASSES}: got {[*rows]}, expected {[*found]}"
    for name, row in rows.items():
        effects, queries = (np.array(found[name][key]) for key in ("effects", "queries"))
        mean, over_seeds = np.average(effects, weights=queries), differences(claims[name], values)
        if not np.allclose(mean, over_seeds.mean(), rtol=0, atol=1e-9):
            yield f"{name}: the classes have {mean}, the seeds {over_seeds.mean()}"
        counts = np.random.default_rng(1).multinomial(
            len(effects), np.full(len(effects), 1 / len(effects)), size=4000
        )
        low, high = np.quantile(counts @ (queries * effects) / (counts @ queries), [0.025, 0.975])
        # another bootstrap differs by chance
        allowed = 0.06 * (high - low)
        if not np.allclose(found[name]["interval"], [low, high], rtol=0, atol=allowed):
            yield f"{name}: got {found[name]['interval']}, expected nearly {[low, high]}"
        expected = [mean, *interval(over_seeds), *found[name]["interval"]]
        got = [
            each
            for key in ("mean", "over seeds", "over test classes")
            for each in numbers(row[key])
        ]
        if not np.allclose(got, 100 * np.array(expected), rtol=0, atol=ROUNDING):
            yield f"{name}: the table has {got}, expected {100 * np.array(expected)}"


def random_effects(samples: list[np.ndarray]) -> tuple[list[float], list[float], float]:
    """Return mean and interval, prediction interval, and I² of the effect over data sets.

    The variance over seeds is pooled; tau² solves Paule and Mandel's equation by bisection; the
    interval is Hartung and Knapp's.
    """
    sizes, means = np.array([len(x) for x in samples]), np.array([x.mean() for x in samples])
    k, pooled = len(samples), sum(((x - x.mean()) ** 2).sum() for x in samples)
    variances = pooled / (sizes.sum() - k) / sizes

    def q(tau2: float) -> float:
        weights = 1 / (variances + tau2)
        return float((weights * (means - np.average(means, weights=weights)) ** 2).sum())

    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if q(middle) > k - 1 else (low, middle)
    tau2 = 0.0 if q(0.0) <= k - 1 else low
    weights = 1 / (variances + tau2)
    mean = float(np.average(means, weights=weights))
    error = float(np.sqrt(q(tau2) / (k - 1) / weights.sum()))
    half = stats.t.ppf(0.975, k - 1) * error
    reach = stats.t.ppf(0.975, k - 2) * np.sqrt(tau2 + error**2)
    i2 = max(0.0, 1 - (k - 1) / q(0.0))
    return [mean, mean - half, mean + half], [mean - reach, mean + reach], i2


def check_lengths(
    tables: list[list[dict[str, str]]], documents: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield what differs between the tables of the training's length and the values per seed."""
    by_name = {document["dataset"]: document for document in documents}
    compared = [
        document
        for document in documents
        for claim in document["claims"]
        if claim["claim"] == "hbn-over-bn" and claim["n"] > 1
    ]
    splits = [json.dumps(document["split"], sort_keys=True) for document in compared]
    if len(tables) != sum(splits.count(each) >= MIN_RECIPES for each in set(splits)):
        yield f"RESULTS.md has {len(tables)} tables of the length of the training"
    for row in (row for table in tables for row in table):
        document = by_name[row["recipe"]]
        claims = {claim["claim"]: claim for claim in document["claims"]}
        before = document.get("accuracy_before_heating", {}).get("hbn", {}).values()
        expected = [100 * sum(before) / len(before)] if before else []
        if not np.allclose(numbers(row["accuracy (%)"]), expected, rtol=0, atol=0.05 + 1e-9):
            yield f"{row['recipe']}: got accuracy {row['accuracy (%)']}, expected {expected}"
        if [row["epochs"], row["n"]] != [
            document["parameters"]["epochs"],
            str(claims["hbn-over-bn"]["n"]),
        ]:
            yield f"{row['recipe']}: got {row['epochs']} epochs, n = {row['n']}"
        for title, claim in LENGTHS.items():
            sample = differences(claims[claim], read_values(document))
            half = np.diff(interval(sample))[0] / 2
            if not np.allclose(
                numbers(row[title]), [100 * sample.mean(), 100 * half], rtol=0, atol=ROUNDING
            ):
                yield f"{row['recipe']}, {title}: got {row[title]}, expected {sample.mean()}"


def check_front_page(text: str, documents: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what differs between the table over data sets and the values per seed."""
    by_length = sorted(documents, key=lambda each: int(each["parameters"].get("epochs", 0)))
    rows, lengths = front_tables(text)
    yield from check_lengths(lengths, documents)
    if not rows:
        yield "RESULTS.md has no table over data sets"
    for row in (list(each.values()) for each in rows):
        name = "-".join(FRONT[cell] for cell in row[:3])
        longest: dict[str, np.ndarray] = {}  # by images, of the recipes that have the methods
        for document in by_length:
            claim = next(each for each in document["claims"] if each["claim"] == name)
            if not claim["missing"] and claim["n"] > 1:
                images = json.dumps(document["split"], sort_keys=True)
                longest[images] = differences(claim, read_values(document))
        samples = [*longest.values()]
        mean, prediction, i2 = random_effects(samples)
        got = [number for cell in row[3:6] for number in numbers(cell)]
        expected = [100 * each for each in (*mean, *prediction)]
        if not np.allclose(got, expected, rtol=0, atol=ROUNDING) or int(row[7]) != len(samples):
            yield f"{name}: the table has {row[3:]}, expected {expected}, k = {len(samples)}"
        if abs(float(row[6].removesuffix(" %")) - 100 * i2) > 0.51:
            yield f"{name}: the table has I² {row[6]}, expected {100 * i2} %"


def without_links(text: str) -> str:
    """Remove the targets of links."""
    return re.sub(r"\]\([^)]*\)", "]", text)


def main(folder: Path = Path(__file__).parent) -> int:
    """Check every data set; return the exit status."""
    joined, documents = (folder.parent / "RESULTS.md").read_text(encoding="utf-8"), []
    failed = 0
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        documents.append(document)
        values, text = read_values(document), path.with_suffix(".md").read_text(encoding="utf-8")
        checks = (check_metrics, check_claims, check_classes)
        problems = [each for check in checks for each in check(text, document, values)]
        if without_links(text.strip()) not in without_links(joined):  # they start elsewhere
            problems.append(f"RESULTS.md does not have the text of {path.with_suffix('.md').name}")
        print(f"{path.stem}: {len(problems)} differences", *problems, sep="\n  ")
        failed += len(problems)
    problems = [*check_front_page(joined, documents)]
    print(f"over data sets: {len(problems)} differences", *problems, sep="\n  ")
    return int(failed + len(problems) > 0)


if __name__ == "__main__":
    sys.exit(main())
