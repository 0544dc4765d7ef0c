"""Griffe extension: show doctests as code, wherever a docstring has them."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Put each doctest into a fenced block, which Markdown would otherwise quote."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Edit the docstring of an object after it is collected."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = DOCTEST.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", text)
