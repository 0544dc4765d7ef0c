import os
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from math import hypot
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from safetensors.numpy import save_file
from scipy import stats

from heated import config
from heated.common.history import write_history
from heated.common.io import read_json, write_arrays, write_json, write_record
from heated.evaluation.metrics import summarize_seeds
from heated.reporting.figures import (
    FIGURES,
    base,
    draw_figure,
    draw_figures,
    embeddings_2d,
    final_recall,
    line_plots,
)
from heated.reporting.figures.base import format_recall, heating_step, mean_recall
from heated.reporting.run_results import read_results
from heated.reporting.tables import cost_table
from heated.training.recipe import Recipe

pytestmark = pytest.mark.xdist_group("figures")  # one process draws the shared ones
PARAMS = config.load_params(ROOT)
ZERO_SHOT = {name: grid.methods for name, grid in PARAMS.grids().items() if name != "embeddings_2d"}
METHODS = list(dict.fromkeys(sum(ZERO_SHOT.values(), [])))
MAIN = {"run": ZERO_SHOT["run"]}
UPRIGHT = {"embeddings_2d": PARAMS.studies.embeddings_2d.methods}
LABELS = np.arange(10).repeat(20)


def recall_at_1(method: str, seed: int) -> float:
    """Return a value that differs between methods and seeds."""
    return 0.5 + (sum(map(ord, method)) % 97) / 250 + 0.01 * seed**2


