import re
from dataclasses import replace
from math import hypot
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.lines import Line2D
from matplotlib.text import Text
from safetensors.numpy import save_file

from heated import config
from heated.common.history import write_history
from heated.common.io import read_json, write_arrays, write_json
from heated.evaluation.summary import summaries
from heated.reporting import costs
from heated.reporting.figures import FIGURES, figure, figures, gradients, planes
from heated.reporting.figures.base import heating, look, looks, mean, numbers, told
from heated.reporting.figures.final_recall import (
    beside,
    by_dimensions,
    constant_alpha,
    crossed,
    factorial,
    in_words,
    maps,
)
from heated.reporting.figures.training_curves import curves, geometry, shapes
from heated.reporting.results import read_results
from heated.training.recipe import Recipe

pytestmark = pytest.mark.xdist_group("figures")  # one process makes what they share
PARAMS = config.load(ROOT)
ZERO_SHOT = {name: grid.methods for name, grid in PARAMS.grids().items() if name != "planes"}
MAIN = {"run": ZERO_SHOT["run"]}
UPRIGHT = {"planes": PARAMS.studies.planes.methods}
LABELS = np.arange(10).repeat(20)


def recall_at_1(method: str, seed: int) -> float:
    """Some number that is another for each."""
    return 0.5 + (sum(map(ord, method)) % 97) / 250 + 0.01 * seed**2


def history(settings: dict, method: str, seed: int) -> list[dict[str, float]]:
    planned = Recipe.from_settings(settings)
    last = {"recall_at_1": recall_at_1(method, seed), "compactness": 0.125, "spread": 0.375}
    rows = [
        {"epoch": epoch, "alpha": alpha, "lr": lr, "loss": 1 / (1 + epoch), "accuracy": 0.9}
        for epoch, (alpha, lr) in enumerate(zip(planned.alphas, planned.lrs, strict=True))
    ]
    return [*rows[:-1], rows[-1] | last]


