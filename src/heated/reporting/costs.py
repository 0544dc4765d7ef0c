"""What competitors cost beside what they are worth, and how their settings were chosen."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from heated.reporting.makings import text
from heated.reporting.results import Result, half_width
from heated.reporting.tables import in_markdown, in_percent, percent


def costs(results: Sequence[Result], studies: Mapping[str, Sequence[str]]) -> list[Result]:
    """The runs of the study of competitors, in its order; none where it was not run."""
    return [result for result in results if result.method in studies.get("competitors", ())]


def seconds(result: Result) -> float:
    """The seconds of a training, the median over its seeds."""
    return float(median(seed["seconds"] for seed in result.record["seeds"].values()))


def settings(point: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> str:
    """A point of a grid in words; marked where more than two values were tried and it is at an end,
    beyond which a better one may lie.

    >>> tried = [{"lr": 0.01, "scale": 8}, {"lr": 0.05, "scale": 16}, {"lr": 0.25, "scale": 16}]
    >>> [settings({"lr": lr, "scale": 16}, tried) for lr in (0.25, 0.05)]
    ['lr 0.25 (largest tried), scale 16', 'lr 0.05, scale 16']
    """
    texts = []
    for key, value in point.items():
        values = {each[key] for each in tried if key in each}
        ends = {min(values): " (smallest tried)", max(values): " (largest tried)"}
        texts.append(f"{key} {text(value)}{ends.get(value, '') if len(values) > 2 else ''}")
    return ", ".join(texts)


def told(costs: Sequence[Result]) -> str:
    """On what the settings were chosen."""
    tried = " or ".join(map(str, sorted({each.tuned["trainings"] for each in costs})))
    tested = " and ".join(sorted({each.tuned["tested"] for each in costs}))
    return (
        f"Every method's settings were chosen among {tried}, each trained once, by Recall@1 on "
        f"{tested}; the test classes had no part in it. What all methods share (epochs, batches, "
        "augmentation) was not chosen here: the data set's section in datasets.yaml says where "
        "it comes from. Seconds and memory are those of a training on this hardware, beside "
        "whatever else ran there."
    )


def rows(costs: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """The table as texts: its heading, and a row a method."""
    table = [row(each) for each in costs]
    return [*table[0]], [[*each.values()] for each in table]


def row(result: Result) -> dict[str, str]:
    """One method's training, a seed's on the median, with memory at most; how many points of its
    grid came to no finite loss; and the score of the chosen one on the classes it was chosen by."""
    seeds, tuned = [*result.record["seeds"].values()], result.tuned
    recall = result.metrics["recall_at_1"]
    scores = [each[tuned["metric"]] for each in tuned["tried"]]
    return {
        "method": result.method,
        "n": str(len(seeds)),
        "R@1": in_percent(recall["mean"], half_width(recall)),
        "images seen": str(int(median(each["images_seen"] for each in seeds))),
        "seconds": f"{seconds(result):.0f}",
        "MiB": str(max(each["peak_mib"] for each in seeds)),
        "chosen": settings(tuned["chosen"], [each["point"] for each in tuned["tried"]]),
        "tried": str(tuned["trainings"]),
        "not finite": str(scores.count(None)),
        "R@1 of the choice": percent(max(score for score in scores if score is not None)),
    }


def markdown(costs: Sequence[Result]) -> str:
    """The table in Markdown, with what is to be known of it; empty where there is none."""
    if not costs:
        return ""
    return f"\n### What the competitors cost\n\n{told(costs)}\n\n{in_markdown(*rows(costs))}\n"
