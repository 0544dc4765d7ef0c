from conftest import ROOT
from tracked import METRICS, record

from heated import config
from heated.evaluation.summary import summaries
from heated.tracking import shown
from heated.tracking.describing import PAPER, experiment_note, run_note
from heated.tracking.naming import flat, mean_points, row_names, summary_names, tags

PARAMS = config.load(ROOT)


def test_nested_parameters_get_dotted_names_and_a_second_choice_of_a_name_a_number():
    nested = {"a": {"b": {"c": 1}, "d": [2, 3]}, "e": None}
    assert flat(nested) == {"a.b.c": 1, "a.d": [2, 3], "e": None}
    flips = [{"name": "flip", "p": 0.1}, {"name": "flip", "p": 0.2}, {"name": "crop-2"}]
    assert flat({"augment": flips}) == {
        "augment": "flip, flip-2, crop-2",
        "augment.flip.p": 0.1,
        "augment.flip-2.p": 0.2,
    }
    assert flat({"name": "x", "lr": 1}) == {"name": "x", "lr": 1}  # at the top it is as others


def test_every_value_of_params_yaml_is_kept_and_short_enough_to_read(subtests):
    for dataset in PARAMS.datasets:
        with subtests.test(dataset=dataset):
            settings = PARAMS.settings(dataset, "hbn")
            pairs = flat(settings)
            assert sorted(map(str, leaves(settings))) == sorted(map(str, every_value(pairs)))
            assert all(len(str(value)) <= 40 and len(key) <= 40 for key, value in pairs.items())


def leaves(value):
    """All values in a nested one; a list of numbers is one."""
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [leaf for each in value for leaf in leaves(each)]
    return [] if value == [] else [value]


def every_value(pairs):
    """The same of flat parameters, the names of listed choices apart."""
    values = [v.split(", ") if isinstance(v, str) else [v] for v in pairs.values() if v != []]
    return [each for value in values for each in value]


def test_a_column_that_no_group_names_is_of_training():
    assert row_names({"epoch": 0, "gradient": 1.0}) == {"train/gradient": 1.0}


def test_means_are_over_the_seeds_that_have_a_value_and_leave_the_machine_out():
    histories = {
        0: [{"epoch": 0, "loss": 1.0, "system/x": 5.0}, {"epoch": 1, "loss": 2.0}],
        1: [{"epoch": 0, "loss": 3.0, "recall_at_1": 0.5}],
    }
    assert mean_points(histories) == [
        ({"train/loss": 2.0, "unseen/recall_at_1": 0.5}, 0),
        ({"train/loss": 2.0}, 1),
    ]


def test_how_k_means_went_is_no_result_and_has_no_interval():
    names = ("ami", "ami_kmeans_std", "kmeans_objective")
    metrics = summaries({seed: dict.fromkeys(names, 0.5 + seed) for seed in (0, 1)})
    assert summary_names(metrics).keys() == {
        "final/ami",
        "kmeans/ami_kmeans_std",
        "kmeans/kmeans_objective",
        "interval/ami_low",
        "interval/ami_high",
        "interval/n",
    }


def test_a_source_without_a_commit_has_no_version():
    assert "mlflow.source.git.commit" not in tags(record("k", source={"commit": None}))


def test_params_tell_images_and_recipe_apart():
    found = PARAMS.tags("cub200-tuned", "hbn")
    assert (found["dataset"], found["recipe"]) == ("cub200", "cub200-tuned")
    assert (found["method"], found["backbone"]) == ("hbn", "resnet50")
    assert PARAMS.tags("digits", "hbn")["study"] == "run"
    assert PARAMS.tags("digits-upright", "ln")["study"] == "planes"


def test_an_address_is_printed_without_its_password(subtests):
    cases = [
        ("https://me:secret@host:5000/a", "https://host:5000/a"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("postgresql://me:p@ss@host/db", "postgresql://host/db"),
    ]
    for address, printed in cases:
        with subtests.test(address=address, printed=printed):
            assert shown(address) == printed


def test_a_run_stands_beside_the_papers_number():
    note = run_note(record("k"), METRICS, {"recall_at_1": 0.5068})
    low, high = (100 * end for end in METRICS["recall_at_1"]["interval"])
    assert "**hbn** on **digits** (conv4, D = 64), study: run." in note
    assert f"| recall_at_1 | 72.50 % | {low:.2f} to {high:.2f} | 2 | 50.68 % |" in note
    assert PAPER in note


def test_a_run_that_the_paper_does_not_have_says_so_and_one_seed_has_no_interval():
    note = run_note(record("k"), METRICS, {})
    assert "| recall_at_1 | 72.50 % |" in note
    assert "has no number of this method by this recipe" in note
    assert "map_at_r" not in note
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
    for group in ["final", "interval", "kmeans", "schedule", "train", "unseen"]:
        assert f"`{group}/`" in note
