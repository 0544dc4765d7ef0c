"""Read the YAML files as DVC reads them, and apply `base: NAME`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scanner import Scanner, ScannerError

from heated.common.errors import InputError, suggestion

POINT = ("progress", "value")  # of a schedule
MAX_DEPTH = 100  # of nested mappings and lists; deeper ones take minutes and fill memory
MAX_BYTES = 1 << 18  # of a file; a larger one takes many seconds to parse


class ParamsError(InputError):
    """Everything that is wrong with the parameters, one error per line."""


class StrictScanner(Scanner):
    """Refuse brackets nested too deeply, before the scanner searches each one for a key."""

    def fetch_flow_collection_start(self, *arguments: Any, **options: Any) -> None:
        """Fetch a bracket, or raise ScannerError."""
        if len(self.flow_context) > MAX_DEPTH:
            raise ScannerError(None, None, "nested too deeply", self.reader.get_mark())
        super().fetch_flow_collection_start(*arguments, **options)


class StrictComposer(Composer):
    """Refuse anchors, aliases (use `base: NAME`) and values nested too deeply.

    `dvc exp run -S` changes an aliased value for both names or neither.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, or raise ComposerError if it is refused."""
        event, problem = self.parser.peek_event(), None
        if event.anchor is not None:
            sign = "*" if isinstance(event, AliasEvent) else "&"
            problem = f"got {sign}{event.anchor}, expected no anchors and aliases; use `base: NAME`"
        elif self.depth > MAX_DEPTH:
            problem = "nested too deeply"
        if problem:
            raise ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


class StrictConstructor(SafeConstructor):
    """Refuse merge keys, integers of more than 64 bits and values that do not fit their tag."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct a value, or raise ConstructorError, which has the line."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and abs(value) >= 2**63:
                raise OverflowError("an integer of at most 64 bits")
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            got = f"{node.value:.80}" if isinstance(node, ScalarNode) else node.id
            kind = node.tag.rpartition(":")[2]
            expected = str(error) if isinstance(error, OverflowError) else f"a valid {kind}"
            problem = f"got {got}, expected {expected}"
            raise ConstructorError(None, None, problem, node.start_mark) from None
        return value

    def flatten_mapping(self, node: Any) -> Any:
        """Flatten nothing: raise ConstructorError for a merge key or a key that is no name."""
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                problem = f"got a {key.id} as a key, expected a name"
                raise ConstructorError(None, None, problem, key.start_mark)
            if key.value == "<<":
                problem = "got the merge key <<, expected no merge keys; use `base: NAME`"
                raise ConstructorError(None, None, problem, key.start_mark)


def strict_yaml() -> YAML:
    """Return a reader with the types of YAML 1.2, as DVC's."""
    reader = YAML(typ="safe", pure=True)  # the parser in C ignores our composer
    reader.Scanner, reader.Composer = StrictScanner, StrictComposer
    reader.Constructor = StrictConstructor
    return reader


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file with the same values as in DVC, or raise ParamsError."""
    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            got = f"got {len(content)} bytes, expected at most {MAX_BYTES}"
            raise ParamsError(f"{path}: {got}. Remove all but the parameters.")
        raw = strict_yaml().load(content.decode())
    except FileNotFoundError:
        advice = "Run stages from the project's root, which contains it."
        raise ParamsError(f"{path} is missing. {advice}") from None
    except UnicodeDecodeError as error:
        advice = "Save the file as UTF-8."
        raise ParamsError(f"{path}: cannot be read as YAML: {error}. {advice}") from None
    except YAMLError as error:
        if isinstance(error, MarkedYAMLError):
            error.note = None  # advises to allow duplicate keys
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: got {raw!r:.200}, expected a mapping of sections.")
    return raw


@cache
def root_node(text: str) -> Node:
    """Return the node of a file's text, which has the lines of all keys."""
    return strict_yaml().compose(text)


def describe_key(text: str, path: str) -> str:
    r"""Return `line:column: path` of a key; the place is the last key's above it that exists.

    >>> describe_key("alpha:\n  points: [[0, 16], [2, 4]]\n", "alpha.points.1.0")
    '2:22: alpha.points, point 2, progress'
    """
    node: Node | None = root_node(text)
    place, title, last = root_node(text).start_mark, "", ""
    for key in path.split("."):
        items: dict[str, tuple[Node, Node]] = {}
        if isinstance(node, MappingNode):
            items = {name.value: (name, value) for name, value in node.value if name.id == "scalar"}
        elif isinstance(node, SequenceNode):
            items = {str(index): (value, value) for index, value in enumerate(node.value)}
        is_entry = key.isdigit() and not isinstance(node, MappingNode)
        title += f", {entry_title(last, int(key))}" if is_entry else f".{key}"
        last = ("point" if last == "points" else "entry") if is_entry else key
        first, node = items.get(key, (None, None))
        place = first.start_mark if first is not None else place
    return f"{place.line + 1}:{place.column + 1}: {title.removeprefix('.')}"


def entry_title(of: str, index: int) -> str:
    """Name an entry of a list as people count, and the two numbers of a schedule's point."""
    if of == "point" and index < len(POINT):
        return POINT[index]
    return f"{'point' if of == 'points' else 'entry'} {index + 1}"


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
