from conftest import ROOT
from tracked import METRICS, make_record

from heated import config
from heated.common.errors import redact_url
from heated.evaluation.metrics import summarize_seeds
from heated.tracking.metric_names import (
    flatten,
    mean_points,
    run_params,
    run_tags,
    schedule_params,
    seed_points,
)
from heated.tracking.publish import PAPER, experiment_note, run_note

PARAMS = config.load_params(ROOT)


def test_nested_parameters_get_dotted_names_and_repeated_names_a_number():
    nested = {"a": {"b": {"c": 1}, "d": [2, 3]}, "e": None}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [2, 3], "e": None}
    flips = [{"name": "flip", "p": 0.1}, {"name": "flip", "p": 0.2}, {"name": "crop-2"}]
    assert flatten({"augment": flips}) == {
        "augment": "flip, flip-2, crop-2",
        "augment.flip.p": 0.1,
        "augment.flip-2.p": 0.2,
    }
    assert flatten({"name": "x", "lr": 1}) == {"name": "x", "lr": 1}


def test_every_value_of_params_yaml_is_kept_and_short_enough_to_read(subtests):
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for each in value.values() for leaf in leaves(each)]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [leaf for each in value for leaf in leaves(each)]
        return [] if value == [] else [value]

    for dataset in PARAMS.datasets:
        with subtests.test(dataset=dataset):
            settings = PARAMS.settings(dataset, "hbn")
            flat = flatten(settings)
            parts = [v.split(", ") if isinstance(v, str) else [v] for v in flat.values() if v != []]
            found = [str(each) for part in parts for each in part]
            assert sorted(map(str, leaves(settings))) == sorted(found)
            assert all(len(str(value)) <= 40 and len(key) <= 40 for key, value in flat.items())


def test_means_are_over_the_seeds_that_have_a_value_and_include_the_use_of_the_machine():
    histories = {
        0: [{"epoch": 0, "loss": 1.0, "system/x": 5.0}, {"epoch": 1, "loss": 2.0}],
        1: [{"epoch": 0, "loss": 3.0, "recall_at_1": 0.5, "system/x": 7.0}],
    }
    assert mean_points(histories, {}) == [
        ({"train/loss": 2.0, "system/x": 6.0, "unseen/recall_at_1": 0.5}, 0),
        ({"train/loss": 2.0}, 1),
    ]


def test_how_k_means_went_is_no_metric_and_only_recall_at_1_has_its_interval():
    names = ("recall_at_1", "ami", "ami_kmeans_std", "kmeans_objective")
    metrics = summarize_seeds({seed: dict.fromkeys(names, 0.5 + seed) for seed in (0, 1)})
    ((final, step),) = mean_points({}, metrics)
    intervals = {f"interval/{name}" for name in ("recall_at_1_low", "recall_at_1_high", "n")}
    assert (step, final.keys()) == (0, {"final/recall_at_1", "final/ami"} | intervals)
    assert seed_points(0, [], metrics) == [({"final/recall_at_1": 0.5, "final/ami": 0.5}, 0)]


def test_schedules_of_every_method_have_the_same_parameters(subtests):
    for method in PARAMS.methods:
        with subtests.test(method=method):
            settings = PARAMS.settings("digits", method)
            params = run_params({"params": settings})
            for name in ("alpha", "lr_schedule"):
                kind = settings.get(name, {}).get("name")
                known = {f"{name}.{key}" for key in ("shape", "start", "end", "at")}
                ends = {f"{name}.{key}" for key in ("start", "end", "at")}
                known -= {None: known, "learned": ends - {f"{name}.start"}, "adacos": ends}.get(
                    kind, set()
                )
                assert {key for key in params if key.startswith(f"{name}.")} == known
                assert name not in params
    points = {"name": "piecewise", "points": [[0.5, 16.0], [0.75, 4.0]]}
    assert schedule_params(points).items() >= {"start": 16, "end": 4, "at": 0.75}.items()


def test_tags_name_images_recipe_and_study_and_a_commit_if_there_is_one():
    assert "mlflow.source.git.commit" not in run_tags(make_record("k", source={"commit": None}))
    tags = PARAMS.tags("cub200-tuned", "hbn")
    assert (tags["dataset"], tags["recipe"]) == ("cub200", "cub200-tuned")
    assert (tags["method"], tags["backbone"]) == ("hbn", "resnet50")
    assert PARAMS.tags("digits", "hbn")["study"] == "run"
    assert PARAMS.tags("digits-upright", "ln")["study"] == "embeddings_2d"


def test_an_address_is_printed_without_its_password():
    for address, printed in {
        "https://me:secret@host:5000/a": "https://host:5000/a",
        "http://127.0.0.1:5000": "http://127.0.0.1:5000",
        "sqlite:////home/me@work/mlflow.db": "sqlite:////home/me@work/mlflow.db",
        "postgresql://me:p@ss@host/db": "postgresql://host/db",
    }.items():
        assert redact_url(address) == printed


def test_a_runs_note_has_its_metrics_and_the_papers():
    note = run_note(make_record("k"), METRICS, {"recall_at_1": 0.5068})
    low, high = (100 * end for end in METRICS["recall_at_1"]["interval"])
    assert "**hbn** on **digits** (conv4, D = 64), study: run." in note
    assert f"| recall_at_1 | 72.50 % | {low:.2f} to {high:.2f} | 2 | 50.68 % |" in note
    assert PAPER in note
    metrics = summarize_seeds({0: {"recall_at_1": 0.5, "map_at_r": 1.0}})
    note = run_note(make_record("k"), metrics, {})
    assert "| recall_at_1 | 50.00 % | none | 1 |" in note
    assert "reports no result for this method with this recipe" in note
    assert "| map_at_r | 100.00 % | none | 1 |" in note


def test_an_experiments_note_has_its_parts_and_every_methods_result():
    runs = [(make_record("a", "bn"), METRICS), (make_record("b", "hbn"), METRICS)]
    note = experiment_note(runs, {"bn": {}, "hbn": {"recall_at_1": 0.747}})
    assert "train: 20 images of 4 classes" in note
    bn, hbn = (line for line in note.splitlines() if line.startswith(("| bn", "| hbn")))
    assert bn.count("|") == hbn.count("|") == 6
    assert bn.endswith("| 2 |  |")
    assert hbn.endswith("| 2 | 74.70 % |")
    for group in ("final", "interval", "schedule", "train", "unseen"):
        assert f"`{group}/`" in note
