import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.training.schedules import SCHEDULES, values

value = st.floats(1e-3, 1e3)
progress = st.floats(0, 1)


@st.composite
def piecewise_options(draw):
    """Points whose progress rises."""
    places = sorted(draw(st.lists(progress, min_size=1, max_size=5, unique=True)))
    return {"points": [(place, draw(value)) for place in places]}


OPTIONS = {
    "constant": st.fixed_dictionaries({"value": value}),
    "step": st.fixed_dictionaries({"start": value, "end": value, "at": progress}),
    "linear": st.fixed_dictionaries({"start": value, "end": value}),
    "cosine": st.fixed_dictionaries({"start": value, "end": value}),
    "exponential": st.fixed_dictionaries({"start": value, "end": value}),
    "piecewise": piecewise_options(),
}
SMOOTH = ("linear", "cosine", "exponential")


def named(options):
    """The values that stand in a schedule's options."""
    points = [v for _, v in options.get("points", [])]
    return points + [v for key, v in options.items() if key in ("value", "start", "end")]


# --- every schedule --------------------------------------------------------------------------


def test_every_schedule_is_tested_here():
    assert set(OPTIONS) == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
@given(data=st.data(), epochs=st.integers(1, 40))
def test_every_schedule_stays_between_its_values_and_has_a_float_an_epoch(name, data, epochs):
    options = data.draw(OPTIONS[name])
    at = SCHEDULES[name](data.draw(progress), **options)
    assert min(named(options)) * (1 - 1e-9) <= at <= max(named(options)) * (1 + 1e-9)
    series = values(name, options, epochs=epochs)
    assert len(series) == epochs
    assert all(type(at) is float for at in series)
    for epoch in {0, epochs // 2, epochs - 1}:
        place = epoch / (epochs - 1) if epochs > 1 else 0.0  # evenly spaced in progress
        assert series[epoch] == SCHEDULES[name](place, **options)


@pytest.mark.parametrize("name", ["step", *SMOOTH])
@given(data=st.data(), first=progress, second=progress)
def test_between_its_ends_a_schedule_goes_one_way(name, data, first, second):
    options = data.draw(OPTIONS[name])
    early, late = (SCHEDULES[name](place, **options) for place in sorted((first, second)))
    up = 1 if options["start"] <= options["end"] else -1
    assert up * early <= up * late + 1e-9 * max(named(options))
    if name in SMOOTH:
        ends = [SCHEDULES[name](place, **options) for place in (0.0, 1.0)]
        assert ends == pytest.approx([options["start"], options["end"]], rel=1e-12)
        assert values(name, options, epochs=1) == pytest.approx([options["start"]], rel=1e-12)


# --- each by hand ----------------------------------------------------------------------------


STEP = {"start": 16, "end": 4}
BY_HAND = [
    ("linear", STEP, [16, 13, 10, 7, 4]),
    ("cosine", STEP, [16, 10 + 6 / math.sqrt(2), 10, 10 - 6 / math.sqrt(2), 4]),
    ("exponential", STEP, [16, 8 * math.sqrt(2), 8, 4 * math.sqrt(2), 4]),
    ("constant", {"value": 16}, [16.0, 16.0, 16.0]),
    ("step", STEP | {"at": 0.7625}, [16.0] * 61 + [4.0] * 19),  # the paper's 80 epochs
    ("step", STEP | {"at": 0}, [4.0, 4.0, 4.0]),
    ("step", STEP | {"at": 1}, [16.0, 16.0, 4.0]),
    ("piecewise", {"points": [(0.2, 16), (0.4, 8), (0.8, 10)]}, [16, 16, 8, 9, 10, 10]),
    ("piecewise", {"points": [(0.25, 16), (0.75, 8)]}, [16, 16, 12, 8, 8]),
]


@pytest.mark.parametrize(("name", "options", "expected"), BY_HAND)
def test_by_hand(name, options, expected):
    assert values(name, options, epochs=len(expected)) == pytest.approx(expected)


@given(data=st.data(), epochs=st.integers(2, 200))
def test_a_step_at_an_epochs_progress_heats_that_epoch_and_all_after(data, epochs):
    first = data.draw(st.integers(0, epochs - 1))
    options = {"start": 16, "end": 4, "at": first / (epochs - 1)}
    assert values("step", options, epochs=epochs) == [16.0] * first + [4.0] * (epochs - first)


@given(options=piecewise_options())
def test_a_piecewise_schedule_has_its_points_values(options):
    for place, expected in options["points"]:
        assert SCHEDULES["piecewise"](place, **options) == pytest.approx(expected, rel=1e-12)


@given(start=value, end=value, at=progress)
def test_two_points_at_the_ends_are_the_linear_schedule(start, end, at):
    line = SCHEDULES["piecewise"](at, points=[(0.0, start), (1.0, end)])
    assert line == pytest.approx(SCHEDULES["linear"](at, start=start, end=end), rel=1e-12)


@given(data=st.data(), at=progress)
def test_equal_ratios_are_equal_steps_of_the_logarithm(data, at):
    options = data.draw(OPTIONS["exponential"])
    logs = {key: math.log(end) for key, end in options.items()}
    expected = SCHEDULES["linear"](at, **logs)
    assert math.log(SCHEDULES["exponential"](at, **options)) == pytest.approx(expected, abs=1e-9)
