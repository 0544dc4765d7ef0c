"""Which runs a figure shows: by the study they are of, and by what their records say of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from heated.reporting.results import Result

Studies = Mapping[str, Sequence[str]]  # the methods of each study that were trained


def of_studies(results: Sequence[Result], studies: Studies, *names: str) -> list[Result]:
    """The runs of the named studies, in their own order."""
    methods = {method for name in names for method in studies.get(name, ())}
    return [result for result in results if result.method in methods]


def setting(result: Result, key: str) -> Any:
    """What the run's record says of a parameter; None if nothing."""
    return result.record["params"].get(key)


def schedule(result: Result, key: str) -> Mapping[str, Any]:
    """The schedule `alpha` or `lr_factor` of a run, with its name and options."""
    return setting(result, key) or {"name": None}


def constant_alpha(result: Result) -> float | None:
    """Alpha, where it and the learning rate stay as they are; else None."""
    alpha, lr_factor = schedule(result, "alpha"), schedule(result, "lr_factor")
    if (alpha["name"], lr_factor["name"]) == ("constant", "constant"):
        return float(alpha["value"])
    return None


def heating(result: Result) -> tuple[float, float, float] | None:
    """Start, end and moment of alpha's step, where the learning rate drops at the same moment, as
    in the paper; else None."""
    alpha, lr_factor = schedule(result, "alpha"), schedule(result, "lr_factor")
    if (alpha["name"], lr_factor["name"]) == ("step", "step") and alpha["at"] == lr_factor["at"]:
        return float(alpha["start"]), float(alpha["end"]), float(alpha["at"])
    return None
