"""What is wrong with params.yaml, told by the key's path: what came, what is allowed, the nearest
name."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from heated.config.schema import Params


def suggestion(name: object, allowed: list[str]) -> str:
    """`; did you mean 'x'?` when a name of those allowed is near, else nothing."""
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def type_problems(error: ValidationError, raw: Any) -> Iterator[str]:
    """A line for each of pydantic's errors: path, what came, what is allowed, the nearest name. One
    that other sections took over by a merge (`<<: *name`) is told where it stands first."""
    told = set()
    for detail in error.errors():
        missing = detail["type"] == "missing"
        parts = [str(part) for part in present(detail["loc"], raw, missing=missing)]
        explained = explanation(detail)
        inherited = (parts[0], *parts[2:], explained) if len(parts) > 2 else (*parts, explained)
        if inherited not in told:
            told.add(inherited)
            yield f"{'.'.join(parts)}: {explained}"


def explanation(detail: Any) -> str:
    """What came and what is allowed, from one of pydantic's errors."""
    location, kind = detail["loc"], detail["type"]
    if kind == "missing":
        return "missing; params.yaml has no defaults, so write it down"
    if kind == "extra_forbidden":
        keys = keys_at(location[:-1])
        return f"unknown key; allowed: {', '.join(keys)}{suggestion(location[-1], keys)}"
    if kind in ("union_tag_invalid", "literal_error"):
        context = detail["ctx"]
        came = context.get("tag", detail["input"])
        names = re.findall(r"'([^']*)'", context.get("expected_tags", context.get("expected")))
        return f"came {came!r}; allowed: {', '.join(names)}{suggestion(came, names)}"
    return f"came {detail['input']!r}; allowed: {allowance(detail)}"


def allowance(detail: Any) -> str:
    """What may stand where one of pydantic's errors lies, where it is not one of a few names."""
    match detail["type"]:
        case "model_type" | "model_attributes_type" | "union_tag_not_found":
            return f"a mapping with {', '.join(keys_at(detail['loc']))}"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "too_short":
            return "a list with at least one entry"
        case "string_pattern_mismatch":
            return "lower-case letters, digits and single hyphens"
        case _:
            return str(detail["msg"].removeprefix("Input should be "))


def present(location: tuple[int | str, ...], raw: Any, *, missing: bool) -> Iterator[int | str]:
    """The parts of pydantic's location that stand in the file, as a choice's name or kind does not,
    and the last where it is the key that is missing."""
    for depth, part in enumerate(location):
        inside = isinstance(raw, dict) and part in raw or isinstance(raw, list)
        if inside:
            raw = raw[part]
        if inside or (missing and depth == len(location) - 1):
            yield part


def keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` may have; of a choice, `name (a | b)`."""
    schema = Params.model_json_schema()
    node: Any = schema
    for part in (*location, None):
        node = next((one for one in node.get("anyOf", []) if "$ref" in one), node)  # or null
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        if part is None:
            break
        if "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"][part]}
        elif "oneOf" in node:  # kinds that no name tells apart: the part is the class's
            node = next(one for one in node["oneOf"] if one["$ref"].endswith(f"/{part}"))
        elif part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = next(iter(node.get("patternProperties", {}).values()), None) or node["items"]
    choices = node.get("discriminator", {}).get("mapping", {})
    return [f"name ({' | '.join(choices)})"] if choices else list(node.get("properties", {}))
