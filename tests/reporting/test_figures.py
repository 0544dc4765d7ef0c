import re
from math import hypot
from pathlib import Path

import matplotlib as mpl
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
from heated.common.io import write_arrays, write_json
from heated.evaluation.summary import summaries
from heated.reporting import costs
from heated.reporting.figures import (
    FIGURES,
    alphas,
    curves,
    epochs,
    factorial,
    figures,
    geometry,
    gradients,
    planes,
    shapes,
    timing,
)
from heated.reporting.figures.figure import STYLE
from heated.reporting.figures.looks import COLOURS, look, looks
from heated.reporting.figures.recall import half, mean, numbers
from heated.reporting.figures.selecting import constant_alpha, heating
from heated.reporting.results import read_results
from heated.training.recipe import Recipe

pytestmark = pytest.mark.xdist_group("figures")  # one process makes what they share
PARAMS = config.load(ROOT)
ZERO_SHOT = {name: grid.methods for name, grid in PARAMS.grids().items() if name != "planes"}
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
    shapes = {
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
            "final_slope": 1.0,
        }
        for kind, ys in shapes.items()
    }
    curves = {"alpha": 4.0, "alphas": rising, "images": 99, "counts": {}, "kinds": kinds}
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


def test_every_figure_is_drawn_under_its_own_name(drawn):
    assert drawn.keys() == FIGURES.keys()


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(drawn, results, upright, subtests):
    for name in FIGURES:
        with subtests.test(name=name):
            own, studies = (upright, UPRIGHT) if name == "planes" else (results, ZERO_SHOT)
            with mpl.rc_context(STYLE):
                assert FIGURES[name](own, studies) == drawn[name]


def test_a_figure_is_an_svg_with_its_title_and_less_than_a_mebibyte(drawn, subtests):
    for name in FIGURES:
        with subtests.test(name=name):
            figure = drawn[name]
            assert figure.svg.startswith("<?xml")
            assert f"<title>{figure.title}</title>" in figure.svg
            assert len(figure.svg) < 2**20


def test_a_description_is_of_a_few_sentences_with_numbers(drawn, subtests):
    for name in FIGURES:
        with subtests.test(name=name):
            text = drawn[name].description
            assert re.search(r"\d\.\d", text)
            assert text.endswith(".")
            assert "None" not in text
            assert "nan" not in text


@pytest.mark.parametrize("studies", [{}, {"run": [], "alphas": []}])
def test_without_studies_there_is_only_what_asks_for_none(results, studies):
    assert [figure.name for figure in figures(results, studies)] == ["gradients"]


def test_without_runs_there_is_nothing():
    assert figures([], ZERO_SHOT) == []


def test_a_study_that_was_not_run_has_no_figure(results):
    methods = {name: each for name, each in ZERO_SHOT.items() if name == "run"}
    found = {figure.name for figure in figures(read_main(results), methods)}
    assert not {"timing", "shapes", "alphas"} & found
    assert "factorial" in found


def read_main(results):
    return chosen(results, *ZERO_SHOT["run"])


def test_one_seed_is_drawn_without_intervals(tmp_path):
    for method in ZERO_SHOT["run"]:
        write_run(tmp_path, "digits", method, seeds=(0,))
    studies = {"run": ZERO_SHOT["run"]}
    found = figures(read(tmp_path, "digits", studies), studies)
    assert [figure.name for figure in found] == ["curves", "factorial", "geometry"]
    assert "1 seed " in found[1].description


# curves


def test_other_numbers_give_other_curves(results):
    assert curves(chosen(results, "bn", "hbn")) != curves(chosen(results, "bn", "hln"))


def test_every_main_method_is_in_the_legend_of_the_curves_and_of_the_geometry(results):
    main = read_main(results)
    for sheet, shown in ((epochs.drawn(main), main), (geometry.drawn(main[2:]), main[2:])):
        (legend,) = sheet.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert [label for label in labels if label.strip()] == [run.method for run in shown]


def test_a_family_has_a_colour_in_the_curves_and_the_heated_one_a_dot(results):
    svg = curves(chosen(results, "hbn", "ln")).lower()
    ln, bn = COLOURS[1].lower(), COLOURS[2].lower()
    assert COLOURS[0].lower() not in svg
    # a panel a dot; ln, which is not heated, has none
    assert len(re.findall(rf"<use [^>]*fill: {bn}", svg)) == 3
    assert len(re.findall(rf"<use [^>]*fill: {ln}", svg)) == 0


