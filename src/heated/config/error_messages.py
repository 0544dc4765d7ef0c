"""Messages for invalid parameters: the key's path, what was got, what is expected."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from heated.common.errors import suggestion

Location = tuple[int | str, ...]


def type_problems(
    error: ValidationError, raw: Any, schema: type[BaseModel]
) -> Iterator[tuple[Location, str]]:
    """Yield the path of every invalid value and what is wrong with it.

    Args:
        error: Pydantic's error from validating `raw` with `schema`.
        raw: The parameters as they were read.
        schema: The model of all parameters.
    """
    for detail in error.errors():
        missing = detail["type"] == "missing"
        location = tuple(present(detail["loc"], raw, missing=missing))
        yield location, explanation(detail, schema)


def explanation(detail: Any, schema: type[BaseModel]) -> str:
    """Return one of pydantic's errors in words."""
    location, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    got = context.get("tag", detail["input"])
    match kind:
        case "missing":
            return "missing. Add it: no key has a default."
        case "extra_forbidden":
            keys = keys_at(location[:-1], schema)
            hint = suggestion(location[-1], keys)
            return f"unknown key, expected one of {', '.join(keys)}.{hint}"
        case "union_tag_invalid" | "literal_error":
            names = re.findall(r"'([^']*)'", context.get("expected_tags", context.get("expected")))
            expected = f"one of {', '.join(names)}"
            return f"got {shortened(got)}, expected {expected}.{suggestion(got, names)}"
        case "model_type" | "model_attributes_type" | "union_tag_not_found":
            expected = f"a mapping with {', '.join(keys_at(location, schema))}"
        case "value_error":
            expected = str(context["error"])
        case "too_short":
            expected = "a list with at least one entry"
        case "string_pattern_mismatch":
            expected = "lower-case letters, digits and single hyphens"
        case _:
            expected = str(detail["msg"].removeprefix("Input should be "))
    return f"got {shortened(got)}, expected {expected}."


def shortened(value: Any, limit: int = 200) -> str:
    """Return the value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]} ..."


def present(location: Location, raw: Any, *, missing: bool) -> Iterator[int | str]:
    """Yield the parts of pydantic's location that are keys in the files.

    The names of choices and classes in it are not. A missing key is the last part.
    """
    for depth, part in enumerate(location):
        inside = (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int)
        )
        if inside:
            raw = raw[part]
        if inside or (missing and depth == len(location) - 1):
            yield part


def keys_at(location: Location, schema: type[BaseModel]) -> list[str]:
    """Return the keys that the section at a location may have; of a choice, `name (a | b)`."""
    json_schema = json_schema_of(schema)
    node: Any = json_schema
    for part in (*location, None):
        node = next((one for one in node.get("anyOf", []) if "$ref" in one), node)  # or null
        while "$ref" in node:
            node = json_schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
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


@cache
def json_schema_of(schema: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema, made once."""
    return schema.model_json_schema()
