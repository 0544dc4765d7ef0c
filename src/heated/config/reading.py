"""Read YAML as DVC reads it (version 1.2: `1e-4` is a number, `no` a string), with PyYAML.

A date is text, since no parameter is one. Anchors, aliases and merge keys are refused: `-S` of
`dvc exp run` changes what two names share for both or for neither, and an alias bomb takes all
memory. `base: NAME` is there in their place.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from heated.common.errors import InputError


class ParamsError(InputError):
    """What is wrong with the parameters, every error on a line of its own."""


# libyaml parses ten times faster; PyYAML's wheels have it.
FastLoader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Yaml12Loader(FastLoader):  # type: ignore[misc]
    """PyYAML's safe loader with YAML 1.2's plain scalars, and no key twice in a mapping."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is twice in a mapping", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


SCALARS = [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
]
for tag, pattern, first in SCALARS:
    Yaml12Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first)
    )


def construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """A whole number: YAML 1.2 has no octal with a bare leading zero and no base 60."""
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, {"0b": 2, "0o": 8, "0x": 16}.get(text.lstrip("-+")[:2], 10))


Yaml12Loader.add_constructor("tag:yaml.org,2002:int", construct_int)


def refuse_anchors(text: str) -> None:
    """Raise ComposerError at the first anchor or alias."""
    events: Iterator[Any] = yaml.parse(text, FastLoader)
    for event in events:
        if getattr(event, "anchor", None) is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            told = f"got {sign}{event.anchor}, expected no anchors and aliases; use `base: NAME`"
            raise yaml.composer.ComposerError(None, None, told, event.start_mark)


def parse(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, as DVC reads it.

    Raises:
        ParamsError: If the file is missing, cannot be parsed, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        refuse_anchors(text)
        raw = yaml.load(text, Yaml12Loader)
    except FileNotFoundError:
        raise ParamsError(
            f"{path} is missing. Run stages from the project's root, where it is."
        ) from None
    except RecursionError:
        raise ParamsError(f"{path}: cannot be read as YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError) as error:  # of a tag, too
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: got {raw!r}, expected a mapping of sections.")
    return raw
