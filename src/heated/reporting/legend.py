"""What the numbers of a data set are, and on what they rest, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from heated.reporting.results import Result


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
