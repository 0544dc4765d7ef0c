"""Figures of bn and hbn on the same test images, against independent computations."""

import re

import numpy as np
import pytest
from reported import METHODS

from heated.common.io import write_arrays
from heated.reporting.figures import draw_figure, heating_pair
from heated.reporting.run_results import read_results

STUDIES = {"run": METHODS}


def write_embeddings(runs, labels, *, methods=METHODS):
    """Write embeddings (N, 5) of noisy classes, and return them at length 1, by method."""
    every, unit = np.ones(len(labels), bool), {}
    for number, method in enumerate(methods, 1):
        random = np.random.default_rng(number)
        centers = random.normal(size=(labels.max() + 1, 5))
        noise = random.normal(size=(len(labels), 5))
        embeddings = (centers[labels] + number * noise / 2).astype(np.float32)
        path = runs / f"digits/{method}/embeddings/seed-0.npz"
        write_arrays(path, embeddings=embeddings, labels=labels, query=every, gallery=every)
        exact = embeddings.astype(np.float64)
        unit[method] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return unit


def cosines_by_hand(unit, labels):
    """Return the cosines of all pairs of the same class, and of all other pairs."""
    products, upper = unit @ unit.T, np.triu(np.ones((len(labels),) * 2, bool), 1)
    same = labels[:, None] == labels
    return products[upper & same], products[upper & ~same]


def auc_by_hand(positives, negatives):
    above = np.searchsorted(np.sort(negatives), positives, "left")
    tied = np.searchsorted(np.sort(negatives), positives, "right") - above
    return (above + tied / 2).mean() / len(negatives)


def test_the_components_are_those_of_a_singular_value_decomposition(runs):
    labels = np.arange(28).repeat(5)
    unit = write_embeddings(runs, labels)
    results = read_results(runs, "digits", METHODS)
    description, figure = heating_pair.draw_components(results, STUDIES)
    shades = []
    for axes, method in zip(figure.axes, ("bn", "hbn"), strict=True):
        centered = unit[method] - unit[method].mean(axis=0)
        _, values, directions = np.linalg.svd(centered, full_matrices=False)
        shares = 100 * values[:2] ** 2 / (values**2).sum()
        text = f"{shares[0]:.1f} + {shares[1]:.1f} %"
        assert text in axes.get_title()
        assert text in description.partition(f"{method}: alpha 16")[2]
        gray, colored = axes.collections
        shown = np.isin(labels, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27])
        expected = np.abs(centered @ directions[:2].T)  # the signs are arbitrary
        for points, rows in ((gray, ~shown), (colored, shown)):
            assert np.abs(np.asarray(points.get_offsets())) == pytest.approx(
                expected[rows], abs=1e-5
            )
        shades.append(colored.get_facecolor().tolist())
    assert shades[0] == shades[1]
    assert len(np.unique(shades[0], axis=0)) == 10
    assert "hbn: alpha 16, then 4" in description
    assert "10 classes have the same colors; the others are gray." in description
    write_embeddings(runs, labels % 3)
    description = heating_pair.draw_components(results, STUDIES)[0]
    assert description.endswith("The same 3 classes have the same colors.")


def test_similarities_of_all_pairs_have_the_means_and_auc_of_an_independent_computation(runs):
    labels = np.random.default_rng(0).integers(0, 4, 90)
    unit = write_embeddings(runs, labels)
    results = read_results(runs, "digits", METHODS)
    description, figure = heating_pair.draw_similarities(results, STUDIES)
    for axes, method in zip(figure.axes, ("bn", "hbn"), strict=True):
        cosines = cosines_by_hand(unit[method], labels)
        auc = auc_by_hand(*cosines)
        assert 0.55 < auc < 0.99
        means = [each.mean() for each in cosines]
        text = f"means {means[0]:.3f} and {means[1]:.3f}, AUC {auc:.3f}"
        assert text in description.partition(f"{method}: alpha 16")[2]
        assert f"AUC {auc:.3f}" in axes.get_title()
        assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx(means)
        for patch, values in zip(axes.patches, cosines, strict=True):
            heights, edges, _ = patch.get_data()
            counts = np.histogram(values, edges)[0]
            assert heights * np.diff(edges) == pytest.approx(counts / len(values))
    counts = [len(each) for each in cosines]
    assert f"All {counts[0]:,} and {counts[1]:,} pairs, for seed 0." in description
    assert sum(counts) == 90 * 89 / 2


def test_sampled_pairs_are_of_their_kind_and_equally_likely(runs):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [1, 2, 40, 500, 800]))
    unit = write_embeddings(runs, labels)["bn"]
    same, other = heating_pair.choose_pairs(labels, np.random.default_rng(0))
    for pairs, is_same in ((same, True), (other, False)):
        assert len(pairs) == heating_pair.SAMPLE
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert {*(labels[pairs[:, 0]] == labels[pairs[:, 1]]).tolist()} == {is_same}
    counts = np.bincount(labels)
    for pairs, partners in ((same, counts - 1), (other, len(labels) - counts)):
        expected = counts * partners / (counts * partners).sum()
        for column in pairs.T:
            shares = np.bincount(labels[column], minlength=5) / len(pairs)
            assert shares == pytest.approx(expected, abs=0.006)  # about 4 standard errors
    for pairs, values in zip((same, other), cosines_by_hand(unit, labels), strict=True):
        sampled = heating_pair.pair_cosines(unit, pairs)
        assert sampled[:9] == pytest.approx([unit[i] @ unit[j] for i, j in pairs[:9]])
        assert sampled.mean() == pytest.approx(values.mean(), abs=5 * values.std() / 316)
    again = heating_pair.choose_pairs(labels, np.random.default_rng(0))
    assert all(map(np.array_equal, again, (same, other)))
    results = read_results(runs, "digits", METHODS)
    assert "A random sample of 100,000 and 100,000 pairs" in draw(results).description


def test_many_test_images_are_a_sample_in_a_small_file(runs):
    write_embeddings(runs, np.arange(11).repeat(600))
    figure = draw(read_results(runs, "digits", METHODS), "components")
    assert "of the 6600 test embeddings at length 1, for seed 0, of which 5000 are drawn." in (
        figure.description
    )
    assert len(figure.svg) < 2**20


def draw(results, name="similarities", studies=STUDIES):
    return draw_figure(name, results, studies)


def test_without_a_pair_of_methods_or_kinds_of_pairs_there_is_no_figure(runs):
    results = read_results(runs, "digits", METHODS)
    names = ("components", "similarities")
    assert [draw(results, name) for name in names] == [None, None]  # no embeddings
    write_embeddings(runs, np.arange(6))
    assert draw(results, "components") is not None
    assert draw(results) is None  # each class has one image
    write_embeddings(runs, np.zeros(6, np.int64))
    assert draw(results) is None  # of other classes
    assert draw(results, "components", {"run": ["hbn"], "alphas": ["bn"]}) is None
    write_embeddings(runs, np.arange(6) % 2)
    assert draw(results) is not None
    for former, name in (("bn", "ln"), ("hbn", "hln")):
        (runs / "digits" / former).rename(runs / "digits" / name)
    results = read_results(runs, "digits", ["hln", "ln"])
    description = draw(results, studies={"run": ["hln", "ln"]}).description
    assert re.findall(r"\bh?ln(?=: alpha)", description) == ["ln", "hln"]