def write_run(folder: Path, dataset: str, method: str, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Write a run as the stages do, with made-up numbers."""
    settings, run = PARAMS.settings(dataset, method), folder / dataset / method
    recipe = Recipe.from_settings(settings)
    scores = {seed: {"recall_at_1": recall_at_1(method, seed)} for seed in seeds}
    write_json(run / "metrics.json", summarize_seeds(scores))
    rows = [
        {"epoch": epoch, "lr": lr, "loss": 1 / (1 + epoch), "accuracy": 0.9}
        | ({} if alpha is None else {"alpha": alpha})
        | ({"recall_at_1": 0.4} if is_evaluated else {})
        for epoch, (alpha, lr, is_evaluated) in enumerate(recipe.per_epoch_values())
    ]
    last = rows[-1] | {"intra_class_variance": 0.125, "inter_class_distance": 0.375}
    write_history(run / "history.csv", {s: [*rows[:-1], last | scores[s]] for s in seeds})
    record: dict = {"params": settings, "method": method, "data_sha256": "", "environment": {}}
    record |= {"source": {}, "split": {}, "seeds": {str(seed): {} for seed in seeds}}
    if method in PARAMS.studies.competitors.methods:
        cost = {"images_seen": 800, "peak_mib": 900}
        record["seeds"] = {str(s): cost | {"seconds": 10.0 + len(method) + s} for s in seeds}
        points = PARAMS.studies.competitors.points(method)
        recalls = [None, *(0.9 - i / 10 for i in range(1, len(points)))]  # the first: not finite
        tried = [{"point": p, "recall_at_1": r} for p, r in zip(points, recalls, strict=True)]
        tuned = {"metric": "recall_at_1", "tested": "validation classes, fold 0 of 5"}
        tuned |= {"tried": tried, "chosen": points[1], "trainings": len(points)}
        write_record(run / "tuned.json", tuned)
    write_record(run / "provenance.json", record)


def write_embeddings(run: Path, width: float) -> None:
    """Write two-dimensional embeddings around the class weights, with random lengths."""
    random, directions = np.random.default_rng(0), np.arange(10) * np.pi / 5
    angles = directions[LABELS] + width * random.standard_normal(len(LABELS))
    lengths = random.uniform(0.1, 9, (len(LABELS), 1))
    points = (lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
    every = np.ones(len(LABELS), dtype=bool)
    arrays = {"embeddings": points, "labels": LABELS, "query": every, "gallery": every}
    write_arrays(run / "embeddings/seed-0.npz", **arrays)
    weights = 3 * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    (run / "models").mkdir()
    save_file({"head.weight": weights.astype(np.float32)}, run / "models/seed-0.safetensors")


def write_gradients(run: Path) -> None:
    """Write curves with known peaks; that of the misclassified is beyond the last alpha."""
    alphas, kinds = [1.0, 4.0, 16.0, 60.0], {}
    medians = {"centroid": [1, 2.9, 1, 0], "boundary": [1, 2, 4.5, 0]}
    for kind, ys in (medians | {"misclassified": [1, 4, 20, 82]}).items():
        levels = ("0.1", "0.25", "0.5", "0.75", "0.9")
        quantiles = {level: [float(level) * 2 * y for y in ys] for level in levels}
        peak = {"peak_alpha": alphas[int(np.argmax(ys))], "peak_norm": float(max(ys))}
        kinds[kind] = {"n": 12, "quantiles": quantiles, **peak}
    curves = {"alpha": 4.0, "alphas": alphas, "kinds": kinds}
    others = dict.fromkeys(("2", "1"), {**curves, "alpha": 8.0})
    write_json(run / "gradients.json", {"seeds": {**others, "0": curves}})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in METHODS:
        write_run(folder, "digits", method)
    write_gradients(folder / "digits" / "hbn")
    for method in ("bn", "hbn"):
        write_embeddings(folder / "digits" / method, 0.1)
    return read_results(folder, "digits", METHODS)


@pytest.fixture(scope="module")
def main(results):
    return select(results, *MAIN["run"])


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    folder, methods = tmp_path_factory.mktemp("upright"), UPRIGHT["embeddings_2d"]
    for width, method in enumerate(methods, 1):
        write_run(folder, "digits-upright", method)
        write_embeddings(folder / "digits-upright" / method, 0.05 * width)
    return read_results(folder, "digits-upright", methods)


@pytest.fixture(scope="module")
def drawn(results, upright):
    every = [*draw_figures(results, ZERO_SHOT), *draw_figures(upright, UPRIGHT)]
    return {figure.name: figure for figure in every}


def select(results, *methods):
    return [result for result in results if result.method in methods]


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(Text))


def legend_labels(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts() if text.get_text().strip()]


def test_every_figure_is_an_svg_with_its_title_and_a_description_with_numbers(drawn):
    assert drawn.keys() == FIGURES.keys()
    for name, (title, _) in FIGURES.items():
        svg, text = drawn[name].svg, drawn[name].description
        assert svg.startswith("<?xml"), name
        assert f"<title>{title}</title>" in svg
        assert len(svg) < 2**20
        assert re.search(r"\d\.\d", text)
        assert text.endswith(".")
        assert not re.search("None|nan", text)


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(drawn, results, upright):
    for name in FIGURES:
        runs, studies = (upright, UPRIGHT) if name == "embeddings_2d" else (results, ZERO_SHOT)
        assert draw_figure(name, runs, studies) == drawn[name]


def test_the_users_environment_does_not_change_the_figures(results, tmp_path):
    folder = results[0].folder.parent.parent
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nfigure.dpi: 31\n")
    code = (
        "import hashlib, heated.reporting.figures as f;"
        "from pathlib import Path; from heated.reporting.run_results import read_results;"
        f"runs = read_results(Path({str(folder)!r}), 'digits', ['hbn', 'bn']);"
        "svgs = [each.svg for each in f.draw_figures(runs, {'run': ['hbn', 'bn']})];"
        "print(len(svgs), hashlib.sha256(''.join(svgs).encode()).hexdigest())"
    )
    places = {"MPLBACKEND": "module://of_a_notebook", "LC_ALL": "de_DE.ISO-8859-1"}
    places |= {"COLUMNS": "20", "MATPLOTLIBRC": str(tmp_path)}
    printed = set()
    for more in ({}, places):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "MATPLOTLIB"))}
        command, python_path = [sys.executable, "-c", code], str(ROOT / "src")
        env |= {"PYTHONPATH": python_path, **more}
        printed.add(subprocess.check_output(command, cwd=ROOT, env=env, text=True))
    assert len(printed) == 1
    assert printed.pop().startswith("5 ")


def test_figures_without_data_are_left_out(results, main):
    assert draw_figures([], ZERO_SHOT) == []
    for studies in ({}, {"run": [], "alphas": []}, {"embeddings_2d": ["ln", "hln"]}):  # D is not 2
        assert [each.name for each in draw_figures(results, studies)] == ["gradients"]
    names = {name for name in FIGURES if name != "curves" and draw_figure(name, main, MAIN)}
    assert names == {"factorial", "components", "similarities", "gradients", "geometry"}
    assert draw_figure("gradients", select(results, "bn", "ln"), ZERO_SHOT) is None


def test_runs_may_have_one_seed_or_different_numbers_of_seeds(tmp_path):
    methods = ["ln", "ln-drop", "ln-heat", "hln"]
    for method in methods:
        write_run(tmp_path, "digits", method, seeds=(0,))
    figures = draw_figures(read_results(tmp_path, "digits", methods), {"run": methods})
    assert [each.name for each in figures] == ["curves", "factorial", "geometry"]
    assert "1 seed " in figures[1].description
    write_run(tmp_path, "digits", "ln", seeds=(0, 1))
    assert base.seed_count(read_results(tmp_path, "digits", methods)) == "1 to 2 seeds"


def test_curves_have_a_color_per_normalization_and_dots_at_the_start_of_heating(results, drawn):
    svg = draw_figure("curves", select(results, "hbn", "ln"), MAIN).svg
    none, ln, bn = "#555555", "#d55e00", "#0072b2"
    assert none not in svg
    # One dot per panel; ln is not heated.
    dots = re.findall(rf'<use [^>]*x="[1-9][^>]*fill: ({ln}|{bn})', svg)
    assert dots == [bn] * 3
    assert {*re.findall(r'<use [^>]*x="0"[^>]*fill: (#\w+)', svg)} == {bn, ln}  # the bands
    end = 100 * np.mean([recall_at_1("hbn", seed) for seed in range(3)])
    assert f"hbn {end:.2f}" in drawn["curves"].description
    assert "hbn from epoch 6" in drawn["curves"].description


def test_bn_and_hbn_are_compared_with_a_note_on_the_learning_rate(drawn):
    for name in ("components", "similarities"):
        assert drawn[name].description.endswith(" hbn also lowers the learning rate.")
        assert "bn: alpha 16, " in drawn[name].description


def test_each_point_of_a_curve_shows_its_method_epoch_and_value(results, drawn):
    titles = re.findall(r"<g><title>([^<]*)</title>", drawn["curves"].svg)
    main = select(results, *MAIN["run"])
    counts = [len(run.curve(column)[0]) for run in main for column in line_plots.PANELS]
    assert len(titles) == len(set(titles)) == sum(counts)
    values = [100 * recall_at_1("hbn", seed) for seed in range(3)]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    epochs = [row["epoch"] for row in main[0].history[0]]
    assert f"hbn, epoch {epochs[-1]}: Recall@1 {np.mean(values):.3f} ± {half:.3f} %" in titles
    assert {"hbn, epoch 0: alpha 16", f"hbn, epoch {epochs[-1]}: alpha 4"} < {*titles}
    assert base.VALUE not in drawn["curves"].svg
    ElementTree.fromstring(drawn["curves"].svg)


def test_a_long_curve_shows_few_values_and_its_last(results):
    run = replace(results[0], history={0: [{"epoch": n, "loss": n / 7} for n in range(1000)]})
    axes = Figure().subplots()
    line_plots.plot_curve(axes, run, "loss", base.line_style(0, 0))
    (areas,) = axes.collections
    texts = areas.get_urls()
    assert len(texts) == len(areas.get_offsets()) == line_plots.MAX_VALUES
    assert texts[0] == "value:sm, epoch 999: loss 142.7"


def test_dots_lines_and_words_agree_on_the_start_of_heating(results):
    (hbn,) = select(results, "hbn")
    formerly = deepcopy(hbn.history)  # unseen classes measured at the interval only
    for rows in formerly.values():
        del rows[6]["recall_at_1"]
    for history, dots in ((hbn.history, [1, 1, 1]), (formerly, [0, 1, 1])):
        run = replace(hbn, history=history)
        description, figure = line_plots.draw_training_curves([run], MAIN)
        assert "hbn from epoch 6." in description
        marked = [[li for li in axes.lines if li.get_marker() == "o"] for axes in figure.axes]
        assert [len(each) for each in marked] == dots
        assert all(line.get_xdata() == [6] for each in marked for line in each)
        for axes in figure.axes:  # between the last epoch before and the first after
            assert [5.5, 5.5] in [list(line.get_xdata()) for line in axes.lines]


def test_methods_are_in_the_legends_with_one_style_distinct_without_colors(main):
    draw = (line_plots.draw_training_curves, line_plots.draw_class_geometry)
    for draw_runs, runs in zip(draw, (main, main[2:]), strict=True):
        assert legend_labels(draw_runs(runs, MAIN)[1]) == [run.method for run in runs]
    styles = base.method_styles(main)
    assert len({(each["linestyle"], each["marker"]) for each in styles.values()}) == len(main) == 10
    assert base.method_styles(main[2:]).items() <= styles.items()
    assert base.line_style(7, 4)["marker"] == base.line_style(0, 0)["marker"]  # markers repeat


def test_the_shapes_include_the_step_that_differs_only_in_shape(drawn, results):
    text = drawn["schedule_shapes"].description
    methods = ["hbn", *ZERO_SHOT["schedule_shapes"]]
    shapes = re.findall(r"(\S+) \((\w+)\)", text.partition("(%): ")[2])
    assert shapes == [(method, method.partition("-")[2] or "step") for method in methods]
    figure = line_plots.draw_schedule_shapes(results, ZERO_SHOT)[1]
    assert legend_labels(figure) == methods


def test_a_factorial_has_its_four_cells_in_order_and_all_intervals_on_one_axis(main):
    groups = final_recall.complete_factorials(main)
    methods = [[run.method for run in runs] for runs in groups.values()]
    assert methods == [["ln", "ln-drop", "ln-heat", "hln"], ["bn", "bn-drop", "bn-heat", "hbn"]]
    partial = [run for run in main if run.method != "bn-heat"]
    assert [*final_recall.complete_factorials(partial)] == ["L2 normalization"]
    description, figure = final_recall.draw_factorial(main, MAIN)
    for axes, runs in zip(figure.axes, groups.values(), strict=True):
        for run in runs:
            assert f"{run.method}\n{mean_recall(run):.2f}" in texts(figure)
            assert f"{mean_recall(run):.2f} ({run.method})" in description
        for seed in range(3):
            (line,) = axes.findobj(lambda artist, s=seed: artist.get_gid() == f"seed-{s}")
            assert isinstance(line, Line2D)
            expected = [100 * recall_at_1(run.method, seed) for run in runs]
            assert list(line.get_ydata()) == pytest.approx(expected)
    intervals = [run.metrics["recall_at_1"]["interval"] for run in sum(groups.values(), [])]
    for order in (main, main[::-1]):
        low, high = final_recall.draw_factorial(order, MAIN)[1].axes[0].get_ylim()
        assert all(low <= 100 * each[0] < 100 * each[1] <= high for each in intervals)


def test_constant_alphas_are_grouped_by_dimension_with_their_controls_and_best(results, drawn):
    lines = final_recall.constant_alphas_by_dim(results)
    assert list(lines) == [64, 128, 256]
    assert [run.method for run in lines[64].values()] == ["bn-4", "bn-8", "bn", "bn-32", "bn-64"]
    few = select(results, "bn", "bn-4", "bn-drop", "ln", "hbn")  # two constant alphas
    assert final_recall.constant_alphas_by_dim(few) == {}
    for (dim, line), end in zip(lines.items(), ("", "-d128", "-d256"), strict=True):
        assert list(line) == [4, 8, 16, 32, 64]
        controls = final_recall.controls_of_dim(results, dim)
        methods = {name: run.method for name, run in controls.items()}
        assert methods == {"softmax": f"sm{end}", "heated": f"hbn{end}"}
        best = max(line, key=lambda alpha, line=line: mean_recall(line[alpha]))
        text = drawn["alphas"].description.partition(f"D = {dim}: ")[2]
        assert text.partition("best alpha ")[2].startswith(f"{best:g};")


def test_every_heating_step_is_a_cell_and_the_best_and_worst_are_described(results, drawn):
    assert {heating_step(run) for run in select(results, "bn", "bn-drop", "bn-heat")} == {None}
    runs = select(results, *ZERO_SHOT["timing"], "hbn")
    by_step = {heating_step(run): run for run in runs}
    assert len(by_step) == 18
    cells = texts(final_recall.plot_heating_steps(by_step))
    assert all(format_recall(run, "\n") in cells for run in runs)
    order = sorted(runs, key=mean_recall)
    for word, run in (("Best", order[-1]), ("worst", order[0])):
        start, end, at = heating_step(run)
        step = f"{start:g} to {end:g} at {100 * at:.0f} % of the epochs"
        text = f"{word}: from {step}, {mean_recall(run):.2f}"
        assert text in drawn["timing"].description


def test_costs_are_those_of_the_records_and_the_figure_ranks_the_competitors(results, drawn):
    methods = PARAMS.studies.competitors.methods
    table = cost_table(select(results, *methods))
    assert [row["method"] for row in table.rows] == methods
    (triplet,) = (dict(row) for row in table.rows if row["method"] == "triplet")
    recall = 100 * np.mean([recall_at_1("triplet", seed) for seed in (0, 1, 2)])
    assert triplet.pop("R@1").startswith(f"{recall:.2f} ± ")
    numbers = {"n": "3", "images seen": "800", "MiB": "900", "tried": "6", "not finite": "1"}
    numbers |= {"seconds": "18", "validation R@1": "80.00"}  # the median of three seeds
    chosen = "lr 0.01 (smallest tried), loss.margin 0.2"
    assert triplet == {"method": "triplet", "chosen": chosen, **numbers}
    assert "among 6 by Recall@1 on validation classes, fold 0 of 5." in table.markdown()
    text = drawn["costs"].description
    ranked = sorted(select(results, *methods), key=lambda r: -mean_recall(r))
    places = [text.index(f" {each.method} {format_recall(each, ' ')} (") for each in ranked]
    assert places == sorted(places)


def test_every_test_image_and_class_is_drawn_in_its_color_by_increasing_alpha(upright):
    embeddings = embeddings_2d.load_embeddings(upright)
    methods = [each.result.method for each in embeddings]
    assert methods == ["ln-quarter", "ln-4", "ln", "ln-64", "hln"]
    figure = embeddings_2d.draw_embeddings(upright, UPRIGHT)[1]
    for axes, embedding in zip(figure.axes, embeddings, strict=False):
        (points,) = axes.collections
        assert len(points.get_offsets()) == len(LABELS)
        assert np.linalg.norm(points.get_offsets(), axis=1) == pytest.approx(1)
        colors = {tuple(color) for color in points.get_facecolor()}
        assert len(colors) == len(set(LABELS)) == 10
        assert points.get_rasterized()
        assert embedding.result.method in axes.get_title()
        diamonds = [line for line in axes.lines if line.get_marker() == "D"]
        assert [hypot(*line.get_xydata()[0]) for line in diamonds] == pytest.approx([0.9] * 10)
        assert [text.get_text() for text in axes.texts] == [str(label) for label in range(10)]
    # Half of a normal distribution is within 0.6745 standard deviations.
    expected = [np.degrees(0.6745 * 0.05 * width) for width in range(1, 6)]
    assert sorted(e.median_angle() for e in embeddings) == pytest.approx(expected, rel=0.2)


def test_labels_do_not_overlap_and_keep_the_order_around_the_circle():
    random, gap = np.random.default_rng(0), embeddings_2d.LABEL_GAP
    clusters = [random.uniform(-3, 3) + random.exponential(0.2, n % 12 + 1) for n in range(60)]
    for angles in [np.zeros(12), *clusters]:
        order = np.argsort(angles, kind="stable")
        moved = embeddings_2d.spread_angles(angles, gap)[order]
        assert np.diff(np.append(moved, moved[0] + 2 * np.pi)).min() > 0.95 * gap
    apart = np.array([2.0, -3.0, 0.0])
    assert list(embeddings_2d.spread_angles(apart, gap)) == list(apart)


def test_untrained_classes_have_no_diamonds(tmp_path):
    write_run(tmp_path, "digits-upright", "ln")
    (result,) = read_results(tmp_path, "digits-upright", ["ln"])
    with pytest.raises(FileNotFoundError, match="'embed'"):
        draw_figures([result], UPRIGHT)
    write_embeddings(result.folder, 0.1)
    path = result.folder / "embeddings/seed-0.npz"
    write_arrays(path, **{**np.load(path), "labels": LABELS + 10})
    (embedding,) = embeddings_2d.load_embeddings([result])
    assert embedding.weights is None
    (figure,) = draw_figures([result], UPRIGHT)
    assert "iamond" not in figure.description


def test_embeddings_during_training_are_drawn_by_epoch(upright, tmp_path):
    result = replace(upright[0], folder=tmp_path)
    assert embeddings_2d.draw_epoch_embeddings(result, 0) == {}
    epochs, angles = [0, 2], np.linspace(-3, 3, 2 * len(LABELS)).reshape(2, -1)
    write_arrays(tmp_path / "models/seed-0.npz", epochs=epochs, angles=angles, labels=LABELS)
    svgs = embeddings_2d.draw_epoch_embeddings(result, 0)
    assert [*svgs] == epochs
    alphas = dict(zip(*result.curve("alpha"), strict=True))
    for epoch, svg in svgs.items():
        title = f"{result.method}, seed 0: epoch {epoch}, alpha {alphas[epoch]:g}"
        assert f"<dc:title>{title}</dc:title>" in svg


def test_gradients_show_two_bands_and_the_peaks_of_the_first_seed(results, drawn, tmp_path):
    text = drawn["gradients"].description
    assert "near the centroid 2.9 at alpha 4" in text
    assert "near the boundary 4.5 at alpha 16" in text
    assert "misclassified still rising at alpha 60, to 82.0" in text
    (hbn,) = select(results, "hbn")
    curves = read_json(hbn.folder / "gradients.json")["seeds"]["2"]
    for axes in line_plots.draw_gradients([hbn], {})[1].axes:
        assert len(axes.collections) == 2
        assert list(axes.lines[-1].get_xdata()) == curves["alphas"]
        assert set(axes.lines[0].get_xdata()) == {4.0}
    smallest = {"peak_alpha": 1.0, "peak_norm": 0.2}
    curves["kinds"] = {"centroid": curves["kinds"]["centroid"] | smallest}
    write_json(tmp_path / "gradients.json", {"seeds": {"2": curves}})
    description, figure = line_plots.draw_gradients([replace(hbn, folder=tmp_path)], {})
    assert "near the centroid 0.2 at alpha 1 or below" in description
    assert "misclassified no sample" in description
    assert "none" in texts(figure)
