"""A stage as a command: its function's parameters are the command line's arguments, in order."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heated.common.errors import InputError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line; parameters typed Path come as paths, and those with a
    star may be left out.

    What a user can put right ends with its message and status 1, a wrong number of arguments with
    the usage and status 2; anything else keeps its traceback.
    """
    parameters = [*inspect.signature(main).parameters.values()]
    needed = [each for each in parameters if each.kind is not each.VAR_POSITIONAL]
    arguments = sys.argv[1:]
    if not len(needed) <= len(arguments) <= len(parameters):
        optional = [f"[{each.name.upper()}]" for each in parameters[len(needed) :]]
        usage = " ".join([*(each.name.upper() for each in needed), *optional])
        print(f"usage: python -m stages.{Path(sys.argv[0]).stem} {usage}", file=sys.stderr)
        sys.exit(2)
    pairs = zip(parameters, arguments, strict=False)
    with readable_errors():
        main(*(Path(text) if given.annotation is Path else text for given, text in pairs))


@contextmanager
def readable_errors() -> Iterator[None]:
    """End the process with the message and status 1 on an error that a user can fix."""
    try:
        yield
    except (InputError, OSError, FloatingPointError) as error:
        sys.exit(str(error))
