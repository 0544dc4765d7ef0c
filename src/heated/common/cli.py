"""Run a module as a command."""

import inspect
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heated.common.errors import InputError


def run(main: Callable[..., None], parser: ArgumentParser | None = None) -> None:
    """Call `main` with the command line's arguments, by default one per parameter of `main`."""
    if parser is None:
        spec = sys.modules[main.__module__].__spec__
        prog = f"python -m {spec.name}" if spec else None
        parser = ArgumentParser(prog, description=main.__doc__)
        for name, each in inspect.signature(main).parameters.items():
            kind = Path if each.annotation is Path else str
            parser.add_argument(name, metavar=name.upper(), type=kind)
    arguments = vars(parser.parse_args())
    with exit_on_error():
        main(**arguments)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit with the message and status 1 on an error that a user can fix; raise any other."""
    try:
        yield
    except (InputError, OSError, FloatingPointError) as error:
        sys.exit(str(error))