def test_no_two_main_methods_look_alike_and_none_does_without_colours(results):
    found = looks(read_main(results)).values()
    assert len({(each.dashes, each.marker) for each in found}) == len(found) == 10


def test_a_method_keeps_its_look_when_others_are_left_out(results):
    main = read_main(results)
    assert looks(main[2:]).items() <= looks(main).items()


def test_the_curves_are_described_by_their_ends_and_the_moment_of_heating(drawn):
    assert f"hbn {100 * np.mean([recall_at_1('hbn', s) for s in range(3)]):.2f}" in (
        drawn["curves"].description
    )
    assert "hbn from epoch 6" in drawn["curves"].description


# heat by drop


def test_the_factorial_has_both_families_with_the_four_cells_in_order(results):
    crossings = factorial.crossed(read_main(results))
    assert [[run.method for run in runs] for runs in crossings] == [
        ["ln", "ln-drop", "ln-heat", "hln"],
        ["bn", "bn-drop", "bn-heat", "hbn"],
    ]


def test_a_family_that_lacks_a_cell_is_left_out(results):
    partial = [run for run in read_main(results) if run.method != "bn-heat"]
    assert [runs[0].method for runs in factorial.crossed(partial)] == ["ln"]


def test_each_seed_is_a_line_through_its_four_runs(results):
    (runs, _) = factorial.crossed(read_main(results))
    sheet = factorial.drawn([runs])
    for seed in range(3):
        (line,) = sheet.findobj(lambda artist, s=seed: artist.get_gid() == f"seed-{s}")
        assert isinstance(line, Line2D)
        assert list(line.get_ydata()) == pytest.approx(
            [100 * recall_at_1(run.method, seed) for run in runs]
        )


def test_the_factorial_shows_and_tells_every_mean(results, drawn):
    shown = texts(factorial.drawn(factorial.crossed(read_main(results))))
    for run in chosen(results, "ln", "ln-drop", "ln-heat", "hln", "bn", "hbn"):
        assert f"{run.method}\n{mean(run):.2f}" in shown
        assert f"{mean(run):.2f} ({run.method})" in drawn["factorial"].description


def test_no_interval_leaves_the_axis_that_the_families_share(results):
    families = factorial.crossed(read_main(results))
    for order in (families, families[::-1]):
        low, high = factorial.drawn(order).axes[0].get_ylim()
        for run in (run for family in order for run in family):
            assert low <= mean(run) - half(run)
            assert mean(run) + half(run) <= high


# constant alphas


def test_the_alphas_are_lines_by_dimensions_of_constant_alphas_alone(results):
    lines = alphas.by_dimensions(results)
    assert list(lines) == [64, 128, 256]
    assert [run.method for run in lines[64].values()] == ["bn-4", "bn-8", "bn", "bn-32", "bn-64"]
    assert all(list(line) == [4, 8, 16, 32, 64] for line in lines.values())


def test_beside_the_alphas_stand_softmax_and_the_heated_of_the_same_dimensions(results):
    for dim, end in ((64, ""), (128, "-d128"), (256, "-d256")):
        found = alphas.beside(results, dim)
        assert {name: run.method for name, run in found.items()} == {
            "softmax": f"sm{end}",
            "heated": f"hbn{end}",
        }


def test_two_constant_alphas_are_no_line(results):
    assert alphas.by_dimensions(chosen(results, "bn", "bn-4", "bn-drop", "ln", "hbn")) == {}


def test_the_alphas_description_names_the_best_of_each_line(results, drawn):
    for dim, line in alphas.by_dimensions(results).items():
        best = max(line, key=lambda alpha, line=line: mean(line[alpha]))
        told = drawn["alphas"].description.partition(f"D = {dim}: ")[2].partition(".;")[0]
        assert f"the best is alpha {best:g}" in told


# timing


def test_every_heating_is_a_cell_with_its_number(results):
    found = {heating(run): run for run in results if run.method in ZERO_SHOT["timing"]}
    found[16.0, 4.0, 0.7625] = chosen(results, "hbn")[0]
    assert len(found) == 18
    shown = texts(timing.drawn(found))
    for run in found.values():
        assert f"{mean(run):.2f}\n± {half(run):.2f}" in shown


