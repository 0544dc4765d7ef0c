"""What the numbers of a data set are, and how they were made: parameters, versions, hardware, data,
commit, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.reporting.results import Result

FACTS = ("device", "cores", "system", "python", "torch", "torchvision", "numpy", "scikit-learn")
NAMES = {"device": "processor", "python": "Python", "numpy": "NumPy"}


@dataclass(frozen=True)
class Makings:
    """`facts`: name and value; `shared`: the parameters that all runs have in common; `own`: the
    others, by method."""

    facts: list[tuple[str, str]]
    shared: dict[str, str]
    own: dict[str, dict[str, str]]


def makings(results: Sequence[Result]) -> Makings:
    """How a data set's results were made."""
    params = {r.method: {key: text(value) for key, value in r.params.items()} for r in results}
    keys = dict.fromkeys(key for each in params.values() for key in each)
    values = {key: {each.get(key, "") for each in params.values()} for key in keys}
    shared = [key for key in keys if len(values[key]) == 1]
    return Makings(
        facts=facts(results),
        shared={key: values[key].pop() for key in shared},
        own={
            method: {key: each.get(key, "") for key in keys if key not in shared}
            for method, each in params.items()
        },
    )


def facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Each fact with the values it had in the runs."""
    found = {
        NAMES.get(key, key): sorted({str(r.record["environment"][key]) for r in results})
        for key in FACTS
    }
    found["commit"] = sorted({commit(r.record["source"]) for r in results})
    found["data SHA-256"] = sorted({r.record["data_sha256"] for r in results})
    seconds = [seed["seconds"] for r in results for seed in r.record["seeds"].values()]
    found["training"] = [f"{sum(seconds):.0f} s in all, of {len(seconds)} trainings"]
    return [(name, ", ".join(values)) for name, values in found.items()]


def commit(source: Mapping[str, Any]) -> str:
    """The commit, and whether the tree differed from it."""
    if source["commit"] is None:
        return "not in a git repository"
    return str(source["commit"])[:12] + (" with changes" if source["modified"] else "")


def text(value: Any) -> str:
    """A parameter as text; a choice is its name with its options.

    >>> text({"name": "step", "start": 16.0, "end": 4.0}), text([0.5, 1e-5]), text([])
    ('step (start 16, end 4)', '0.5, 1e-05', 'none')
    """
    if isinstance(value, Mapping):
        options = ", ".join(f"{key} {text(each)}" for key, each in value.items() if key != "name")
        name = value.get("name")
        return options if name is None else f"{name} ({options})" if options else str(name)
    if isinstance(value, list):
        return ", ".join(map(text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def legend(results: Sequence[Result]) -> str:
    """What the numbers are, and what a reader has to know of how they came about."""
    means = [(name, 100 * s["mean"]) for r in results for name, s in r.metrics.items()]
    deviation = max((mean for name, mean in means if name.endswith("_kmeans_std")), default=0)
    unmatched = max((mean for name, mean in means if name == "without_match"), default=0)
    notes = [
        f"{basis(results[0].record['split'])} Percent: mean ± half the 95 % interval of the mean "
        "(Student's t over n seeds). ↓ lower is more compact."
    ]
    if deviation:
        notes.append(
            "Clusters are means over the seeds of k-means too, whose standard deviation is at most "
            f"{deviation:.2f}."
        )
    if unmatched:
        notes.append(
            f"{unmatched:.2f} % of the queries have no other image of their class in "
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
