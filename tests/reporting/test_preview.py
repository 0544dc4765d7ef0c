import re
from contextlib import chdir
from itertools import product

import pytest
from conftest import ROOT, Project
from matplotlib.text import Text

from heated import config
from heated.common.io import write_json
from heated.config.resolved import resolved_files
from heated.reporting.preview import described, drawn, main, planned, preview, scheduled, shared
from heated.training.recipe import Recipe

pytestmark = pytest.mark.xdist_group("preview")  # one process draws the page
PARAMS = config.load(ROOT)
GRIDS = {name: grid.model_dump() for name, grid in PARAMS.grids().items()}


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory):
    """The resolved settings, in the current folder."""
    folder = tmp_path_factory.mktemp("settings")
    for name, value in resolved_files(PARAMS).items():
        write_json(folder / "data/resolved" / name, value)
    with chdir(folder):
        yield


@pytest.fixture(scope="module")
def html(settings):
    """The page, which takes seconds to draw."""
    return preview(GRIDS)


def test_what_is_shown_is_what_would_be_trained():
    for dataset, method in product(PARAMS.datasets, PARAMS.methods):
        settings = PARAMS.settings(dataset, method)
        expected, found = Recipe.from_settings(settings), scheduled(settings)
        assert found["lr"] == expected.lrs
        if None in expected.alphas:  # no schedule sets it
            assert set(found) == {"lr"}
            continue
        assert found["alpha"] == expected.alphas
        assert [1 / t for t in found["temperature"]] == pytest.approx(expected.alphas)


def test_every_method_and_its_values_are_drawn():
    rows = shared({name: scheduled(PARAMS.settings("sop", name)) for name in ("bn", "ln", "hbn")})
    sheet = drawn(rows)
    shown = [text.get_text().strip() for text in sheet.findobj(Text)]
    for text in ("bn, ln", "hbn", "alpha 16 → 4", "temperature 0.0625 → 0.25", "lr 0.01 → 0.001"):
        assert text in shown
    for axes, quantity in zip(sheet.axes[3:], ("alpha", "temperature", "lr"), strict=True):
        (stairs,) = axes.patches
        assert list(stairs.get_data().values) == rows["hbn"][quantity]
    names = ("hbn", "normface", "triplet")  # of which the last two have no schedule of alpha
    rows = shared({name: scheduled(PARAMS.settings("digits", name)) for name in names})
    assert list(rows) == ["hbn", "normface, triplet"]
    sheet = drawn(rows)
    shown = [text.get_text().strip() for text in sheet.findobj(Text)]
    assert {"alpha: no schedule", "temperature: no schedule", "lr 0.05 → 0.005"} <= {*shown}
    assert "normface, triplet: lr 0.05 → 0.005." in described(rows)


def test_the_page_is_the_same_when_made_twice_and_loads_nothing(html):
    assert preview(GRIDS) == html
    assert not re.search(r'(src|href)="(?!#|data:)', html.replace("xlink:href", "href"))


def test_the_page_has_every_method_of_every_study_once_with_its_values_in_words(html):
    for study, grid in PARAMS.grids().items():
        for dataset in grid.datasets:
            rows = planned(GRIDS)[dataset][study]
            assert sorted(", ".join(rows).split(", ")) == sorted(grid.methods)
            assert f"<h2>{dataset}: {study}</h2>" in html
            assert described(rows) in html


def test_make_preview_needs_no_training_and_prints_where_the_page_is(project: Project, html):
    project.stage("resolve")
    told = project.run("python", "-X", "importtime", "-m", "heated.reporting.preview")
    path = project.folder / "preview.html"
    assert path.resolve().as_uri() in told.splitlines()
    assert path.read_text(encoding="utf-8") == html
    assert "report/" not in project.run("git", "status", "--porcelain")
    assert not re.search(r"\| +torch$", told, re.MULTILINE)


def test_without_the_settings_the_stage_that_writes_them_is_named(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="the stage 'resolve' makes it"):
        main()
