"""The table of methods: mean and 95 % interval in percent, n seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from heated.reporting.results import Result

TITLES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "nmi_geometric": "NMI, geometric",
    "nmi_arithmetic": "NMI, arithmetic",
    "ami": "AMI",
    "f1": "F1",
    "compactness": "compactness ↓",
    "spread": "spread",
}


def title(metric: str, summary: Mapping[str, Any]) -> str:
    """A metric's heading, with the engine that gave its numbers.

    >>> title("recall_at_10", {}), title("f1", {"engine": "lloyd"})
    ('R@10', 'F1 (lloyd)')
    """
    name = TITLES.get(metric, metric.replace("recall_at_", "R@"))
    return f"{name} ({summary['engine']})" if "engine" in summary else name


def cell(summary: Mapping[str, Any]) -> str:
    """Mean and half the interval's width in percent; the mean alone for a single seed.

    >>> cell({"mean": 0.7912, "interval": [0.7812, 0.8012]})
    '79.12 ± 1.00'
    """
    mean = f"{100 * summary['mean']:.2f}"
    if summary["interval"] is None:
        return mean
    low, high = summary["interval"]
    return f"{mean} ± {50 * (high - low):.2f}"


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: a method, its n, and a cell a metric; what metrics rest on is left out."""
    first = results[0].metrics
    metrics = [name for name in first if "kmeans" not in name and name != "without_match"]
    heading = ["method", "n", *(title(metric, first[metric]) for metric in metrics)]
    rows = [
        [r.method, str(len(r.history)), *(cell(r.metrics[metric]) for metric in metrics)]
        for r in results
    ]
    return heading, rows


def markdown(results: Sequence[Result]) -> str:
    """The table in Markdown, under the data set's name."""
    heading, rows = table(results)
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {results[0].dataset}\n\n{legend(results)}\n\n{body}\n"


def legend(results: Sequence[Result]) -> str:
    """What the numbers are, and what a reader has to know of how they came about."""

    def most(ending: str) -> float:
        means = [
            s["mean"] for r in results for name, s in r.metrics.items() if name.endswith(ending)
        ]
        return 100 * max(means, default=0.0)

    notes = [
        f"{basis(results[0].record['split'])} Percent: mean ± half the 95 % interval of the mean "
        "(Student's t over n seeds). ↓ lower is more compact."
    ]
    if most("_kmeans_std"):
        notes.append(
            "Clusters are means over the seeds of k-means too, whose standard deviation is at most "
            f"{most('_kmeans_std'):.2f}."
        )
    if most("without_match"):
        notes.append(
            f"{most('without_match'):.2f} % of the queries have no other image of their class in "
            "the gallery; they count as misses."
        )
    return " ".join(notes)


def basis(split: Mapping[str, Any]) -> str:
    """On what the numbers are: what was held out of training, and how much of it there is.

    >>> part = {"images": 20, "classes": 4}
    >>> basis({"tested": "test classes", "train": part, "query": part, "gallery": part})
    'On the test classes: 20 images of 4 classes, after training on 20 of 4.'
    """
    train, query, gallery = (split[part] for part in ("train", "query", "gallery"))
    apart = f", looked for among {gallery['images']}" if gallery != query else ""
    return (
        f"On the {split['tested'].removeprefix('the ')}: {query['images']} images of "
        f"{query['classes']} classes{apart}, after training on {train['images']} of "
        f"{train['classes']}."
    )