def write_run(folder: Path, dataset: str, method: str, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """A run as the stages leave it, with numbers that nobody trained."""
    settings, run = PARAMS.settings(dataset, method), folder / dataset / method
    values = {seed: {"recall_at_1": recall_at_1(method, seed)} for seed in seeds}
    write_json(run / "metrics.json", summaries(values))
    rows = {seed: history(settings, method, seed) for seed in seeds}
    write_history(run / "history.csv", rows)
    record: dict = {"params": settings}
    if method in PARAMS.studies.competitors.methods:
        cost = {"seconds": 10.0 + len(method), "images_seen": 800, "peak_mib": 900}
        record["seeds"] = {str(seed): cost | {"seconds": cost["seconds"] + seed} for seed in seeds}
        write_json(run / "tuned.json", tuned(method))
    write_json(run / "provenance.json", record)


def tuned(method: str) -> dict:
    """What was tried, of which the first came to nothing and the second was the best."""
    points = PARAMS.studies.competitors.points(method)
    tried = [{"point": p, "recall_at_1": 0.9 - i / 10} for i, p in enumerate(points)]
    tried[0]["recall_at_1"] = None
    return {
        "metric": "recall_at_1",
        "tested": "validation classes, fold 0 of 5",
        "tried": tried,
        "chosen": points[1],
        "trainings": len(points),
    }


def write_plane(run: Path, width: float) -> None:
    """Embeddings in two dimensions about the class weights, of any length."""
    random = np.random.default_rng(0)
    directions = np.arange(10) * np.pi / 5
    angles = directions[LABELS] + width * random.standard_normal(len(LABELS))
    lengths = random.uniform(0.1, 9, (len(LABELS), 1))
    points = lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    write_arrays(
        run / "embeddings" / "seed-0.npz", embeddings=points.astype(np.float32), labels=LABELS
    )
    weights = 3 * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    (run / "models").mkdir()
    save_file({"head.weight": weights.astype(np.float32)}, run / "models" / "seed-0.safetensors")


def write_gradients(run: Path) -> None:
    """Curves whose peaks are known: the misclassified's never comes."""
    rising = [1.0, 4.0, 16.0, 60.0]
    medians = {
        "centroid": [1, 2.9, 1, 0],
        "boundary": [1, 2, 4.5, 0],
        "misclassified": [1, 4, 20, 82],
    }
    kinds = {
        kind: {
            "n": 12,
            "quantiles": {
                q: [float(q) * 2 * y for y in ys] for q in ["0.1", "0.25", "0.5", "0.75", "0.9"]
            },
            "peak_alpha": rising[int(np.argmax(ys))],
            "peak_norm": float(max(ys)),
        }
        for kind, ys in medians.items()
    }
    curves = {"alpha": 4.0, "alphas": rising, "kinds": kinds}
    write_json(run / "gradients.json", {"seeds": {"10": {**curves, "alpha": 8.0}, "2": curves}})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in dict.fromkeys(method for methods in ZERO_SHOT.values() for method in methods):
        write_run(folder, "digits", method)
    for index, method in enumerate(UPRIGHT["planes"]):
        write_run(folder, "digits-upright", method)
        write_plane(folder / "digits-upright" / method, 0.05 * (1 + index))
    write_gradients(folder / "digits" / "hbn")
    return folder


def read(runs, dataset, studies):
    methods = dict.fromkeys(method for each in studies.values() for method in each)
    return read_results(runs, dataset, list(methods))


@pytest.fixture(scope="module")
def results(runs):
    return read(runs, "digits", ZERO_SHOT)


@pytest.fixture(scope="module")
def main(results):
    return chosen(results, *MAIN["run"])


@pytest.fixture(scope="module")
def upright(runs):
    return read(runs, "digits-upright", UPRIGHT)


@pytest.fixture(scope="module")
def drawn(results, upright):
    every = [*figures(results, ZERO_SHOT), *figures(upright, UPRIGHT)]
    return {figure.name: figure for figure in every}


def chosen(results, *methods):
    return [result for result in results if result.method in methods]


def texts(sheet):
    return " | ".join(text.get_text() for text in sheet.findobj(Text))


def in_legend(sheet):
    (legend,) = sheet.legends
    return [text.get_text() for text in legend.get_texts() if text.get_text().strip()]


def test_every_figure_is_an_svg_with_its_title_and_a_description_with_numbers(drawn):
    assert drawn.keys() == FIGURES.keys()
    for name, (title, _) in FIGURES.items():
        assert drawn[name].svg.startswith("<?xml"), name
        assert f"<title>{title}</title>" in drawn[name].svg
        assert len(drawn[name].svg) < 2**20
        text = drawn[name].description
        assert re.search(r"\d\.\d", text)
        assert text.endswith(".")
        assert not re.search("None|nan", text)


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(drawn, results, upright):
    for name in FIGURES:
        own, studies = (upright, UPRIGHT) if name == "planes" else (results, ZERO_SHOT)
        assert figure(name, own, studies) == drawn[name]


def test_there_is_no_figure_of_what_was_not_run(results, main):
    assert figures([], ZERO_SHOT) == []
    for studies in ({}, {"run": [], "alphas": []}, {"planes": ["ln", "hln"]}):  # D is not 2
        assert [each.name for each in figures(results, studies)] == ["gradients"]
    found = {name for name in FIGURES if name != "curves" and figure(name, main, MAIN)}
    assert found == {"factorial", "gradients", "geometry"}
    assert figure("gradients", chosen(results, "bn", "ln"), ZERO_SHOT) is None


def test_seeds_may_be_one_which_has_no_interval_or_differ(tmp_path):
    for method in ("ln", "ln-drop", "ln-heat", "hln"):
        write_run(tmp_path, "digits", method, seeds=(0,))
    studies = {"run": ["ln", "ln-drop", "ln-heat", "hln"]}
    found = figures(read(tmp_path, "digits", studies), studies)
    assert [each.name for each in found] == ["curves", "factorial", "geometry"]
    assert "1 seed " in found[1].description
    write_run(tmp_path, "digits", "ln", seeds=(0, 1))
    assert numbers(read(tmp_path, "digits", studies)) == "1 to 2 seeds"


# over the epochs


def test_every_main_method_is_in_the_legend_of_the_curves_and_of_the_geometry(main):
    for draw, shown in ((curves, main), (geometry, main[2:])):
        assert in_legend(draw(shown, MAIN)[1]) == [run.method for run in shown]


def test_a_family_has_a_color_in_the_curves_and_the_heated_one_a_dot(results):
    svg = figure("curves", chosen(results, "hbn", "ln"), MAIN).svg
    none, ln, bn = "#555555", "#d55e00", "#0072b2"
    assert none not in svg
    # a panel a dot; ln, which is not heated, has none
    assert len(re.findall(rf"<use [^>]*fill: {bn}", svg)) == 3
    assert len(re.findall(rf"<use [^>]*fill: {ln}", svg)) == 0
    assert figure("curves", chosen(results, "bn", "ln"), MAIN).svg != svg


def test_no_two_main_methods_look_alike_without_colors_and_each_keeps_its_look(main):
    found = looks(main)
    assert len({(each["linestyle"], each["marker"]) for each in found.values()}) == len(main) == 10
    assert looks(main[2:]).items() <= found.items()
    assert look(7, 4)["marker"] == look(0, 0)["marker"]  # they go round


def test_the_curves_are_described_by_their_ends_and_the_moment_of_heating(drawn):
    end = 100 * np.mean([recall_at_1("hbn", seed) for seed in range(3)])
    assert f"hbn {end:.2f}" in drawn["curves"].description
    assert "hbn from epoch 6" in drawn["curves"].description


def test_the_shapes_stand_beside_the_step_they_differ_from_in_shape_alone(drawn, results):
    text = drawn["shapes"].description
    for shape in ("hbn (step)", "hbn-linear (linear)", "hbn-cosine (cosine)"):
        assert shape in text
    shown = ["hbn", *ZERO_SHOT["shapes"]]
    assert re.findall(r"(\S+) \(", text.partition("(%): ")[2]) == shown
    assert in_legend(shapes(results, ZERO_SHOT)[1]) == shown


# heat by drop


def test_the_factorial_has_both_families_with_the_four_cells_in_order(main):
    families = [[run.method for run in runs] for runs in crossed(main)]
    assert families == [["ln", "ln-drop", "ln-heat", "hln"], ["bn", "bn-drop", "bn-heat", "hbn"]]
    partial = [run for run in main if run.method != "bn-heat"]
    assert [runs[0].method for runs in crossed(partial)] == ["ln"]


def test_the_factorial_shows_and_tells_every_mean_and_each_seed_as_a_line(main):
    description, sheet = factorial(main, MAIN)
    for axes, runs in zip(sheet.axes, crossed(main), strict=True):
        for run in runs:
            assert f"{run.method}\n{mean(run):.2f}" in texts(sheet)
            assert f"{mean(run):.2f} ({run.method})" in description
        for seed in range(3):
            (line,) = axes.findobj(lambda artist, s=seed: artist.get_gid() == f"seed-{s}")
            assert isinstance(line, Line2D)
            expected = [100 * recall_at_1(run.method, seed) for run in runs]
            assert list(line.get_ydata()) == pytest.approx(expected)


def test_no_interval_leaves_the_axis_that_the_families_share(main):
    for order in (main, main[::-1]):
        low, high = factorial(order, MAIN)[1].axes[0].get_ylim()
        for run in (run for family in crossed(order) for run in family):
            interval = run.metrics["recall_at_1"]["interval"]
            assert low <= 100 * interval[0] < 100 * interval[1] <= high


# constant alphas


def test_the_alphas_are_lines_by_dimensions_of_constant_alphas_alone(results):
    lines = by_dimensions(results)
    assert list(lines) == [64, 128, 256]
    assert [run.method for run in lines[64].values()] == ["bn-4", "bn-8", "bn", "bn-32", "bn-64"]
    assert all(list(line) == [4, 8, 16, 32, 64] for line in lines.values())
    assert by_dimensions(chosen(results, "bn", "bn-4", "bn-drop", "ln", "hbn")) == {}  # two
    assert [constant_alpha(run) for run in chosen(results, "bn", "bn-drop")] == [16, None]


def test_beside_the_alphas_stand_softmax_and_the_heated_of_the_same_dimensions(results):
    for dim, end in ((64, ""), (128, "-d128"), (256, "-d256")):
        methods = {name: run.method for name, run in beside(results, dim).items()}
        assert methods == {"softmax": f"sm{end}", "heated": f"hbn{end}"}


def test_the_alphas_description_names_the_best_of_each_line(results, drawn):
    for dim, line in by_dimensions(results).items():
        best = max(line, key=lambda alpha, line=line: mean(line[alpha]))
        text = drawn["alphas"].description.partition(f"D = {dim}: ")[2].partition(".;")[0]
        assert f"the best is alpha {best:g}" in text


# timing


def test_every_heating_is_a_cell_with_its_number_and_the_best_and_worst_are_named(results, drawn):
    runs = chosen(results, *ZERO_SHOT["timing"], "hbn")
    found = {heating(run): run for run in runs}
    assert len(found) == 18
    shown = texts(maps(found))
    for run in runs:
        assert told(run, "\n") in shown
    order = sorted(runs, key=mean)
    for word, run in (("Best", order[-1]), ("worst", order[0])):
        text = f"{word}: from {in_words(heating(run))}, {mean(run):.2f}"
        assert text in drawn["timing"].description


def test_a_heating_is_one_where_the_learning_rate_drops_at_the_same_moment(results):
    found = {run.method: heating(run) for run in chosen(results, "hbn", "bn-heat", "bn", "bn-drop")}
    assert found == {"bn": None, "bn-drop": None, "bn-heat": None, "hbn": (16, 4, 0.7625)}


# planes


@pytest.fixture(scope="module")
def flat(upright):
    return [planes.plane(run) for run in sorted(upright, key=planes.order)]


def test_planes_come_by_rising_alpha_and_the_heated_last(flat):
    assert [plane.result.method for plane in flat] == ["ln-quarter", "ln-4", "ln", "ln-64", "hln"]


def test_every_test_image_and_every_class_is_in_its_place_in_a_color_of_its_own(flat):
    sheet = planes.drawing(flat)[1]
    for axes, plane in zip(sheet.axes, flat, strict=False):
        (points,) = axes.collections
        assert len(points.get_offsets()) == len(LABELS)
        assert np.linalg.norm(points.get_offsets(), axis=1) == pytest.approx(1)
        colors = {tuple(color) for color in points.get_facecolor()}
        assert len(colors) == len(set(LABELS)) == 10
        assert points.get_rasterized()
        assert plane.result.method in axes.get_title()
        diamonds = [line for line in axes.lines if line.get_marker() == "D"]
        assert [hypot(*line.get_xydata()[0]) for line in diamonds] == pytest.approx([0.9] * 10)
        assert [text.get_text() for text in axes.texts] == [str(label) for label in range(10)]


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(-3.14, 3.14)))
def test_labels_do_not_overlap_and_keep_the_order_around_the_circle(angles):
    moved = planes.fanned(angles, planes.GAP)
    order = np.argsort(angles, kind="stable")
    gaps = np.diff(np.append(moved[order], moved[order[0]] + 2 * np.pi))
    assert gaps.min() > 0.95 * planes.GAP


