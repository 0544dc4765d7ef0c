"""Write parameters.md, the reference of all keys, from the schema and the YAML files.

Run `python docs/generate_parameters.py` after an edit of either; a test compares the page.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from heated.config.params import Params

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parameters.md"
EXAMPLES = {  # whose values and comments the page shows
    "datasets": ("datasets.yaml", "digits"),
    "methods": ("params.yaml", "sm"),
    "claims": ("claims.yaml", "ln-over-sm"),
}
FILES = {"datasets": "datasets.yaml", "studies": "studies.yaml", "claims": "claims.yaml"}
TITLES = {
    "run": "Trainings",
    "download": "Downloads",
    "checkpoints": "Checkpoints",
    "tracking": "MLflow",
    "report": "Report",
    "datasets": "Data sets and their recipes",
    "methods": "Methods",
    "studies": "Studies",
    "claims": "Claims",
}
INTRO = """# Parameter reference

`python docs/generate_parameters.py` generates this page. Edit the schema in `src/heated/config/` or
the comments in the YAML files, not this page.

`<name>` is the name of an entry, `[]` an element of a list. *value* is the value in the repository;
for entries, that of {examples}.
Empty values and values longer than 60 characters are left out.
[Schedules and parameters](schedules.md) explains how the files work together.
"""


def described(schema: dict[str, Any]) -> str:
    """Return a JSON schema's type and range in words."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema or "oneOf" in schema:
        texts = list(dict.fromkeys(map(described, schema.get("anyOf") or schema["oneOf"])))
        return (", " if all(text.startswith("`") for text in texts) else " or ").join(texts)
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"({', '.join(map(described, schema['prefixItems']))})"
        return f"list of {described(schema.get('items', {}))}"
    if schema.get("type") == "null":
        return "empty"
    if schema.get("type") == "object":
        return "mapping"
    kinds = {"string": "text", "boolean": "true or false"}
    kind = kinds.get(schema.get("type", ""), schema.get("type", "any value"))
    signs = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    limits = [f"{sign} {schema[key]:,}" for key, sign in signs if key in schema]
    return " ".join([kind, ", ".join(limits)]).strip()


def resolved(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a JSON schema with every reference replaced, and every dict's values under one key."""
    if isinstance(schema, list):
        return [resolved(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    result = {key: resolved(value, definitions) for key, value in schema.items()}
    if patterns := result.pop("patternProperties", None):
        (result["additionalProperties"],) = patterns.values()
    return result


def alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the mappings that a schema allows, or an empty list."""
    found = [schema] if "properties" in schema else []
    for option in schema.get("oneOf") or schema.get("anyOf") or []:
        found += [each for each in alternatives(option) if each not in found]
    return found


def rows(path: str, schema: dict[str, Any], example: Any, comment: str = "") -> Iterator[list[str]]:
    """Yield key, type, value and note of every key at and below a path."""
    if schema.get("type") == "array" and alternatives(schema["items"]):
        path, schema, example = f"{path}[]", schema["items"], example[0] if example else None
    if isinstance(schema.get("additionalProperties"), dict) and "properties" not in schema:
        yield from rows(f"{path}.<name>", schema["additionalProperties"], None)
    elif not (options := alternatives(schema)):
        value = "" if example is None else json.dumps(plain(example), ensure_ascii=False)
        value = f"`{value}`" if 0 < len(value) <= 60 else ""
        yield [f"`{path}`", described(schema), value, comment]
    else:
        for key in dict.fromkeys(key for option in options for key in option["properties"]):
            having = [option["properties"] for option in options if key in option["properties"]]
            kinds = "" if len(having) == len(options) else f"with {', '.join(map(kind, having))}"
            inner = example.get(key) if isinstance(example, dict) else None
            texts = filter(None, (kinds, note(example, key)))
            merged = {"anyOf": [properties[key] for properties in having]}
            one = merged["anyOf"][0] if len(having) == 1 else merged
            yield from rows(f"{path}.{key}", one, inner, "; ".join(texts))


def kind(properties: dict[str, Any]) -> str:
    """Return a name for one of several mappings: its `name`, or the key that only it has."""
    if "name" in properties:
        return described(properties["name"])
    return "a `loss` of pytorch-metric-learning" if "loss" in properties else "the heated softmax"


def note(mapping: Any, key: str) -> str:
    """Return the comment at the end of a key's line."""
    tokens = getattr(getattr(mapping, "ca", None), "items", {}).get(key) or []
    for token in tokens:
        if hasattr(token, "value"):
            first = str(token.value).split("\n")[0].strip()
            if first.startswith("#"):
                return first.lstrip("# ").replace("|", "\\|")
    return ""


def plain(value: Any) -> Any:
    """Return a value of ruamel.yaml as plain lists, dicts and scalars."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def page() -> str:
    """Return the text of the page."""
    schema = Params.model_json_schema()
    schema = resolved({k: v for k, v in schema.items() if k != "$defs"}, schema.get("$defs", {}))
    shown = ", ".join(f"`{name}` of `{file}`" for file, name in EXAMPLES.values())
    parts = [INTRO.format(examples=shown)]
    for section, title in TITLES.items():
        file, name = EXAMPLES.get(section, (FILES.get(section, "params.yaml"), None))
        example = YAML().load((ROOT / file).read_text(encoding="utf-8"))[section]
        example = example[name] if name else example
        inner, path = schema["properties"][section], section
        if name:
            inner, path = inner["additionalProperties"], f"{section}.<name>"
        table = ["| key | type and range | value | note |", "|---|---|---|---|"]
        table += [f"| {' | '.join(row)} |" for row in rows(path, inner, example)]
        parts.append("\n".join([f"## {title}", "", f"File: `{file}`.", "", *table, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
