"""params.yaml, typed: `load` validates the whole file and tells every error at once."""

from pathlib import Path

from pydantic import ValidationError

from heated.config.cross_checks import grid_problems, name_problems
from heated.config.error_messages import type_problems
from heated.config.reading import ParamsError, parse
from heated.config.schema import Params

__all__ = ["Params", "ParamsError", "load"]


def load(path: Path = Path("params.yaml")) -> Params:
    """The validated parameters in `path`; ParamsError names every error by its key's path."""
    raw = parse(path)
    problems = [*name_problems(raw)]
    try:
        params = Params.model_validate(raw)
        problems = problems or grid_problems(params)
    except ValidationError as error:
        problems = [*type_problems(error, raw), *problems]
    if problems:
        noun = "an error" if len(problems) == 1 else f"{len(problems)} errors"
        raise ParamsError("\n  ".join([f"{path} has {noun}:", *problems]))
    return params
