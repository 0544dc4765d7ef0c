"""The parameters: four YAML files, validated as a whole. Only the stage `resolve` reads them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heated.config.cross_checks import grid_problems, name_problems
from heated.config.entries import Entry, expand
from heated.config.error_messages import Location, shortened, suggestion, type_problems
from heated.config.reading import ParamsError, parse
from heated.config.schema import Params

__all__ = ["Params", "ParamsError", "Sources", "load", "read"]

FILES = {  # the sections that each file may have
    "params.yaml": ("run", "download", "checkpoints", "tracking", "report", "methods"),
    "datasets.yaml": ("datasets",),
    "studies.yaml": ("studies", "methods", "grids"),
    "claims.yaml": ("claims",),
}
ENTRIES = ("methods", "datasets")  # whose entries may start from another one


@dataclass
class Sources:
    """The sections of all files.

    Attributes:
        raw: All sections, with every entry expanded.
        entries: The expanded entries of methods and data sets, with the origin of each value.
        files: For methods and data sets, the file of each entry.
        problems: What is wrong so far.
        incomplete: Sections of entries that a file has no mapping for.
    """

    raw: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    files: dict[tuple[str, str], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)

    def where(self, location: Location) -> str:
        """Return file and path of a value, in the entry that wrote it."""
        parts = [str(part) for part in location]
        if len(parts) > 1 and (entry := self.entries.get(parts[0], {}).get(parts[1])):
            parts[1] = entry.origin(tuple(parts[2:]))
        if parts[:3] == ["studies", "competitors", "grid"]:
            parts = ["grids", *parts[3:]]
        in_file = self.files.get((parts[0], parts[1])) if len(parts) > 1 else None
        file = in_file or next((f for f, known in FILES.items() if parts[0] in known), "")
        return ": ".join(filter(None, (file, ".".join(parts))))


def load(folder: Path = Path()) -> Params:
    """Read and validate the parameters in a folder.

    Raises:
        ParamsError: Names every error in all files by its file and the path of its key.
    """
    sources = read(folder)
    problems = sources.problems
    known = {kind: [name for of, name in sources.files if of == kind] for kind in ENTRIES}
    complete = {kind: names for kind, names in known.items() if kind not in sources.incomplete}
    found = [*name_problems(sources.raw, {kind: each for kind, each in complete.items() if each})]
    try:
        params = Params.model_validate(sources.raw)
        if not problems + found:
            found = grid_problems(params)
    except ValidationError as error:
        found = [*type_problems(error, sources.raw, Params), *found]
    told: dict[str, str] = {}  # an error that others inherit is told once, where it is
    for place, what in found:
        told.setdefault(sources.where(place), what)
    if problems := [*problems, *(f"{where}: {what}" for where, what in told.items())]:
        count = "an error" if len(problems) == 1 else f"{len(problems)} errors"
        raise ParamsError("\n  ".join([f"The parameters have {count}:", *problems]))
    return params


def read(folder: Path) -> Sources:
    """Read all files and expand their entries.

    Raises:
        ParamsError: If a file cannot be read.
    """
    sources, named = Sources(), dict[str, dict[str, Any]]()
    for file in FILES:
        for section, value in parse(folder / file).items():
            add_section(sources, named, file, str(section), value)
    grids = sources.raw.pop("grids", None)
    if isinstance(competitors := dict_at(sources.raw, "studies", "competitors"), dict):
        if "grid" in competitors:
            told = "unknown key. Move it to the section grids of the same file."
            sources.problems.append(f"studies.yaml: studies.competitors.grid: {told}")
        competitors["grid"] = {} if grids is None else grids
    for section, entries in named.items():
        expanded, wrong = expand(entries)
        sources.entries[section] = expanded
        kept = {name: own for name, own in entries.items() if not isinstance(own, dict)}
        sources.raw[section] = {name: entry.value for name, entry in expanded.items()} | kept
        sources.problems += [
            f"{sources.files[section, name]}: {section}.{name}.base: {what}"
            for name, what in wrong.items()
        ]
    return sources


def add_section(
    sources: Sources, named: dict[str, dict[str, Any]], file: str, section: str, value: Any
) -> None:
    """Add a file's section to the sources, or to the named entries, or what is wrong with it."""
    if section not in FILES[file]:
        sources.problems.append(f"{file}: {section}: {misplaced(section, FILES[file])}")
    elif section not in ENTRIES:
        sources.raw[section] = value
    elif isinstance(value, dict):
        sources.problems += add_entries(sources.files, named, section, value, file)
    else:
        told = f"got {shortened(value)}, expected a mapping of entries by name."
        sources.problems.append(f"{file}: {section}: {told}")
        sources.incomplete.add(section)


def add_entries(
    files: dict[tuple[str, str], str],
    named: dict[str, dict[str, Any]],
    section: str,
    entries: Mapping[Any, Any],
    file: str,
) -> Iterator[str]:
    """Add a file's entries of a section; yield a problem for each name that another file has."""
    for key, own in entries.items():
        name = str(key)
        if name in named.setdefault(section, {}):
            first = files[section, name]
            yield f"{file}: {section}.{name}: is in {first}, too. Rename or remove one of the two."
            continue
        named[section][name], files[section, name] = own, file


def misplaced(section: str, known: tuple[str, ...]) -> str:
    """Return what to do about a section that its file does not have."""
    other = [file for file, sections in FILES.items() if section in sections]
    hint = f" It belongs in {other[0]}." if other else suggestion(section, list(known))
    return f"unknown key, expected one of {', '.join(known)}.{hint}"


def dict_at(raw: Any, *keys: str) -> Any:
    """Return the value below the keys, None where there is none."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw
