"""Values over a run: functions of progress, which is 0 in the first epoch and 1 in the last.

Alpha = 1 / temperature and the factor on the learning rate both follow such a schedule.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any


def constant(progress: float, *, value: float) -> float:
    """The value.

    >>> constant(0.5, value=16)
    16
    """
    return value


def step(progress: float, *, start: float, end: float, at: float) -> float:
    """`start` before progress `at`, `end` from there on: the paper's heating up (section 3.4).

    >>> [step(p, start=16, end=4, at=0.75) for p in (0, 0.74, 0.75, 1)]
    [16, 16, 4, 4]
    """
    return end if progress >= at else start


def linear(progress: float, *, start: float, end: float) -> float:
    """From `start` to `end` in equal steps.

    >>> [linear(p, start=16.0, end=4.0) for p in (0, 0.5, 1)]
    [16.0, 10.0, 4.0]
    """
    return (1 - progress) * start + progress * end


def cosine(progress: float, *, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine: slow, fast, slow.

    >>> [cosine(p, start=16.0, end=4.0) for p in (0, 0.5, 1)]
    [16.0, 10.0, 4.0]
    """
    return linear((1 - math.cos(math.pi * progress)) / 2, start=start, end=end)


def exponential(progress: float, *, start: float, end: float) -> float:
    """From `start` to `end` by equal ratios.

    >>> [exponential(p, start=16.0, end=4.0) for p in (0, 0.5, 1)]
    [16.0, 8.0, 4.0]
    """
    return float(start ** (1 - progress) * end**progress)


def piecewise(progress: float, *, points: Sequence[tuple[float, float]]) -> float:
    """Straight lines between (progress, value) points, level before the first and after the last.

    >>> [piecewise(p, points=[(0.5, 16.0), (1.0, 4.0)]) for p in (0, 0.5, 0.75, 1)]
    [16.0, 16.0, 10.0, 4.0]
    """
    before = [point for point in points if point[0] <= progress]
    after = [point for point in points if point[0] > progress]
    if not before or not after:
        return (before[-1:] or after[:1])[0][1]
    (p0, v0), (p1, v1) = before[-1], after[0]
    return linear((progress - p0) / (p1 - p0), start=v0, end=v1)


def values(name: str, options: dict[str, Any], *, epochs: int) -> list[float]:
    """The schedule's value in each epoch: epoch e stands at progress e / (epochs - 1).

    The paper's 80 epochs, of which 0 to 60 are trained at 16 and the last 19 at 4:

    >>> alphas = values("step", {"start": 16, "end": 4, "at": 0.7625}, epochs=80)
    >>> alphas[60], alphas[61], alphas.count(4)
    (16.0, 4.0, 19)
    """
    last = max(epochs - 1, 1)
    return [float(SCHEDULES[name](epoch / last, **options)) for epoch in range(epochs)]


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "step": step,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "piecewise": piecewise,
}
