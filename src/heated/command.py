"""A stage as a command: its function's parameters are the command line's arguments, in order."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from heated.errors import InputError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line; parameters typed Path come as paths.

    What a user can put right ends with its message and status 1, a wrong number of arguments with
    the usage and status 2; anything else keeps its traceback.
    """
    parameters = inspect.signature(main).parameters.values()
    arguments = sys.argv[1:]
    if len(arguments) != len(parameters):
        usage = " ".join(parameter.name.upper() for parameter in parameters)
        print(f"usage: python -m stages.{Path(sys.argv[0]).stem} {usage}", file=sys.stderr)
        sys.exit(2)
    pairs = zip(parameters, arguments, strict=True)
    try:
        main(*(Path(text) if given.annotation is Path else text for given, text in pairs))
    except (InputError, OSError, FloatingPointError) as error:
        sys.exit(str(error))