def test_labels_with_room_stay_where_they_are():
    angles = np.array([2.0, -3.0, 0.0])
    assert list(planes.fanned(angles, planes.GAP)) == list(angles)


def test_classes_that_were_not_trained_have_no_diamonds(tmp_path):
    write_run(tmp_path, "digits-upright", "ln")
    (result,) = read(tmp_path, "digits-upright", {"planes": ["ln"]})
    with pytest.raises(FileNotFoundError, match="the stage 'embed' makes it"):
        figures([result], UPRIGHT)
    write_plane(result.folder, 0.1)
    path = result.folder / "embeddings" / "seed-0.npz"
    write_arrays(path, embeddings=np.load(path)["embeddings"], labels=LABELS + 10)
    assert planes.plane(result).weights is None
    (plane,) = figures([result], UPRIGHT)
    assert "diamond" not in plane.description


def test_the_angle_of_a_plane_is_that_of_its_classes(flat):
    # of a normal distribution half lies within 0.6745 deviations
    for plane, width in zip(sorted(flat, key=planes.angle), range(1, 6), strict=True):
        assert planes.angle(plane) == pytest.approx(np.degrees(0.6745 * 0.05 * width), rel=0.2)


def test_looks_while_training_are_pictures_by_epoch(upright, tmp_path):
    result = replace(upright[0], folder=tmp_path)
    assert planes.by_epoch(result, 0) == {}
    epochs, angles = [0, 2], np.linspace(-3, 3, 2 * len(LABELS)).reshape(2, -1)
    write_arrays(tmp_path / "models/seed-0.npz", epochs=epochs, angles=angles, labels=LABELS)
    pictures = planes.by_epoch(result, 0)
    assert [*pictures] == epochs
    alphas = dict(zip(*result.curve("alpha"), strict=True))
    for epoch, picture in pictures.items():
        title = f"{result.method}, seed 0: epoch {epoch}, alpha {alphas[epoch]:g}"
        assert f"<dc:title>{title}</dc:title>" in picture


