"""A module as a command."""

import inspect
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heated.common.errors import InputError


def run(main: Callable[..., None], parser: ArgumentParser | None = None) -> None:
    """Call `main` with the command line's arguments.

    An error that a user can fix ends the process with its message and status 1; a wrong command
    line with the usage and status 2. Any other error keeps its traceback.

    Args:
        main: Function that takes the parsed arguments by name.
        parser: By default one with an argument per parameter of `main`, in order, which is a path
            if it is typed so.
    """
    if parser is None:
        spec = sys.modules[main.__module__].__spec__
        parser = ArgumentParser(
            f"python -m {spec.name}" if spec else None, description=main.__doc__
        )
        for name, each in inspect.signature(main).parameters.items():
            kind = Path if each.annotation is Path else str
            parser.add_argument(name, metavar=name.upper(), type=kind)
    arguments = vars(parser.parse_args())
    with readable_errors():
        main(**arguments)


@contextmanager
def readable_errors() -> Iterator[None]:
    """End the process with the message and status 1 at an error that a user can fix."""
    try:
        yield
    except (InputError, OSError, FloatingPointError) as error:
        sys.exit(str(error))
