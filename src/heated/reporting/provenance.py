"""How the results of a data set were made: parameters, versions, hardware, data, commit, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.reporting.run_results import RunResult

FACTS = ("device", "cores", "system", "python", "torch", "torchvision", "numpy", "scikit-learn")
NAMES = {"device": "processor", "python": "Python", "numpy": "NumPy"}


@dataclass(frozen=True)
class Provenance:
    """How the results of a data set were made."""

    facts: list[tuple[str, str]]  # names and values
    shared: dict[str, str]  # the parameters with the same value in all runs
    by_method: dict[str, dict[str, str]]  # the other parameters


def collect_provenance(results: Sequence[RunResult]) -> Provenance:
    """Collect the distinct values of every fact and parameter over the runs of a data set."""
    records = [result.record for result in results]
    facts = {key: sorted({str(each["environment"][key]) for each in records}) for key in FACTS}
    sources = [record["source"] for record in records]
    commits = {s["commit"] and s["commit"][:12] + " with changes" * s["modified"] for s in sources}
    facts["commit"] = sorted(each or "not in a git repository" for each in commits)
    facts["data SHA-256"] = sorted({record["data_sha256"] for record in records})
    seconds = [seed["seconds"] for record in records for seed in record["seeds"].values()]
    facts["training"] = [f"{sum(seconds):.0f} s in total for {len(seconds)} trainings"]
    params = {r.method: {key: format_value(v) for key, v in r.params.items()} for r in results}
    keys = dict.fromkeys(key for each in params.values() for key in each)
    values = {key: {each.get(key, "") for each in params.values()} for key in keys}
    differing = [key for key in keys if len(values[key]) > 1]
    by_method = {m: {key: each.get(key, "") for key in differing} for m, each in params.items()}
    shared = {key: values[key].pop() for key in keys if key not in differing}
    texts = [(NAMES.get(key, key), ", ".join(distinct)) for key, distinct in facts.items()]
    return Provenance(texts, shared, by_method)


def format_value(value: Any) -> str:
    """Format a parameter; a mapping with a name becomes the name with its options.

    >>> format_value({"name": "step", "start": 16.0, "end": 4.0})
    'step (start 16, end 4)'
    >>> format_value([0.5, 1e-5]), format_value([])
    ('0.5, 1e-05', 'none')
    """
    if isinstance(value, Mapping):
        items = ((key, format_value(each)) for key, each in value.items() if key != "name")
        options, name = ", ".join(f"{key} {each}" for key, each in items), value.get("name")
        return options if name is None else f"{name} ({options})" if options else str(name)
    if isinstance(value, list):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_caption(results: Sequence[RunResult]) -> str:
    """Say which classes the tables' numbers are measured on, and how to read the numbers."""
    split = results[0].record["split"]
    means = [(k, 100 * each["mean"]) for result in results for k, each in result.metrics.items()]
    deviation = max((mean for name, mean in means if name.endswith("_kmeans_std")), default=0)
    unmatched = max((mean for name, mean in means if name == "unanswerable_queries"), default=0)
    train, query, gallery = (split[part] for part in ("train", "query", "gallery"))
    searched = f", searched in {gallery['images']}" if gallery != query else ""
    notes = [
        f"Measured on the {split['tested'].removeprefix('the ')}: {query['images']} images of "
        f"{query['classes']} classes{searched}; trained on {train['images']} images of "
        f"{train['classes']} classes. Percent: mean ± half the 95 % interval of the mean "
        "(Student's t over n seeds). ↓: lower is more compact."
    ]
    if deviation:
        notes.append(
            "Cluster metrics are also means over the seeds of k-means, with a standard deviation "
            f"of at most {deviation:.2f}."
        )
    if unmatched:
        notes.append(
            f"{unmatched:.2f} % of the queries have no other image of their class in the gallery; "
            "they count as misses."
        )
    return " ".join(notes)
