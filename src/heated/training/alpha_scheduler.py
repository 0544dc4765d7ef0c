"""A schedule of alpha = 1 / temperature, for any loss with a scale, in any training loop."""

import math
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from heated.common.errors import InputError, check_choice
from heated.training.schedules import SCHEDULES

TEMPERATURES = ("temperature", "tau")  # attributes that hold 1 / alpha
ATTRIBUTES = ("alpha", "scale", "softmax_scale", *TEMPERATURES)  # the first that a loss has


class AlphaScheduler:
    """Set a loss's alpha by a schedule, as torch.optim.lr_scheduler sets learning rates.

    The constructor sets the first value; call `step` after every epoch, or after every iteration:

    >>> from types import SimpleNamespace
    >>> loss = SimpleNamespace(temperature=1.0)
    >>> scheduler = AlphaScheduler(loss, "step", start=16, end=4, at=0.5, total=3)
    >>> loss.temperature, scheduler.get_last_alpha()
    (0.0625, 16.0)
    >>> scheduler.step()
    >>> loss.temperature, scheduler.get_last_alpha()
    (0.25, 4.0)

    Args:
        loss: A `HeatedSoftmax`, or any object whose alpha or temperature is a number, a parameter,
            a buffer or another tensor, which is changed in place.
        schedule: A key of `SCHEDULES`, or the value of each epoch, where None changes nothing.
        total: Number of epochs, or of iterations if `step` is called after each. Progress is 0 in
            the first and 1 in the last; later ones keep the last value. Not for a list of values.
        attribute: Name of the loss's attribute, by default the first of ATTRIBUTES that it has.
        inverse: Whether the attribute is a temperature; by default, the name in TEMPERATURES is.
        options: Options of the schedule.
    """

    def __init__(
        self,
        loss: Any,
        schedule: str | Sequence[float | None],
        *,
        total: int | None = None,
        attribute: str | None = None,
        inverse: bool | None = None,
        **options: Any,
    ) -> None:
        self.loss = loss
        self.attribute = attribute or find_attribute(loss)
        check_attribute(loss, self.attribute)
        self.inverse = self.attribute in TEMPERATURES if inverse is None else inverse
        self.schedule = schedule
        if isinstance(schedule, str):
            check_schedule(schedule, options)
        else:
            self.schedule, total = [*schedule], total or len(schedule)
        if not isinstance(total, int) or total < 1:
            raise InputError(f"total: got {total!r}, expected the number of epochs, at least 1")
        self.total, self.options = total, options
        self.last_epoch, self.last_alpha = -1, math.nan
        self.step()

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch or iteration, or to the given one, and set its alpha."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        alpha = self.alpha_at(self.last_epoch)
        if alpha is not None:
            set_alpha(self.loss, self.attribute, alpha, inverse=self.inverse)
            self.last_alpha = alpha

    def alpha_at(self, epoch: int) -> float | None:
        """Return the alpha of an epoch or iteration, counted from 0."""
        epoch, last = min(epoch, self.total - 1), max(self.total - 1, 1)
        if isinstance(self.schedule, str):
            return float(SCHEDULES[self.schedule](epoch / last, **self.options))
        return self.schedule[min(epoch, len(self.schedule) - 1)]

    def get_last_alpha(self) -> float:
        """Return alpha as last set, NaN if it never was."""
        return self.last_alpha

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the loss, as schedulers of torch do."""
        return {name: value for name, value in vars(self).items() if name != "loss"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state. Alpha is set only where the loss's own state_dict does not have it."""
        vars(self).update(state)
        if self.attribute in getattr(self.loss, "__dict__", {self.attribute}):  # a plain attribute
            self.step(self.last_epoch)


def find_attribute(loss: Any) -> str:
    """Return the first of ATTRIBUTES that is a number or tensor of the loss; else InputError."""
    for name in ATTRIBUTES:
        if isinstance(current_value(loss, name), float | int | Tensor):
            return name
    problem = f"{type(loss).__name__}: got none of the attributes {', '.join(ATTRIBUTES)}"
    raise InputError(f"{problem}, expected one. Name it with `attribute`.")


def current_value(loss: Any, name: str) -> Any:
    """Return a loss's attribute, None if it has none that can be set; NaN for a property.

    A property is a number, as `HeatedSoftmax.alpha`, and reading it may wait for the GPU.
    """
    found = getattr(type(loss), name, None)
    if isinstance(found, property):
        return None if found.fset is None else math.nan
    return getattr(loss, name, None)


def check_attribute(loss: Any, name: str) -> None:
    """Raise InputError if a loss's attribute is no number and no floating-point tensor."""
    value = current_value(loss, name)
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, Tensor) and value.is_floating_point()):
        expected = "expected a number or a floating-point tensor"
        raise InputError(f"{type(loss).__name__}.{name}: got {value!r:.200}, {expected}")


def check_schedule(name: str, options: dict[str, Any]) -> None:
    """Raise InputError if there is no such schedule, or its options are others."""
    check_choice("schedule", name, SCHEDULES)
    parameters = signature(SCHEDULES[name]).parameters.values()
    expected = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    if set(options) != expected:
        given = ", ".join(sorted(options)) or "none"
        raise InputError(f"{name}: got options {given}, expected {', '.join(sorted(expected))}")


def set_alpha(loss: Any, attribute: str, alpha: float, *, inverse: bool) -> None:
    """Set a loss's attribute to alpha, or to 1 / alpha; a tensor is changed in place."""
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha: got {alpha!r}, expected a finite number above 0")
    value, current = 1 / alpha if inverse else alpha, current_value(loss, attribute)
    if isinstance(current, Tensor):
        with torch.no_grad():
            current.fill_(value)
    else:
        setattr(loss, attribute, value)
