"""Names in params.yaml that mean nothing, or the same training twice."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from heated.config.error_messages import suggestion
from heated.config.method import HeatedSoftmax
from heated.config.schema import Params

REFERENCES = {  # where the keys of these sections are named
    "datasets": ("run.datasets.*", "studies.*.datasets.*"),
    "methods": (
        "run.methods.*",
        "studies.*.methods.*",
        "report.gallery_method",
        "claims.*.all.*.more.*",
        "claims.*.all.*.less.*",
    ),
}


def name_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """Names of data sets and methods that params.yaml does not define."""
    for kind, places in REFERENCES.items():
        defined = raw.get(kind)
        if not isinstance(defined, dict):
            continue
        allowed = [str(name) for name in defined]
        for path, name in named(raw, places):
            if name not in defined:
                yield (
                    f"{path}: came {name!r}; allowed: the keys of {kind} "
                    f"({', '.join(allowed)}){suggestion(name, allowed)}"
                )


def named(value: Any, places: Sequence[str], path: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of every text at one of the places."""
    if isinstance(value, str) and any(fnmatchcase(path, place) for place in places):
        yield path, value
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from named(inner, places, f"{path}.{key}" if path else str(key))


def grid_problems(params: Params) -> list[str]:
    """What does not go together though each part is right by itself."""
    return [*misplaced(params)] or [
        *trained_twice(params),
        *untrained(params),
        *unheated(params),
        *untunable(params),
    ]


def misplaced(params: Params) -> Iterator[str]:
    """Data sets of studies that nobody fetches, or that `planes` would fetch a second time."""
    listed = params.run.datasets
    for name, study in params.studies.grids().items():
        own = name == "planes"
        allowed = f"{'others than ' if own else ''}those of run.datasets ({', '.join(listed)})"
        for dataset in study.datasets:
            if (dataset in listed) == own:
                yield f"studies.{name}.datasets: came {dataset!r}; allowed: {allowed}"


def trained_twice(params: Params) -> Iterator[str]:
    """Runs that stand in two grids."""
    seen: dict[tuple[str, str], str] = {}
    for name, grid in params.grids().items():
        for dataset, method in ((d, m) for d in grid.datasets for m in grid.methods):
            other = seen.setdefault((dataset, method), name)
            if other != name:
                yield (
                    f"studies.{name}.methods: came {method!r}, which {other} trains on "
                    f"{dataset!r}; name it in one of the two"
                )


def untrained(params: Params) -> Iterator[str]:
    """Methods that are looked into and that `run` does not train."""
    trained = params.run.methods
    for index, method in enumerate(params.studies.gradients.methods):
        if method not in trained:
            yield f"studies.gradients.methods.{index}: came {method!r}; allowed: {of_run(trained)}"
    if (method := params.report.gallery_method) not in trained:
        yield f"report.gallery_method: came {method!r}; allowed: {of_run(trained)}"


def of_run(methods: Sequence[str]) -> str:
    """What `run` trains, in words."""
    return f"those of run.methods ({', '.join(methods)})"


def unheated(params: Params) -> Iterator[str]:
    """Methods whose pull on samples is to be drawn, and that is not that of a softmax."""
    for index, name in enumerate(params.studies.gradients.methods):
        method = params.methods[name]
        softmax = isinstance(method, HeatedSoftmax) and method.denominator == "all"
        if name in params.run.methods and not softmax:
            yield (
                f"studies.gradients.methods.{index}: came {name!r}; allowed: methods of the heated "
                "softmax, without `loss` and with the denominator `all`"
            )


def untunable(params: Params) -> Iterator[str]:
    """Points of a grid that are no settings of their method."""
    study = params.studies.competitors
    for dataset, method in ((d, m) for d in study.datasets[:1] for m in study.methods):
        for point in study.points(method):
            try:
                params.settings(dataset, method, point)
            except (ValidationError, KeyError, TypeError) as error:
                told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
                yield f"studies.competitors.grid.{method}: came {point}; it is no setting: {told}"
                break
