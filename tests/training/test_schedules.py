import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.training.schedules import SCHEDULES, schedule_values

values = st.floats(1e-3, 1e3)
progress = st.floats(0, 1)


@st.composite
def piecewise_options(draw):
    """Points with rising progress."""
    places = sorted(draw(st.lists(progress, min_size=1, max_size=5, unique=True)))
    return {"points": [(place, draw(values)) for place in places]}


START_END = {"start": values, "end": values}
OPTIONS = {
    "constant": st.fixed_dictionaries({"value": values}),
    "step": st.fixed_dictionaries(START_END | {"at": progress}),
    "linear": st.fixed_dictionaries(START_END),
    "cosine": st.fixed_dictionaries(START_END),
    "exponential": st.fixed_dictionaries(START_END),
    "periodic_cosine": st.fixed_dictionaries(START_END | {"periods": st.floats(0.1, 10)}),
    "piecewise": piecewise_options(),
}
SMOOTH = ("linear", "cosine", "exponential")


@pytest.mark.parametrize("name", SCHEDULES)
@given(data=st.data(), epochs=st.integers(1, 40))
def test_every_schedule_stays_in_its_range_and_gives_one_float_per_epoch(name, data, epochs):
    assert set(OPTIONS) == set(SCHEDULES)
    options = data.draw(OPTIONS[name])
    ends = [v for _, v in options.get("points", [])]
    ends += [v for key, v in options.items() if key in ("value", "start", "end")]
    at = SCHEDULES[name](data.draw(progress), **options)
    assert min(ends) * (1 - 1e-9) <= at <= max(ends) * (1 + 1e-9)
    series = schedule_values(name, options, epochs=epochs)
    assert len(series) == epochs
    assert all(type(at) is float for at in series)
    for epoch in {0, epochs // 2, epochs - 1}:
        place = epoch / (epochs - 1) if epochs > 1 else 0.0  # evenly spaced in progress
        assert series[epoch] == SCHEDULES[name](place, **options)


@pytest.mark.parametrize("name", ["step", *SMOOTH])
@given(data=st.data(), first=progress, second=progress)
def test_a_schedule_from_start_to_end_is_monotonic(name, data, first, second):
    options = data.draw(OPTIONS[name])
    start, end = options["start"], options["end"]
    early, late = (SCHEDULES[name](place, **options) for place in sorted((first, second)))
    sign = 1 if start <= end else -1
    assert sign * early <= sign * late + 1e-9 * max(start, end)
    if name in SMOOTH:
        ends = [SCHEDULES[name](place, **options) for place in (0.0, 1.0)]
        assert ends == pytest.approx([start, end], rel=1e-12)
        assert schedule_values(name, options, epochs=1) == pytest.approx([start], rel=1e-12)


def test_schedules_equal_values_computed_by_hand():
    options = {"start": 16, "end": 4}
    cases = [
        ("linear", options, [16, 13, 10, 7, 4]),
        ("cosine", options, [16, 10 + 6 / math.sqrt(2), 10, 10 - 6 / math.sqrt(2), 4]),
        ("exponential", options, [16, 8 * math.sqrt(2), 8, 4 * math.sqrt(2), 4]),
        ("constant", {"value": 16}, [16.0, 16.0, 16.0]),
        ("step", options | {"at": 0.7625}, [16.0] * 61 + [4.0] * 19),  # the paper's 80 epochs
        ("step", options | {"at": 0}, [4.0, 4.0, 4.0]),
        ("step", options | {"at": 1}, [16.0, 16.0, 4.0]),
        ("periodic_cosine", {"start": 1, "end": 10, "periods": 1}, [1, 1 / 0.55, 10, 1 / 0.55, 1]),
        ("piecewise", {"points": [(0.2, 16), (0.4, 8), (0.8, 10)]}, [16, 16, 8, 9, 10, 10]),
        ("piecewise", {"points": [(0.25, 16), (0.75, 8)]}, [16, 16, 12, 8, 8]),
    ]
    for name, options, expected in cases:
        found = schedule_values(name, options, epochs=len(expected))
        assert found == pytest.approx(expected), name


@given(options=piecewise_options(), start=values, end=values, at=progress)
def test_a_piecewise_schedule_has_its_points_values_and_is_linear_between(options, start, end, at):
    for place, expected in options["points"]:
        assert SCHEDULES["piecewise"](place, **options) == pytest.approx(expected, rel=1e-12)
    found = SCHEDULES["piecewise"](at, points=[(0.0, start), (1.0, end)])
    assert found == pytest.approx(SCHEDULES["linear"](at, start=start, end=end), rel=1e-12)
