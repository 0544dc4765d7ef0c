import re
from contextlib import chdir
from itertools import product

import pytest
from conftest import ROOT
from matplotlib.text import Text

from heated import config
from heated.common.io import write_record
from heated.config.resolved import resolved_files
from heated.reporting import preview
from heated.reporting.preview import evaluate_schedules
from heated.training.recipe import Recipe

pytestmark = pytest.mark.xdist_group("preview")  # one process draws the page
PARAMS = config.load_params(ROOT)
GRIDS = {name: grid.model_dump() for name, grid in PARAMS.grids().items()}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page, made from the resolved settings in the current folder."""
    folder = tmp_path_factory.mktemp("settings")
    for name, value in resolved_files(PARAMS).items():
        write_record(folder / "data/resolved" / name, value)
    with chdir(folder):
        yield preview.render_preview(GRIDS)


def rows_of(dataset, methods):
    schedules = {method: evaluate_schedules(PARAMS.settings(dataset, method)) for method in methods}
    return preview.merge_equal(schedules)


def texts(figure):
    return {text.get_text().strip() for text in figure.findobj(Text)}


def test_the_schedules_are_those_of_the_training():
    for dataset, method in product(PARAMS.datasets, PARAMS.methods):
        settings = PARAMS.settings(dataset, method)
        recipe, schedules = Recipe.from_settings(settings), evaluate_schedules(settings)
        assert schedules["lr"] == recipe.lrs
        if None in recipe.alphas:  # no schedule sets it
            assert set(schedules) == {"lr"}
            continue
        assert schedules["alpha"] == recipe.alphas
        assert [1 / t for t in schedules["temperature"]] == pytest.approx(recipe.alphas)


def test_every_method_is_drawn_with_its_values():
    rows = rows_of("sop", ("bn", "ln", "hbn"))
    _, figure = preview.draw_schedules(rows)
    expected = {"bn, ln", "hbn", "alpha 16 → 4", "temperature 0.0625 → 0.25", "lr 0.01 → 0.001"}
    assert expected <= texts(figure)
    for axes, quantity in zip(figure.axes[3:], ("alpha", "temperature", "lr"), strict=True):
        (stairs,) = axes.patches
        assert list(stairs.get_data().values) == rows["hbn"][quantity]
    # Of these, only hbn has a schedule of alpha.
    rows = rows_of("digits", ("hbn", "normface", "triplet"))
    assert list(rows) == ["hbn", "normface, triplet"]
    description, figure = preview.draw_schedules(rows)
    expected = {"alpha: no schedule", "temperature: no schedule", "lr 0.05 → 0.005"}
    assert expected <= texts(figure)
    assert "normface, triplet: lr 0.05 → 0.005." in description


def test_the_page_is_reproducible_loads_nothing_and_has_every_method_of_every_study(html):
    assert preview.render_preview(GRIDS) == html
    assert not re.search(r'(src|href)="(?!#|data:)', html.replace("xlink:href", "href"))
    for study, grid in PARAMS.grids().items():
        for dataset in grid.datasets:
            rows = rows_of(dataset, grid.methods)
            assert sorted(", ".join(rows).split(", ")) == sorted(grid.methods)
            assert f"<h2>{dataset}: {study}</h2>" in html
            for names, schedules in rows.items():
                assert f"{names}: " in html
                assert preview.describe_schedule(schedules, "lr") in html


def test_the_preview_needs_no_training_and_prints_the_address_of_the_page(project, html):
    project.stage("resolve")
    output = project.run("python", "-X", "importtime", "-m", "heated.reporting.preview")
    path = project.folder / "preview.html"
    assert path.resolve().as_uri() in output.splitlines()
    assert path.read_text(encoding="utf-8") == html
    assert "report/" not in project.run("git", "status", "--porcelain")
    assert not re.search(r"\| +torch$", output, re.MULTILINE)


def test_an_error_names_the_stage_that_writes_the_settings(tmp_path):
    with chdir(tmp_path), pytest.raises(FileNotFoundError, match="'resolve'"):
        preview.main()
