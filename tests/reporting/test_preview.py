import re

import matplotlib as mpl
import pytest
from conftest import ROOT, Project
from matplotlib.text import Text

from heated import config
from heated.reporting.figures.figure import STYLE
from heated.reporting.preview import described, drawn, planned, preview, scheduled, shared
from heated.training.recipe import recipe

pytestmark = pytest.mark.xdist_group("preview")  # one process draws the page
PARAMS = config.load(ROOT / "params.yaml")


def test_what_is_shown_is_what_would_be_trained(subtests):
    for dataset in PARAMS.datasets:
        with subtests.test(dataset=dataset):
            for method in PARAMS.methods:
                settings = PARAMS.settings(dataset, method)
                expected, found = recipe(settings), scheduled(settings)
                assert found["lr"] == expected["lrs"]
                if None in expected["alphas"]:  # no schedule sets it
                    assert set(found) == {"lr"}
                    continue
                assert found["alpha"] == expected["alphas"]
                assert [1 / t for t in found["temperature"]] == pytest.approx(expected["alphas"])


def test_every_method_of_every_grid_is_planned_once():
    found = planned(PARAMS)
    for name, grid in PARAMS.grids().items():
        for dataset in grid.datasets:
            rows = found[dataset][name]
            assert sorted(", ".join(rows).split(", ")) == sorted(grid.methods)


def test_every_method_and_its_values_are_drawn():
    rows = shared({name: scheduled(PARAMS.settings("sop", name)) for name in ("bn", "ln", "hbn")})
    with mpl.rc_context(STYLE):
        sheet = drawn(rows)
    shown = [text.get_text().strip() for text in sheet.findobj(Text)]
    for text in ("bn, ln", "hbn", "alpha 16 → 4", "temperature 0.0625 → 0.25", "lr 0.01 → 0.001"):
        assert text in shown
    for axes, quantity in zip(sheet.axes[3:], ("alpha", "temperature", "lr"), strict=True):
        (stairs,) = axes.patches
        assert list(stairs.get_data().values) == rows["hbn"][quantity]


def test_a_method_without_a_schedule_of_alpha_is_drawn_with_its_learning_rate():
    names = ("hbn", "normface", "triplet")
    rows = shared({name: scheduled(PARAMS.settings("digits", name)) for name in names})
    assert list(rows) == ["hbn", "normface, triplet"]
    with mpl.rc_context(STYLE):
        sheet = drawn(rows)
    shown = [text.get_text().strip() for text in sheet.findobj(Text)]
    assert {"alpha: no schedule", "temperature: no schedule", "lr 0.05 → 0.005"} <= {*shown}
    assert "normface, triplet: lr 0.05 → 0.005." in described(rows)


@pytest.fixture(scope="module")
def html():
    """The page, which takes seconds to draw."""
    return preview(PARAMS)


def test_the_page_is_the_same_when_made_twice_and_loads_nothing(html):
    assert preview(PARAMS) == html
    assert not re.search(r'(src|href)="(?!#|data:)', html.replace("xlink:href", "href"))


def test_the_page_has_a_section_a_data_set_and_study_with_its_values_in_words(html):
    for dataset, studies in planned(PARAMS).items():
        for study, rows in studies.items():
            assert f"<h2>{dataset}: {study}</h2>" in html
            assert described(rows) in html


def test_make_preview_needs_no_training_and_tells_where_the_page_is(project: Project, html):
    told = project.run("python", "-m", "heated.reporting.preview")
    path = project.folder / "preview.html"
    assert told.strip() == path.resolve().as_uri()
    assert path.read_text(encoding="utf-8") == html
    assert "report/" not in project.run("git", "status", "--porcelain")


def test_a_mistake_in_params_is_told_without_a_traceback(project: Project):
    project.edit(("normalise: {name: none}", "normalise: {name: nine}"))
    told = project.run("python", "-m", "heated.reporting.preview", status=1)
    assert "came 'nine'" in told
    assert "Traceback" not in told


def test_the_preview_does_not_wait_for_torch(project: Project):
    told = project.run("python", "-X", "importtime", "-m", "heated.reporting.preview")
    assert not re.search(r"\| +torch$", told, re.MULTILINE)
