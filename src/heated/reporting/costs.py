"""What competitors cost beside what they are worth, and how their settings were chosen."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from heated.reporting.makings import text
from heated.reporting.results import Result, half_width
from heated.reporting.tables import Cell, in_markdown, percent


@dataclass(frozen=True)
class Cost:
    """A method's training, a seed's on the median: images seen, seconds, and MiB of memory at most.
    `chosen` are its settings, which did `best` on the classes that `tested` names, of so many
    `trainings` that were tried; `failed` of them came to no finite loss."""

    method: str
    n: int
    recall: Cell
    images: int
    seconds: float
    memory: int
    chosen: str
    best: float
    trainings: int
    failed: int
    tested: str


def costs(results: Sequence[Result], studies: Mapping[str, Sequence[str]]) -> list[Cost]:
    """Those of the study, in its order; none where it was not run."""
    return [cost(result) for result in results if result.method in studies.get("competitors", ())]


def cost(result: Result) -> Cost:
    """What one method's record says."""
    seeds, tuned = [*result.record["seeds"].values()], result.tuned
    scores = [each[tuned["metric"]] for each in tuned["tried"]]
    summary = result.metrics["recall_at_1"]
    return Cost(
        method=result.method,
        n=len(seeds),
        recall=Cell(summary["mean"], half_width(summary), best=False, paper=None),
        images=int(median(each["images_seen"] for each in seeds)),
        seconds=median(each["seconds"] for each in seeds),
        memory=max(each["peak_mib"] for each in seeds),
        chosen=settings(tuned["chosen"], [each["point"] for each in tuned["tried"]]),
        best=max(score for score in scores if score is not None),
        trainings=tuned["trainings"],
        failed=sum(score is None for score in scores),
        tested=tuned["tested"],
    )


def settings(point: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> str:
    """A point of a grid in words; marked where more than two values were tried and it is at an end.

    >>> settings({"lr": 0.25, "alpha.start": 16}, [{"lr": 0.01}, {"lr": 0.05}, {"lr": 0.25}])
    'lr 0.25 (largest tried), alpha.start 16'
    """
    return ", ".join(
        f"{key} {text(value)}{end(value, {each[key] for each in tried if key in each})}"
        for key, value in point.items()
    )


def end(value: float, tried: Collection[float]) -> str:
    """Whether a value lies at an end of those that were tried, where a better one may lie beyond.

    >>> end(0.01, {0.01, 0.05, 0.25}), end(0.05, {0.01, 0.05, 0.25}), end(8, {8, 16})
    (' (smallest tried)', '', '')
    """
    if len(tried) < 3 or min(tried) < value < max(tried):
        return ""
    return " (smallest tried)" if value == min(tried) else " (largest tried)"


def told(costs: Sequence[Cost]) -> str:
    """On what the settings were chosen."""
    tried = " or ".join(map(str, sorted({each.trainings for each in costs})))
    tested = " and ".join(sorted({each.tested for each in costs}))
    return (
        f"Every method's settings were chosen among {tried}, each trained once, by Recall@1 on "
        f"{tested}; the test classes had no part in it. What all methods share (epochs, batches, "
        "augmentation) was not chosen here: the data set's section in params.yaml says where it "
        "comes from. Seconds and memory are those of a training on this hardware, beside whatever "
        "else ran there."
    )


def rows(costs: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """The table as texts: its heading, and a row a method."""
    table = [
        {
            "method": each.method,
            "n": str(each.n),
            "R@1": str(each.recall),
            "images seen": str(each.images),
            "seconds": f"{each.seconds:.0f}",
            "MiB": str(each.memory),
            "chosen": each.chosen,
            "tried": str(each.trainings),
            "not finite": str(each.failed),
            "R@1 of the choice": percent(each.best),
        }
        for each in costs
    ]
    return [*table[0]], [[*row.values()] for row in table]


def markdown(costs: Sequence[Cost]) -> str:
    """The table in Markdown, with what is to be known of it; empty where there is none."""
    if not costs:
        return ""
    return f"\n### What the competitors cost\n\n{told(costs)}\n\n{in_markdown(*rows(costs))}\n"
