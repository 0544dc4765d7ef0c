"""Read and validate the four YAML files of parameters. Only the stage `resolve` uses this."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heated.common.errors import suggestion
from heated.config.params import Params
from heated.config.validation import Location, grid_problems, name_problems, type_problems
from heated.config.yaml_files import Entry, ParamsError, describe_key, expand_bases, read_yaml

__all__ = ["FILES", "Params", "ParamsError", "format_entry", "load_params", "read_sources"]

MAX_LINES = 20  # of a message with several errors
FILES = {  # the sections that each file may have
    "params.yaml": ("run", "download", "checkpoints", "tracking", "report", "methods"),
    "datasets.yaml": ("datasets",),
    "studies.yaml": ("studies", "methods", "grids"),
    "claims.yaml": ("claims",),
}
ENTRIES = ("methods", "datasets")  # sections whose entries may have a `base`
TUNED = ("competitors", "heated_partners")  # studies with grids


Place = tuple[str, str]  # a file, and a key's path in it


@dataclass
class Sources:
    """The sections of all files, with every entry expanded, and the errors found so far."""

    raw: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)  # by section and name
    files: dict[tuple[str, str], str] = field(default_factory=dict)  # by section and entry
    problems: dict[Place, str] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)  # sections that are no mapping in a file

    def add(self, file: str, section: str, value: Any) -> None:
        """Add a file's section, or the problems with it."""
        problems = {}  # by path
        if section not in FILES[file]:
            other = [name for name, sections in FILES.items() if section in sections]
            hint = f" It belongs in {other[0]}." if other else suggestion(section, FILES[file])
            problems[section] = f"unknown key, expected one of {', '.join(FILES[file])}.{hint}"
        elif section not in ENTRIES:
            self.raw[section] = value
        elif isinstance(value, dict):
            for name, entry in value.items():
                first = self.files.setdefault((section, str(name)), file)
                if first == file:
                    self.raw.setdefault(section, {})[str(name)] = entry
                else:
                    problem = f"is in {first}, too. Rename or remove one of the two."
                    problems[f"{section}.{name}"] = problem
        else:
            problems[section] = f"got {value!r:.200}, expected a mapping of entries by name."
            self.incomplete.add(section)
        self.problems |= {(file, path): problem for path, problem in problems.items()}

    def place(self, location: Location) -> Place:
        """Return file and path of a value, in the entry that wrote it."""
        parts = [str(part) for part in location]
        if len(parts) > 1 and (entry := self.entries.get(parts[0], {}).get(parts[1])):
            parts[1] = entry.writer_of(tuple(parts[2:]))
        if parts[0] == "studies" and parts[1:2] and parts[1] in TUNED and parts[2:3] == ["grid"]:
            parts = ["grids", *parts[3:]]
        in_file = self.files.get((parts[0], parts[1])) if len(parts) > 1 else None
        files = (file for file, sections in FILES.items() if parts[0] in sections)
        file = in_file or next(files, "params.yaml")
        return file, ".".join(parts)


def load_params(folder: Path = Path()) -> Params:
    """Read and validate the parameters in a folder, or raise ParamsError with all errors."""
    sources = read_sources(folder)
    complete: dict[str, list[str]] = {}
    for kind, name in sources.files:
        if kind not in sources.incomplete:
            complete.setdefault(kind, []).append(name)
    located = [*name_problems(sources.raw, complete)]
    try:
        params = Params.model_validate(sources.raw)
        if not sources.problems and not located:
            located = grid_problems(params)
    except ValidationError as error:
        located = [*type_problems(error, sources.raw), *located]
    problems = dict(sources.problems)
    for location, message in located:
        problems.setdefault(sources.place(location), message)  # once if several entries inherit it
    if problems:
        raise ParamsError(format_problems(folder, problems))
    return params


def format_problems(folder: Path, problems: Mapping[Place, str]) -> str:
    """Format one line per problem: `file:line:column: path: problem`; params.yaml comes first."""
    texts = {file: (folder / file).read_text(encoding="utf-8") for file, _ in problems}
    files = [*FILES]
    lines = [
        f"{file}:{describe_key(texts[file], path)}: {problem}"
        for (file, path), problem in sorted(
            problems.items(), key=lambda each: files.index(each[0][0])
        )
    ]
    count = "an error" if len(lines) == 1 else f"{len(lines)} errors"
    rest = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n  ".join([f"The parameters have {count}:", *lines[:MAX_LINES], *rest])


def read_sources(folder: Path = Path()) -> Sources:
    """Read all files and expand their entries, or raise ParamsError if a file cannot be read."""
    sources = Sources()
    for file in FILES:
        for section, value in read_yaml(folder / file).items():
            sources.add(file, str(section), value)
    distribute_grids(sources)
    for section in (name for name in ENTRIES if name in sources.raw):
        raw = sources.raw[section]
        sources.entries[section], wrong = expand_bases(raw)
        values = {name: entry.value for name, entry in sources.entries[section].items()}
        invalid = {name: entry for name, entry in raw.items() if not isinstance(entry, dict)}
        sources.raw[section] = values | invalid
        for name, problem in wrong.items():
            file = sources.files[section, name]
            sources.problems[file, f"{section}.{name}.base"] = problem
    return sources


def distribute_grids(sources: Sources) -> None:
    """Move each grid to the studies that list its method; a study may list fewer methods."""
    grids, studies = sources.raw.pop("grids", None), sources.raw.get("studies")
    grids = {} if grids is None else grids
    for name in TUNED:
        study = studies.get(name) if isinstance(studies, dict) else None
        if not isinstance(study, dict):
            continue
        if "grid" in study:
            problem = "unknown key. Move it to the section grids of the same file."
            sources.problems["studies.yaml", f"studies.{name}.grid"] = problem
        study["grid"], methods = grids, study.get("methods")
        if isinstance(grids, dict) and isinstance(methods, list):
            study["grid"] = {method: grids[method] for method in grids if method in methods}
    is_complete = isinstance(grids, dict) and "methods" not in sources.incomplete
    known = sources.raw.get("methods", {})
    if unknown := [str(name) for name in grids if name not in known] if is_complete else []:
        problem = f"got {', '.join(unknown)}, expected names of methods."
        sources.problems["studies.yaml", "grids"] = problem + suggestion(unknown[0], known)


def format_entry(sources: Sources, name: str) -> str:
    """Return an entry, such as `methods.hbn`, as lines `key: value  # entry that wrote it`."""
    pairs = ((section, entry) for section in sources.entries for entry in sources.entries[section])
    known = {f"{section}.{entry}": sources.entries[section][entry] for section, entry in pairs}
    if name not in known:
        hint = suggestion(name, list(known))
        raise ParamsError(f"--show: got {name!r}, expected one of {', '.join(known)}.{hint}")
    rows, stack = [], [("", known[name])]
    while stack:
        path, entry = stack.pop()
        if isinstance(entry.content, dict):
            inner = [(f"{path}.{key}".lstrip("."), e) for key, e in entry.content.items()]
            stack.extend(reversed(inner))
        else:
            text = entry.value if isinstance(entry.value, str) else json.dumps(entry.value)
            rows.append((f"{path}: {text}", entry.writer))
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  # {writer}" for left, writer in rows)
