import re

import pytest
from reported import METHODS, history

from heated.history import write_history
from heated.reporting.figures import COLOURS, curves
from heated.reporting.results import read_results


@pytest.fixture(scope="module")
def svg(results):
    return curves(results)


def test_the_curves_have_the_same_bytes_when_drawn_twice(results, svg):
    assert curves(results) == svg
    assert svg.startswith("<?xml")


def test_other_numbers_give_other_curves(runs, svg):
    changed = history("bn", 0)
    changed[1]["loss"] = 1.9
    write_history(runs / "digits" / "bn" / "history.csv", {0: changed, 1: history("bn", 1)})
    assert curves(read_results(runs, "digits", METHODS)) != svg


def test_every_method_has_a_colour_in_the_curves_and_the_heated_one_a_dot(svg):
    svg = svg.lower()
    for colour in COLOURS[:2]:
        assert colour.lower() in svg
    assert COLOURS[2].lower() not in svg
    # a panel a dot; bn, which is not heated, has none
    assert len(re.findall(rf"<use [^>]*fill: {COLOURS[0].lower()}", svg)) == 3
    assert len(re.findall(rf"<use [^>]*fill: {COLOURS[1].lower()}", svg)) == 0
