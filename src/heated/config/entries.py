"""Entries that start from another one: `base: NAME` in methods and data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heated.common.errors import suggestion


@dataclass(frozen=True)
class Entry:
    """A value, and the name of the entry that wrote it; a mapping's values are entries again."""

    written: Any
    writer: str

    @property
    def value(self) -> Any:
        """The value without its origins."""
        if isinstance(self.written, dict):
            return {key: entry.value for key, entry in self.written.items()}
        return self.written

    def origin(self, path: tuple[str, ...]) -> str:
        """Return the entry that wrote the value at a path, or the mapping nearest above it."""
        inner = self.written.get(path[0]) if path and isinstance(self.written, dict) else None
        return self.writer if inner is None else inner.origin(path[1:])


def expand(entries: Mapping[str, Any]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Apply `base` to every entry.

    Nested mappings are merged, except that a mapping with a `name` replaces the base's.

    Args:
        entries: Mappings by name. An entry that is no mapping is left out.

    Returns:
        The expanded entries by name, and by name what is wrong with an entry's `base`. An entry
        that starts from a wrong one is in neither.
    """
    expanded: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    names = [name for name, own in entries.items() if isinstance(own, dict)]
    for name in names:
        chain = [name]
        while chain[-1] not in expanded and (base := entries[chain[-1]].get("base")) is not None:
            if problem := problems.get(chain[-1]) or base_problem(base, chain, names):
                problems[chain[-1]] = problem
                break
            chain.append(base)
        else:
            for each in reversed(chain):
                own = {key: value for key, value in entries[each].items() if key != "base"}
                base = entries[each].get("base")
                start = Entry({}, each) if base is None else expanded[base]
                expanded.setdefault(each, merged(start, own, each))
    return expanded, problems


def base_problem(base: Any, chain: list[str], names: list[str]) -> str | None:
    """Return what is wrong with the base of the last entry of a chain, None if nothing is."""
    if base in chain:
        cycle = " -> ".join([*chain[chain.index(base) :], base])
        return f"got {base!r}, which starts from itself: {cycle}. Break the cycle."
    if base not in names:
        return f"got {base!r}, expected one of {', '.join(names)}.{suggestion(base, names)}"
    return None


def merged(base: Entry, own: Mapping[str, Any], name: str) -> Entry:
    """Return a base's mapping with an entry's own keys merged into it."""
    changed = {}
    for key, value in own.items():
        old = base.written.get(key)
        if isinstance(value, dict):
            extends = old and isinstance(old.written, dict) and "name" not in value
            changed[key] = merged(old if extends else Entry({}, name), value, name)
        else:
            changed[key] = Entry(value, name)
    return Entry(base.written | changed, base.writer)
