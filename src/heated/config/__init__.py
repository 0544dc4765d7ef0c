"""The parameters: four YAML files, validated as a whole. Only the stage `resolve` reads them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heated.common.errors import suggestion
from heated.config.cross_checks import grid_problems, name_problems
from heated.config.entries import Entry, expand
from heated.config.error_messages import Location, shortened, type_problems
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
        entries: The expanded entries of methods and data sets.
        files: For methods and data sets, the file of each entry.
        problems: What is wrong so far.
        incomplete: Sections of entries that a file has no mapping for.
    """

    raw: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    files: dict[tuple[str, str], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)

    def add(self, file: str, section: str, value: Any) -> None:
        """Add a file's section, or what is wrong with it."""
        if section not in FILES[file]:
            self.problems.append(f"{file}: {section}: {unknown_section(section, file)}")
        elif section not in ENTRIES:
            self.raw[section] = value
        elif isinstance(value, dict):
            for name, own in value.items():
                first = self.files.setdefault((section, str(name)), file)
                if first == file:
                    self.raw.setdefault(section, {})[str(name)] = own
                else:
                    problem = f"is in {first}, too. Rename or remove one of the two."
                    self.problems.append(f"{file}: {section}.{name}: {problem}")
        else:
            problem = f"got {shortened(value)}, expected a mapping of entries by name."
            self.problems.append(f"{file}: {section}: {problem}")
            self.incomplete.add(section)

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
    complete: dict[str, list[str]] = {}
    for kind, name in sources.files:
        if kind not in sources.incomplete:
            complete.setdefault(kind, []).append(name)
    found = [*name_problems(sources.raw, complete)]
    try:
        params = Params.model_validate(sources.raw)
        if not sources.problems + found:
            found = grid_problems(params)
    except ValidationError as error:
        found = [*type_problems(error, sources.raw, Params), *found]
    by_place: dict[str, str] = {}  # an error that several entries inherit, once
    for location, what in found:
        by_place.setdefault(sources.where(location), what)
    problems = [*sources.problems, *(f"{where}: {what}" for where, what in by_place.items())]
    if problems:
        count = "an error" if len(problems) == 1 else f"{len(problems)} errors"
        raise ParamsError("\n  ".join([f"The parameters have {count}:", *problems]))
    return params


def read(folder: Path) -> Sources:
    """Read all files and expand their entries.

    Raises:
        ParamsError: If a file cannot be read.
    """
    sources = Sources()
    for file in FILES:
        for section, value in parse(folder / file).items():
            sources.add(file, str(section), value)
    grids, studies = sources.raw.pop("grids", None), sources.raw.get("studies")
    competitors = studies.get("competitors") if isinstance(studies, dict) else None
    if isinstance(competitors, dict):
        if "grid" in competitors:
            problem = "unknown key. Move it to the section grids of the same file."
            sources.problems.append(f"studies.yaml: studies.competitors.grid: {problem}")
        competitors["grid"] = {} if grids is None else grids
    for section in (name for name in ENTRIES if name in sources.raw):
        written = sources.raw[section]
        sources.entries[section], wrong = expand(written)
        values = {name: entry.value for name, entry in sources.entries[section].items()}
        kept = {name: own for name, own in written.items() if not isinstance(own, dict)}
        sources.raw[section] = values | kept
        for name, what in wrong.items():
            file = sources.files[section, name]
            sources.problems.append(f"{file}: {section}.{name}.base: {what}")
    return sources


def unknown_section(section: str, file: str) -> str:
    """Return what to do about a section that its file does not have."""
    other = [name for name, sections in FILES.items() if section in sections]
    hint = f" It belongs in {other[0]}." if other else suggestion(section, FILES[file])
    return f"unknown key, expected one of {', '.join(FILES[file])}.{hint}"
