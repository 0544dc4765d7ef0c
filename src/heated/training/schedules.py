"""Schedules of alpha = 1 / temperature and of the factor on the learning rate.

A schedule is a function of progress, which is 0 in the first epoch and 1 in the last.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any


def constant(progress: float, *, value: float) -> float:
    """Return the value at any progress."""
    return value


def step(progress: float, *, start: float, end: float, at: float) -> float:
    """Change from `start` to `end` at progress `at`: heating up as in the paper (section 3.4).

    >>> [step(p, start=16, end=4, at=0.75) for p in (0, 0.74, 0.75, 1)]
    [16, 16, 4, 4]
    """
    return end if progress >= at else start


def linear(progress: float, *, start: float, end: float) -> float:
    """Change from `start` to `end` by equal differences.

    >>> [linear(p, start=16.0, end=4.0) for p in (0, 0.5, 1)]
    [16.0, 10.0, 4.0]
    """
    return (1 - progress) * start + progress * end


def cosine(progress: float, *, start: float, end: float) -> float:
    """Change from `start` to `end` along half a cosine.

    >>> [cosine(p, start=16.0, end=4.0) for p in (0, 0.5, 1)]
    [16.0, 10.0, 4.0]
    """
    return linear((1 - math.cos(math.pi * progress)) / 2, start=start, end=end)


def exponential(progress: float, *, start: float, end: float) -> float:
    """Change from `start` to `end` by equal ratios.

    >>> [exponential(p, start=16.0, end=4.0) for p in (0, 0.5, 1)]
    [16.0, 8.0, 4.0]
    """
    return float(start ** (1 - progress) * end**progress)


def periodic_cosine(progress: float, *, start: float, end: float, periods: float) -> float:
    """Swing from `start` to `end` and back, along a cosine of 1 / value, the temperature.

    Kukleva et al. (arXiv 2303.13664) swing the temperature between 1 and 0.1.

    >>> [round(periodic_cosine(p, start=1, end=10, periods=2), 2) for p in (0, 0.25, 0.375, 1)]
    [1.0, 10.0, 1.82, 1.0]
    """
    position = (1 - math.cos(2 * math.pi * periods * progress)) / 2
    return 1 / linear(position, start=1 / start, end=1 / end)


def piecewise(progress: float, *, points: Sequence[tuple[float, float]]) -> float:
    """Interpolate (progress, value) points linearly; constant before the first and after the last.

    >>> [piecewise(p, points=[(0.5, 16.0), (1.0, 4.0)]) for p in (0, 0.5, 0.75, 1)]
    [16.0, 16.0, 10.0, 4.0]
    """
    before = [point for point in points if point[0] <= progress]
    after = [point for point in points if point[0] > progress]
    if not before or not after:
        return (before[-1:] or after[:1])[0][1]
    (p0, v0), (p1, v1) = before[-1], after[0]
    return linear((progress - p0) / (p1 - p0), start=v0, end=v1)


def change_epochs(values: Sequence[float | None]) -> list[int]:
    """Return the epochs whose value differs from the one before; next to None none does.

    Of changes in successive epochs only the first and the last are returned.

    >>> change_epochs([16, 16, 4, 4]), change_epochs([16, 16, 12, 8, 4, 4])
    ([2], [2, 4])
    """
    pairs = zip(values, values[1:], strict=False)
    changed = [False, *(None not in pair and pair[0] != pair[1] for pair in pairs), False]
    inner = range(1, len(values))
    return [e for e in inner if changed[e] and not (changed[e - 1] and changed[e + 1])]


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "step": step,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "periodic_cosine": periodic_cosine,
    "piecewise": piecewise,
}


def schedule_values(name: str, options: dict[str, Any], *, epochs: int) -> list[float]:
    """Return a schedule's value in each epoch; epoch e has progress e / (epochs - 1).

    The paper trains epochs 0 to 60 of 80 with alpha 16, and the last 19 with 4:

    >>> alphas = schedule_values("step", {"start": 16, "end": 4, "at": 0.7625}, epochs=80)
    >>> alphas[60], alphas[61], alphas.count(4)
    (16.0, 4.0, 19)
    """
    last = max(epochs - 1, 1)
    return [float(SCHEDULES[name](epoch / last, **options)) for epoch in range(epochs)]