def test_the_timing_names_its_best_and_its_worst(results, drawn):
    study = [*ZERO_SHOT["timing"], "hbn"]
    order = sorted(chosen(results, *study), key=mean)
    text = drawn["timing"].description
    assert f"Best: from {timing.described(heating(order[-1]))}, {mean(order[-1]):.2f}" in text
    assert f"worst: from {timing.described(heating(order[0]))}, {mean(order[0]):.2f}" in text


def test_a_heating_is_one_where_the_learning_rate_drops_at_the_same_moment(results):
    found = {run.method: heating(run) for run in chosen(results, "hbn", "bn-heat", "bn", "bn-drop")}
    assert found == {"bn": None, "bn-drop": None, "bn-heat": None, "hbn": (16, 4, 0.7625)}
    assert [constant_alpha(run) for run in chosen(results, "bn", "bn-drop")] == [16, None]


# shapes


def test_the_shapes_stand_beside_the_step_they_differ_from_in_shape_alone(drawn):
    text = drawn["shapes"].description
    for shape in ("hbn (step)", "hbn-linear (linear)", "hbn-cosine (cosine)"):
        assert shape in text
    assert re.findall(r"(\S+) \(", text.partition("(%): ")[2]) == ["hbn", *ZERO_SHOT["shapes"]]


def test_every_shape_is_in_the_legend(results):
    (legend,) = shapes.drawn(chosen(results, "hbn", "hbn-linear", "hbn-cosine")).legends
    assert {text.get_text() for text in legend.get_texts()} == {"hbn", "hbn-linear", "hbn-cosine"}


# planes


@pytest.fixture(scope="module")
def flat(upright):
    return [planes.plane(run) for run in sorted(upright, key=planes.order)]


def test_planes_come_by_rising_alpha_and_the_heated_last(flat):
    assert [plane.result.method for plane in flat] == ["ln-quarter", "ln-4", "ln", "ln-64", "hln"]


def test_every_test_image_is_on_the_circle_in_the_colour_of_its_class(flat):
    sheet = planes.drawn(flat)
    for axes, plane in zip(sheet.axes, flat, strict=False):
        (points,) = axes.collections
        assert len(points.get_offsets()) == len(LABELS)
        assert np.linalg.norm(points.get_offsets(), axis=1) == pytest.approx(1)
        colours = {tuple(colour) for colour in points.get_facecolor()}
        assert len(colours) == len(set(LABELS)) == 10
        assert points.get_rasterized()
        assert plane.result.method in axes.get_title()


def test_every_class_has_a_diamond_and_a_label_that_touches_no_other(flat):
    for axes in planes.drawn(flat).axes[: len(flat)]:
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


def test_classes_that_were_not_trained_have_no_diamonds(runs, tmp_path):
    write_run(tmp_path, "digits-upright", "ln")
    write_plane(tmp_path / "digits-upright" / "ln", 0.1)
    path = tmp_path / "digits-upright" / "ln" / "embeddings" / "seed-0.npz"
    embeddings = np.load(path)["embeddings"]
    write_arrays(path, embeddings=embeddings, labels=LABELS + 10)
    (result,) = read(tmp_path, "digits-upright", {"planes": ["ln"]})
    assert planes.plane(result).weights is None
    (figure,) = figures([result], UPRIGHT)
    assert "diamond" not in figure.description


def test_the_angle_of_a_plane_is_that_of_its_classes(flat):
    # of a normal distribution half lies within 0.6745 deviations
    for plane, width in zip(sorted(flat, key=planes.angle), range(1, 6), strict=True):
        assert planes.angle(plane) == pytest.approx(np.degrees(0.6745 * 0.05 * width), rel=0.2)


def test_a_missing_embedding_names_the_stage_that_makes_it(tmp_path):
    write_run(tmp_path, "digits-upright", "ln")
    results = read(tmp_path, "digits-upright", {"planes": ["ln"]})
    with pytest.raises(FileNotFoundError, match="the stage 'embed' makes it"):
        figures(results, UPRIGHT)


def test_more_than_two_dimensions_are_no_plane(results):
    assert "planes" not in [figure.name for figure in figures(results, {"planes": ["ln", "hln"]})]


# gradients


def test_the_gradients_are_those_of_the_first_seed(results):
    (hbn,) = chosen(results, "hbn")
    assert gradients.first_seed(hbn)["alpha"] == 4.0


