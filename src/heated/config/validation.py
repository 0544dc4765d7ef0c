"""Find every error in the parameters: types, undefined names, runs that do not go together."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from typing import Any

from pydantic import ValidationError

from heated.common.errors import suggestion
from heated.config.methods import HeatedSoftmaxMethod
from heated.config.params import Params

REFERENCES = {  # keys that hold names of these sections
    "datasets": ("run.datasets.*", "studies.*.datasets.*"),
    "methods": (
        *("run.methods.*", "studies.*.methods.*", "report.gallery_method"),
        *("claims.*.all.*.higher.*", "claims.*.all.*.lower.*"),
    ),
}
OTHER_NAMES = {  # keys that people try, the key that they mean, and a hint
    "temperature": ("alpha", " Did you mean 'alpha', which is 1 / temperature?"),
    "learning_rate": ("lr", " Did you mean 'lr'?"),
    "seed": ("seeds", " Did you mean 'seeds', a list?"),
}
Location = tuple[int | str, ...]
Problem = tuple[Location, str]
params_schema = cache(Params.model_json_schema)


def type_problems(error: ValidationError, raw: Any) -> Iterator[Problem]:
    """Yield path and message of every error that pydantic found in the raw parameters."""
    for detail in error.errors():
        # Pydantic's location also names choices and classes, which are no keys in the files.
        path, inner = [], raw
        for part in detail["loc"]:
            is_index = isinstance(inner, list) and isinstance(part, int) and part < len(inner)
            if is_index or (isinstance(inner, dict) and part in inner):
                path.append(part)
                inner = inner[part]
        if detail["type"] == "missing":
            path.append(detail["loc"][-1])
        yield tuple(path), type_message(detail, params_schema())


def type_message(detail: Any, schema: Mapping[str, Any]) -> str:
    """Return a message for one of pydantic's errors."""
    location, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    got = context.get("tag", detail["input"])
    match kind:
        case "missing":
            return "missing. Add it: no key has a default."
        case "extra_forbidden":
            keys = allowed_keys(location[:-1], schema)
            other, text = OTHER_NAMES.get(str(location[-1]), ("", ""))
            hint = text if other in keys else suggestion(location[-1], keys)
            return f"unknown key, expected one of {', '.join(keys)}.{hint}"
        case "union_tag_invalid" | "literal_error":
            names = re.findall(r"'([^']*)'", context.get("expected_tags", context.get("expected")))
            expected = f"one of {', '.join(names)}.{suggestion(got, names)}"
            return f"got {got!r:.200}, expected {expected}"
        case "model_type" | "model_attributes_type" | "union_tag_not_found":
            expected = f"a mapping with {', '.join(allowed_keys(location, schema))}"
        case "value_error":
            expected = str(context["error"])
        case "too_short":
            expected = "a list with at least one entry"
        case "string_pattern_mismatch":
            expected = "lower-case letters, digits and single hyphens"
        case _:
            expected = str(detail["msg"].removeprefix("Input should be "))
    return f"got {got!r:.200}, expected {expected}.{share_hint(got, context)}"


def share_hint(got: Any, context: Mapping[str, Any]) -> str:
    """Suggest a share for a percentage.

    >>> share_hint(76.25, {"le": 1.0}), share_hint(76.25, {"ge": 100}), share_hint(764, {"lt": 1})
    (' Did you mean 0.7625?', '', '')
    """
    is_share = isinstance(got, int | float) and 1 in {context.get("le"), context.get("lt")}
    return f" Did you mean {got / 100:g}?" if is_share and 1 < got <= 100 else ""


def allowed_keys(location: Location, schema: Mapping[str, Any]) -> list[str]:
    """Return the keys of the section at pydantic's location; for a choice, `name (a | b)`."""
    node: Any = schema
    for part in (*location, None):
        node = next((one for one in node.get("anyOf", []) if "$ref" in one), node)  # or null
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        if part is None:
            break
        if "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"][part]}
        elif "oneOf" in node:  # a function chooses: the part is the class name
            node = next(one for one in node["oneOf"] if one["$ref"].endswith(f"/{part}"))
        elif part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = next(iter(node.get("patternProperties", {}).values()), None) or node["items"]
    choices = node.get("discriminator", {}).get("mapping", {})
    return [f"name ({' | '.join(choices)})"] if choices else list(node.get("properties", {}))


def name_problems(
    raw: Mapping[str, Any], defined: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    """Yield names of data sets and methods in `raw` that are not among those defined."""
    for kind, allowed in defined.items():
        for path, name in strings(raw):
            key = ".".join(map(str, path))
            if name not in allowed and any(fnmatchcase(key, place) for place in REFERENCES[kind]):
                names = ", ".join(allowed)
                yield path, f"got {name!r}, expected one of {names}.{suggestion(name, allowed)}"


def strings(value: Any, path: Location = ()) -> Iterator[tuple[Location, str]]:
    """Yield path and text of every string in nested mappings and lists."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(inner, (*path, key))


def grid_problems(params: Params) -> list[Problem]:
    """Return problems between valid sections: runs trained twice, points that do not fit."""
    return [*dataset_problems(params)] or [
        *duplicate_runs(params),
        *untrained_methods(params),
        *invalid_grid_points(params),
    ]


def dataset_problems(params: Params) -> Iterator[Problem]:
    """Yield data sets of studies that are not downloaded, or that are downloaded twice."""
    listed = params.run.datasets
    for name, study in params.studies.grids().items():
        downloads = name == "embeddings_2d"
        expected = f"{'none' if downloads else 'one'} of run.datasets ({', '.join(listed)})"
        for index, dataset in enumerate(study.datasets):
            if (dataset in listed) == downloads:
                yield ("studies", name, "datasets", index), f"got {dataset!r}, expected {expected}."


def duplicate_runs(params: Params) -> Iterator[Problem]:
    """Yield runs that are in two grids."""
    seen: dict[tuple[str, str], str] = {}
    for name, grid in params.grids().items():
        for dataset, method in grid.runs():
            other = seen.setdefault((dataset, method), name)
            if other != name:
                problem = f"got {method!r}, which {other} trains on {dataset!r}. Name it in one of"
                yield ("studies", name, "methods"), f"{problem} the two."


def untrained_methods(params: Params) -> Iterator[Problem]:
    """Yield methods to examine that `run` does not train, or that are no heated softmax."""
    trained = params.run.methods
    untrained = f"one of run.methods ({', '.join(trained)})"
    for index, name in enumerate(params.studies.gradients.methods):
        place, method = ("studies", "gradients", "methods", index), params.methods[name]
        if name not in trained:
            yield place, f"got {name!r}, expected {untrained}."
        elif not isinstance(method, HeatedSoftmaxMethod) or method.denominator != "all":
            expected = "a method of the heated softmax, without `loss` and with the denominator"
            yield place, f"got {name!r}, expected {expected} `all`."
    if (name := params.report.gallery_method) not in trained:
        yield ("report", "gallery_method"), f"got {name!r}, expected {untrained}."


def invalid_grid_points(params: Params) -> Iterator[Problem]:
    """Yield the first point of each grid that does not fit its method."""
    runs = (
        (name, study, dataset, method)
        for name, study in params.studies.tuned().items()
        for dataset, method in product(study.datasets[:1], study.methods)
    )
    for name, study, dataset, method in runs:
        for point in study.points(method):
            try:
                params.settings(dataset, method, point)
            except (ValidationError, KeyError, TypeError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
                place = ("studies", name, "grid", method)
                yield place, f"got {point}, expected settings of the method: {reason}."
                break
