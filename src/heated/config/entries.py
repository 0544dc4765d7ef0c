"""Entries that start from another one: `base: NAME` in methods and data sets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heated.config.error_messages import suggestion

Path = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """An entry with everything that it inherits.

    Attributes:
        value: The entry's keys, without `base`.
        origins: For every path in `value`, the name of the entry that wrote it.
    """

    value: dict[str, Any]
    origins: dict[Path, str]

    def origin(self, path: Path) -> str:
        """Return the entry that wrote the value at a path, or the mapping nearest above it."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]


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
                start = Entry({}, {(): each}) if base is None else expanded[base]
                expanded.setdefault(each, merged(start, each, own))
    return expanded, problems


def base_problem(base: Any, chain: list[str], names: list[str]) -> str | None:
    """Return what is wrong with the base of the last entry of a chain, None if nothing is."""
    if base in chain:
        cycle = " -> ".join([*chain[chain.index(base) :], base])
        return f"got {base!r}, which starts from itself: {cycle}. Break the cycle."
    if base not in names:
        return f"got {base!r}, expected one of {', '.join(names)}.{suggestion(base, names)}"
    return None


def merged(base: Entry, name: str, own: Mapping[str, Any]) -> Entry:
    """Merge an entry's own keys into those of its base."""
    value, origins = copied(base.value), dict(base.origins)
    merge_into(value, origins, own, name, ())
    return Entry(value, origins)


def merge_into(
    value: dict[str, Any], origins: dict[Path, str], own: Mapping[str, Any], name: str, path: Path
) -> None:
    """Merge keys into a mapping at a path, in place, and write down where they come from."""
    for key, new in own.items():
        place, old = (*path, str(key)), value.get(key)
        if isinstance(new, dict) and isinstance(old, dict) and "name" not in new:
            merge_into(old, origins, new, name, place)
            continue
        for inner in [each for each in origins if each[: len(place)] == place]:
            del origins[inner]
        value[key] = copied(new)
        origins.update(dict.fromkeys(paths(new, place), name))


def paths(value: Any, path: Path) -> Iterator[Path]:
    """Yield the path of a value and of every value inside its mappings."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, str(key)))


def copied(value: Any) -> Any:
    """Return a value whose mappings are not shared with the original."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return value