# gradients


def test_the_gradients_are_described_by_the_peaks_of_the_first_seed(drawn):
    text = drawn["gradients"].description
    assert "near the centroid 2.9 at alpha 4" in text
    assert "near the boundary 4.5 at alpha 16" in text
    assert "misclassified still rising at alpha 60, to 82.0" in text


def test_a_panel_has_two_bands_about_the_median_and_a_kind_without_samples_is_told(runs):
    found = read_json(runs / "digits/hbn/gradients.json")["seeds"]["2"]
    for axes in gradients.drawing({"hbn": found})[1].axes:
        assert len(axes.collections) == 2
        assert list(axes.lines[-1].get_xdata()) == found["alphas"]
        assert set(axes.lines[0].get_xdata()) == {4.0}
    smallest = {"peak_alpha": 1.0, "peak_norm": 0.2}
    lacking = {**found, "kinds": {"centroid": found["kinds"]["centroid"] | smallest}}
    description, sheet = gradients.drawing({"hbn": lacking})
    assert "near the centroid 0.2 at alpha 1 or below" in description
    assert "misclassified no sample" in description
    assert "none" in texts(sheet)


# costs


def test_the_costs_are_those_of_the_records_in_a_row_a_competitor(results):
    found = costs.costs(results, ZERO_SHOT)
    heading, rows = costs.rows(found)
    assert [row[0] for row in rows] == PARAMS.studies.competitors.methods
    (triplet,) = (dict(zip(heading, row, strict=True)) for row in rows if row[0] == "triplet")
    recall = 100 * np.mean([recall_at_1("triplet", seed) for seed in (0, 1, 2)])
    assert triplet.pop("R@1").startswith(f"{recall:.2f} ± ")
    assert triplet == {
        "method": "triplet",
        "n": "3",
        "images seen": "800",
        "seconds": "18",  # the median of three seeds
        "MiB": "900",
        "chosen": "lr 0.01 (smallest tried), loss.margin 0.2",
        "tried": "6",
        "not finite": "1",
        "R@1 of the choice": "80.00",
    }
    chosen = "among 6, each trained once, by Recall@1 on validation classes, fold 0 of 5; the test"
    assert f"{chosen} classes had no part in it" in costs.markdown(found)
    assert costs.markdown([]) == ""


def test_the_costs_figure_has_every_competitor_best_first(results, drawn):
    described = drawn["costs"].description
    ranked = sorted(chosen(results, *PARAMS.studies.competitors.methods), key=lambda r: -mean(r))
    places = [described.index(f" {each.method} {told(each, ' ')} (") for each in ranked]
    assert places == sorted(places)
