"""YAML as DVC reads it (version 1.2: `1e-4` is a number, `no` a string), with PyYAML; but a date
is text, since no parameter is one."""

import re
from pathlib import Path
from typing import Any

import yaml

from heated.common.errors import InputError


class ParamsError(InputError):
    """What is wrong with params.yaml, every error on a line of its own."""


class Yaml12Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's plain scalars, and no key twice in a mapping."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} stands twice in a mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


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
    ("merge", r"<<", "<"),
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


def parse(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, as DVC reads it; ParamsError when there is none."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Yaml12Loader)
    except FileNotFoundError:
        raise ParamsError(
            f"{path} is missing: run stages from the project's root, where it lies"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not readable as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds {raw!r}; allowed: a mapping of sections")
    return raw