def test_the_gradients_are_described_by_their_peaks(drawn):
    text = drawn["gradients"].description
    assert "near the centroid 2.9 at alpha 4" in text
    assert "near the boundary 4.5 at alpha 16" in text
    assert "misclassified still rising at alpha 60, to 82.0" in text


def test_a_peak_at_the_smallest_alpha_may_lie_below_it():
    kind = {"peak_alpha": 0.25, "peak_norm": 0.2, "quantiles": {"0.5": [0.2, 0.0]}}
    assert gradients.peak(kind, [0.25, 60.0]) == "0.2 at alpha 0.25 or below"


def test_a_kind_without_samples_is_told(results):
    (hbn,) = chosen(results, "hbn")
    found = gradients.first_seed(hbn)
    lacking = {**found, "kinds": {"centroid": found["kinds"]["centroid"]}}
    assert "misclassified no sample" in gradients.description({"hbn": lacking})
    assert "none" in texts(gradients.drawn({"hbn": lacking}))


def test_a_panel_has_two_bands_about_the_median(results):
    (hbn,) = chosen(results, "hbn")
    found = gradients.first_seed(hbn)
    for axes in gradients.drawn({"hbn": found}).axes:
        assert len(axes.collections) == 2
        median = axes.lines[-1]
        assert list(median.get_xdata()) == found["alphas"]


def test_runs_without_gradients_have_no_figure(results):
    assert gradients.figure(chosen(results, "bn", "ln"), ZERO_SHOT) is None


# what they share


def test_looks_go_round():
    assert look(len(COLOURS), 0) == look(0, 0)


def test_numbers_of_seeds_that_differ_are_told(tmp_path):
    write_run(tmp_path, "digits", "bn", seeds=(0,))
    write_run(tmp_path, "digits", "ln", seeds=(0, 1))
    assert numbers(read(tmp_path, "digits", {"run": ["bn", "ln"]})) == "1 to 2 seeds"


def test_costs_are_those_of_the_records(results):
    found = {each.method: each for each in costs.costs(results, ZERO_SHOT)}
    assert list(found) == PARAMS.studies.competitors.methods
    triplet = found["triplet"]
    assert (triplet.n, triplet.images, triplet.memory) == (3, 800, 900)
    assert triplet.seconds == 10 + len("triplet") + 1  # the median of three seeds
    assert (triplet.trainings, triplet.failed, triplet.best) == (6, 1, 0.8)
    assert triplet.chosen == "lr 0.01 (smallest tried), loss.margin 0.2"
    assert triplet.recall.mean == pytest.approx(
        np.mean([recall_at_1("triplet", s) for s in (0, 1, 2)])
    )


def test_the_costs_table_has_a_row_a_competitor_and_says_where_was_chosen(results):
    found = costs.costs(results, ZERO_SHOT)
    heading, rows = costs.rows(found)
    assert all(len(row) == len(heading) for row in rows)
    assert [row[0] for row in rows] == PARAMS.studies.competitors.methods
    text = costs.markdown(found)
    assert (
        "among 6, each trained once, by Recall@1 on validation classes, fold 0 of 5; the test "
        "classes had no part in it" in text
    )
    assert costs.markdown([]) == ""


def test_the_costs_figure_has_every_competitor_best_first(results, drawn):
    described = drawn["costs"].description
    ranked = sorted(costs.costs(results, ZERO_SHOT), key=lambda each: -each.recall.mean)
    places = [described.index(f" {each.method} {each.recall} (") for each in ranked]
    assert places == sorted(places)


def test_looks_while_training_are_pictures_by_epoch(upright):
    result = upright[0]
    assert planes.by_epoch(result, 0) == {}
    epochs, angles = [0, 2], np.linspace(-3, 3, 2 * len(LABELS)).reshape(2, -1)
    path = result.folder / "models" / "seed-0.npz"
    write_arrays(path, epochs=epochs, angles=angles, labels=LABELS)
    try:
        pictures = planes.by_epoch(result, 0)
    finally:
        path.unlink()
    assert [*pictures] == epochs
    alphas = dict(zip(*result.curve("alpha"), strict=True))
    for epoch, picture in pictures.items():
        title = f"{result.method}, seed 0: epoch {epoch}, alpha {alphas[epoch]:g}"
        assert f"<dc:title>{title}</dc:title>" in picture
