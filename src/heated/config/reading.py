"""Read YAML with the reader that DVC uses, so that a number here is the number there.

Anchors and aliases are refused: `-S` of `dvc exp run` changes what two names share for both or for
neither, and an alias bomb takes all memory. `base: NAME` is there in their place.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from heated.common.errors import InputError


class ParamsError(InputError):
    """What is wrong with the parameters, every error on a line of its own."""


class StrictComposer(Composer):
    """Refuse anchors, aliases and mappings nested deeper than any of ours."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, problem = self.parser.peek_event(), None
        if event.anchor is not None:
            sign = "*" if isinstance(event, AliasEvent) else "&"
            problem = f"got {sign}{event.anchor}, expected no anchors and aliases; use `base: NAME`"
        elif self.depth > 100:
            problem = "nested too deeply"
        if problem:
            raise ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def parse(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, as DVC reads it.

    Raises:
        ParamsError: If the file is missing, cannot be parsed, or holds no mapping.
    """
    reader = YAML(typ="safe", pure=True)  # its parser in C composes by itself
    reader.Composer = StrictComposer
    try:
        raw = reader.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"{path} is missing. Run stages from the project's root, where it is."
        ) from None
    except (YAMLError, ValueError, AttributeError) as error:  # of a tag, too
        if isinstance(error, MarkedYAMLError):
            error.note = None  # how to let a key be twice in a mapping
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: got {raw!r}, expected a mapping of sections.")
    return raw
