"""Check what goes together in the parameters: names that nothing defines, runs in two grids."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from heated.common.errors import suggestion
from heated.config.error_messages import Location
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
Problem = tuple[Location, str]


def name_problems(
    raw: Mapping[str, Any], defined: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    """Yield names of data sets and methods in `raw` that are not among those defined."""
    for kind, allowed in defined.items():
        for path, name in named(raw, REFERENCES[kind]):
            if name not in allowed:
                names = ", ".join(allowed)
                yield path, f"got {name!r}, expected one of {names}.{suggestion(name, allowed)}"


def named(value: Any, places: Sequence[str], path: Location = ()) -> Iterator[tuple[Location, str]]:
    """Yield path and text of every text at one of the places."""
    text = ".".join(map(str, path))
    if isinstance(value, str) and any(fnmatchcase(text, place) for place in places):
        yield path, value
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from named(inner, places, (*path, key))


def grid_problems(params: Params) -> list[Problem]:
    """Return what does not go together though each part is right by itself."""
    return [*misplaced(params)] or [
        *trained_twice(params),
        *unfit_for_studies(params),
        *untunable(params),
    ]


def misplaced(params: Params) -> Iterator[Problem]:
    """Yield data sets of studies that are not downloaded, or that `planes` downloads again."""
    listed = params.run.datasets
    for name, study in params.studies.grids().items():
        own = name == "planes"
        expected = f"{'none' if own else 'one'} of run.datasets ({', '.join(listed)})"
        for index, dataset in enumerate(study.datasets):
            if (dataset in listed) == own:
                yield ("studies", name, "datasets", index), f"got {dataset!r}, expected {expected}."


def trained_twice(params: Params) -> Iterator[Problem]:
    """Yield runs that are in two grids."""
    seen: dict[tuple[str, str], str] = {}
    for name, grid in params.grids().items():
        for dataset, method in grid.runs():
            other = seen.setdefault((dataset, method), name)
            if other != name:
                problem = f"got {method!r}, which {other} trains on {dataset!r}. Name it in one of"
                yield ("studies", name, "methods"), f"{problem} the two."


def unfit_for_studies(params: Params) -> Iterator[Problem]:
    """Yield methods that are examined but not trained by `run`, or are no heated softmax."""
    trained = params.run.methods
    untrained = f"one of run.methods ({', '.join(trained)})"
    for index, name in enumerate(params.studies.gradients.methods):
        place, method = ("studies", "gradients", "methods", index), params.methods[name]
        if name not in trained:
            yield place, f"got {name!r}, expected {untrained}."
        elif not isinstance(method, HeatedSoftmax) or method.denominator != "all":
            expected = "a method of the heated softmax, without `loss` and with the denominator"
            yield place, f"got {name!r}, expected {expected} `all`."
    if (name := params.report.gallery_method) not in trained:
        yield ("report", "gallery_method"), f"got {name!r}, expected {untrained}."


def untunable(params: Params) -> Iterator[Problem]:
    """Yield points of a grid that are no settings of their method."""
    study = params.studies.competitors
    for dataset, method in ((d, m) for d in study.datasets[:1] for m in study.methods):
        for point in study.points(method):
            try:
                params.settings(dataset, method, point)
            except (ValidationError, KeyError, TypeError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
                place = ("studies", "competitors", "grid", method)
                yield place, f"got {point}, expected settings of the method: {reason}."
                break
