"""The effects against the length of the training, from made-up results files."""

from xml.etree import ElementTree

import pytest

from heated.reporting.run_results import RunResult
from heated.reporting.training_length import equal_images, length_plot, length_table

DROP = {"bn": 0.0, "bn-drop": 0.001, "bn-heat": 0.02, "hbn": 0.025}  # what a method adds
CLAIMS = {
    "bn-heat": (["bn-heat", "hbn"], ["bn", "bn-drop"]),
    "bn-drop": (["bn-drop", "hbn"], ["bn", "bn-heat"]),
    "hbn-over-bn": (["hbn"], ["bn"]),
}
ENDS = {"recall_at_1": {"hbn-over-bn": ""}, "map_at_r": {"hbn-over-bn": "-map"}}


def make_document(dataset, epochs, images=100, growth=1.0, **changes):
    """A results file of three seeds, whose effects are `growth` times DROP's."""
    methods, claims = {}, []
    for metric, name in (("recall_at_1", "recall"), ("map_at_r", "map")):
        for method, gain in DROP.items():
            values = [0.5 + growth * gain + 0.001 * seed * gain for seed in range(3)]
            seeds = {str(seed): value for seed, value in enumerate(values)}
            methods.setdefault(method, {})[metric] = {"seeds": seeds}
        for claim, (a, b) in CLAIMS.items():
            title = claim + ENDS[metric].get(claim, f"-{name}")
            sides = {"a": " + ".join(a), "b": " + ".join(b)}
            claims.append({"claim": title, "metric": metric, "missing": [], "n": 3} | sides)
    document = {"dataset": dataset, "parameters": {"epochs": str(epochs)}}
    document |= {"split": {"train": {"images": images}}, "studies": {"run": methods}}
    return document | {"claims": claims} | changes


DOCUMENTS = [
    make_document("long", 100, growth=2, accuracy_before_heating={"hbn": {"0": 0.9, "1": 0.8}}),
    make_document("short", 10),
    make_document("middle", 40, growth=1.5),
    make_document("other", 10, images=7),
    make_document("other-long", 20, images=7),
]


def test_only_three_recipes_with_the_same_images_are_compared():
    groups = equal_images(DOCUMENTS)
    assert [[each["dataset"] for each in group] for group in groups] == [
        ["short", "middle", "long"]
    ]
    assert equal_images(DOCUMENTS[2:]) == []


def test_the_table_has_each_recipes_effects_in_points():
    (group,) = equal_images(DOCUMENTS)
    _, _, *rows = length_table(group).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:4] for row in cells] == [
        ["short", "10", "", "3"],
        ["middle", "40", "", "3"],
        ["long", "100", "85.0", "3"],
    ]
    # Lower alpha, by hand: the mean of 2 and 2.5 less that of 0 and 0.1, times the growth.
    assert [row[4].split(" ±")[0] for row in cells] == ["+2.20", "+3.30", "+4.40"]
    assert [row[6].split(" ±")[0] for row in cells] == ["+2.50", "+3.75", "+5.00"]
    assert [row[7] for row in cells] == [row[4] for row in cells]


def test_the_figure_has_accuracies_if_two_recipes_have_them():
    (group,) = equal_images(DOCUMENTS)
    known = {"accuracy_before_heating": {"hbn": {"0": 0.5, "1": 0.6}}}
    for changed, expected in ((group, 0), ([*group[:1], group[1] | known, *group[2:]], 2)):
        text = length_plot(changed)
        ElementTree.fromstring(text)
        assert "length of the training" in text
        assert text.count("accuracy before heating") == expected


@pytest.mark.parametrize(("method", "expected"), [("hbn", {0: 0.5, 1: 0.6}), ("bn", {})])
def test_accuracy_before_heating_is_that_of_the_epoch_before(method, expected, tmp_path):
    histories = {}
    for seed in (0, 1):
        rows = [{"epoch": e, "alpha": 16.0, "accuracy": 0.4 + 0.1 * seed} for e in range(4)]
        rows[2]["accuracy"] = 0.5 + 0.1 * seed
        if method == "hbn":
            rows[3]["alpha"] = 4.0
        histories[seed] = rows
    result = RunResult("digits", method, tmp_path, {}, histories, {})
    assert result.accuracy_before_heating() == pytest.approx(expected)
