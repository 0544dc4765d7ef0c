"""Progress bars on a terminal, and lines in logs."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

INTERVAL_S = 60  # between lines without a terminal


class LogLines:
    """A stream that writes each state of a progress bar as a line of its own."""

    def write(self, text: str) -> None:
        """Write a state without the characters that move the cursor."""
        if state := text.strip("\r\n "):
            print(state, file=sys.stderr)

    def flush(self) -> None:
        """Write the buffer."""
        sys.stderr.flush()


def progress_bar(iterable: Iterable[Any] | None = None, title: str = "", **options: Any) -> Any:
    """Return tqdm's bar with the time left; without a terminal it is a line per minute at most.

    What takes less than a minute has no line then. `options` are tqdm's.
    """
    if not sys.stderr.isatty():
        every = {"delay": INTERVAL_S, "mininterval": INTERVAL_S, "maxinterval": INTERVAL_S}
        options = {"file": LogLines(), "miniters": 1, **every, **options}
    return tqdm(iterable, title, **options)
