"""Read the YAML files as DVC reads them, and apply `base: NAME`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from heated.common.errors import InputError, suggestion


class ParamsError(InputError):
    """Everything that is wrong with the parameters, one error per line."""


class StrictComposer(Composer):
    """Refuse anchors, aliases (use `base: NAME`) and mappings nested deeper than any of ours.

    `dvc exp run -S` changes an aliased value for both names or neither, and nesting fills memory.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, or raise ComposerError if it is refused."""
        event, problem = self.parser.peek_event(), None
        if event.anchor is not None:
            sign = "*" if isinstance(event, AliasEvent) else "&"
            problem = f"got {sign}{event.anchor}, expected no anchors and aliases; use `base: NAME`"
        elif self.depth > 100:
            problem = "nested too deeply"
        if problem:
            raise ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file with the same values as in DVC, or raise ParamsError."""
    reader = YAML(typ="safe", pure=True)  # the parser in C ignores our composer
    reader.Composer = StrictComposer
    try:
        raw = reader.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        advice = "Run stages from the project's root, which contains it."
        raise ParamsError(f"{path} is missing. {advice}") from None
    except (YAMLError, ValueError, AttributeError) as error:  # the latter two for wrong tags
        if isinstance(error, MarkedYAMLError):
            error.note = None  # advises to allow duplicate keys
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: got {raw!r}, expected a mapping of sections.")
    return raw


@dataclass(frozen=True)
class Entry:
    """A value, and the name of the entry that wrote it; values in a mapping are entries again."""

    content: Any
    writer: str

    @property
    def value(self) -> Any:
        """The value without its writers."""
        if isinstance(self.content, dict):
            return {key: entry.value for key, entry in self.content.items()}
        return self.content

    def writer_of(self, path: tuple[str, ...]) -> str:
        """Return the entry that wrote the value at a path, or the nearest mapping above it."""
        inner = self.content.get(path[0]) if path and isinstance(self.content, dict) else None
        return self.writer if inner is None else inner.writer_of(path[1:])

    def merge(self, keys: Mapping[str, Any], writer: str) -> "Entry":
        """Return this mapping with another entry's keys merged into it."""
        changed = {}
        for key, value in keys.items():
            if isinstance(value, dict):
                old = self.content.get(key)
                extends = old and isinstance(old.content, dict) and "name" not in value
                changed[key] = (old if extends else Entry({}, writer)).merge(value, writer)
            else:
                changed[key] = Entry(value, writer)
        return Entry(self.content | changed, self.writer)


def expand_bases(entries: Mapping[str, Any]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Apply `base` to every entry.

    Nested mappings are merged, except that a mapping with a `name` replaces the base's.

    Returns:
        The expanded entries by name, and the problem with an entry's `base` by name. Entries that
        start from a wrong one, or are no mapping, are in neither.
    """
    expanded: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    mappings = {name: keys for name, keys in entries.items() if isinstance(keys, dict)}
    for name in mappings:
        chain, problem = [name], ""
        while chain[-1] not in expanded and (base := mappings[chain[-1]].get("base")) is not None:
            if base in chain:
                cycle = " -> ".join([*chain[chain.index(base) :], base])
                problem = f"got {base!r}, which starts from itself: {cycle}. Break the cycle."
            elif base not in [*mappings]:  # a base may be no hashable value
                names, hint = ", ".join(mappings), suggestion(base, mappings)
                problem = f"got {base!r}, expected one of {names}.{hint}"
            if problem := problems.get(chain[-1], problem):
                problems[chain[-1]] = problem
                break
            chain.append(base)
        else:
            for each in reversed(chain):
                keys = dict(mappings[each])
                base = keys.pop("base", None)
                start = Entry({}, each) if base is None else expanded[base]
                expanded.setdefault(each, start.merge(keys, each))
    return expanded, problems
