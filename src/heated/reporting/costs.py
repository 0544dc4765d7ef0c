"""What competitors cost beside what they are worth, and how their settings were chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from heated.reporting.makings import text
from heated.reporting.results import Result
from heated.reporting.table_files import in_markdown
from heated.reporting.tables import Cell, percent

STUDY = "competitors"


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
    return [cost(result) for result in results if result.method in studies.get(STUDY, ())]


def cost(result: Result) -> Cost:
    """What one method's record says."""
    seeds, tuned = [*result.record["seeds"].values()], result.tuned
    scores = [each[tuned["metric"]] for each in tuned["tried"]]
    summary = result.metrics["recall_at_1"]
    low, high = summary["interval"] or (None, None)
    return Cost(
        method=result.method,
        n=len(seeds),
        recall=Cell(summary["mean"], None if low is None else (high - low) / 2, False, None),
        images=int(median(each["images_seen"] for each in seeds)),
        seconds=median(each["seconds"] for each in seeds),
        memory=max(each["peak_mib"] for each in seeds),
        chosen=settings(tuned["chosen"]),
        best=max(score for score in scores if score is not None),
        trainings=tuned["trainings"],
        failed=sum(score is None for score in scores),
        tested=tuned["tested"],
    )


def settings(point: Mapping[str, Any]) -> str:
    """A point of a grid in words.

    >>> settings({"lr": 0.05, "alpha.start": 16, "loss.margin": 0.1})
    'lr 0.05, alpha.start 16, loss.margin 0.1'
    """
    return ", ".join(f"{key} {text(value)}" for key, value in point.items())


def told(costs: Sequence[Cost]) -> str:
    """On what the settings were chosen."""
    tried = {each.trainings for each in costs}
    return (
        f"Every method's settings were chosen among {' or '.join(map(str, sorted(tried)))}, each "
        f"trained once, by Recall@1 on {' and '.join(sorted({each.tested for each in costs}))}; no "
        "test class was looked at. Seconds and memory are those of a training on this hardware, "
        "beside whatever else ran there."
    )


def rows(costs: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """The table as texts: its heading, and a row a method."""
    heading = [
        *("method", "n", "R@1", "images seen", "seconds", "MiB"),
        *("chosen", "tried", "not finite", "R@1 of the choice"),
    ]
    return heading, [
        [
            *(each.method, str(each.n), str(each.recall), str(each.images)),
            *(f"{each.seconds:.0f}", str(each.memory), each.chosen, str(each.trainings)),
            *(str(each.failed), percent(each.best)),
        ]
        for each in costs
    ]


def markdown(costs: Sequence[Cost]) -> str:
    """The table in Markdown, with what is to be known of it; empty where there is none."""
    if not costs:
        return ""
    heading, body = rows(costs)
    table = in_markdown(heading, body)
    return f"\n### What the competitors cost\n\n{told(costs)}\n\n{table}\n"
