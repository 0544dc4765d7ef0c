"""How results were made: parameters, versions, hardware, data, commit, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.reporting.results import Result

ENVIRONMENT = {
    "device": "processor",
    "cores": "cores",
    "system": "system",
    "python": "Python",
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "NumPy",
    "scikit-learn": "scikit-learn",
}


@dataclass(frozen=True)
class Makings:
    """`facts`: name and value; `shared`: the parameters that all runs have in common; `own`: the
    others, by method."""

    facts: list[tuple[str, str]]
    shared: dict[str, str]
    own: dict[str, dict[str, str]]


def makings(results: Sequence[Result]) -> Makings:
    """How a data set's results were made."""
    params = {result.method: worded(result.record["params"]) for result in results}
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
        shown: sorted({str(r.record["environment"][key]) for r in results})
        for key, shown in ENVIRONMENT.items()
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


def worded(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as text."""
    return {key: text(value) for key, value in params.items()}


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
