from tracked import METRICS, record

from heated.evaluation.summary import summaries
from heated.tracking.describing import PAPER, experiment_note, run_note


def test_a_run_stands_beside_the_papers_number():
    note = run_note(record("k"), METRICS, {"recall_at_1": 0.5068})
    low, high = (100 * end for end in METRICS["recall_at_1"]["interval"])
    assert "**hbn** on **digits** (conv4, D = 64), study: run." in note
    assert f"| recall_at_1 | 72.50 % | {low:.2f} to {high:.2f} | 2 | 50.68 % |" in note
    assert PAPER in note


def test_a_run_that_the_paper_does_not_have_says_so():
    note = run_note(record("k"), METRICS, {})
    assert "| recall_at_1 | 72.50 % |" in note
    assert "has no number of this method by this recipe" in note
    assert "map_at_r" not in note


def test_one_seed_has_no_interval():
    note = run_note(record("k"), summaries({0: {"recall_at_1": 0.5}}), {})
    assert "| recall_at_1 | 50.00 % | none | 1 |" in note


def test_an_experiment_tells_its_parts_and_every_methods_result():
    given = [(record("a", "bn"), METRICS), (record("b", "hbn"), METRICS)]
    note = experiment_note(given, {"bn": {}, "hbn": {"recall_at_1": 0.747}})
    assert "train: 20 images of 4 classes" in note
    lines = [line for line in note.splitlines() if line.startswith(("| bn", "| hbn"))]
    assert [line.count("|") for line in lines] == [6, 6]
    assert lines[0].endswith("| 2 |  |")
    assert lines[1].endswith("| 2 | 74.70 % |")


def test_every_group_of_metrics_is_explained(subtests):
    for group in ["final", "interval", "kmeans", "schedule", "train", "unseen"]:
        with subtests.test(group=group):
            assert f"`{group}/`" in experiment_note([(record("a"), METRICS)], {"hbn": {}})
