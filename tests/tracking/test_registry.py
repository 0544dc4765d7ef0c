import shutil

import numpy as np
import pytest
import torch
import tracked
from conftest import ROOT
from embedders import case

from heated import config
from heated.evaluation.summary import summaries
from heated.models import embedding_model
from heated.tracking import address
from heated.tracking.models import read
from heated.tracking.publishing import publish
from heated.tracking.registry import Trained, keep

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(  # MLflow's own, when it is imported and sets up its tables
        "ignore:.*Any type hint is inferred as AnyType:UserWarning",
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
    ),
    pytest.mark.xdist_group("mlflow-models"),
]

RECALL = {"sm": {0: 0.5, 7: 0.6}, "hbn": {0: 0.7, 7: 0.4}}  # by method and seed
NAMES = {"sm": "sm-seed-0", "hbn": "hbn-seed-0"}


@pytest.fixture(scope="module")
def client(tmp_path_factory, mlflow_template):
    """MLflow's, of an empty store in a project of its own."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        yield MlflowClient(address())


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return case("digits", tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def trained(given, client, tmp_path_factory):
    """Two methods of two seeds, whose models all differ, by data set."""

    def of(dataset):
        folder = tmp_path_factory.mktemp("runs")
        found = []
        for method, recalls in RECALL.items():
            for seed in recalls:
                model = embedding_model.load(given.weights, torch.device("cpu"))
                with torch.no_grad():
                    next(model.parameters()).add_(len(method) + seed)
                embedding_model.save(folder / method / f"seed-{seed}.safetensors", model)
            metrics = summaries({seed: {"recall_at_1": r} for seed, r in recalls.items()})
            run_id = publish(record(dataset, method), {0: [], 7: []}, metrics)
            found.append(Trained(record(dataset, method), run_id, folder / method, metrics))
        return found

    return of


def record(dataset, method):
    given = tracked.record(f"{dataset} {method}", method)
    return given | {"dataset": dataset, "params": {"epochs": 0}}


def logged(client, dataset):
    """Name and run of each model of a data set."""
    experiment = client.get_experiment_by_name(dataset).experiment_id
    return sorted((m.name, m.source_run_id) for m in client.search_logged_models([experiment]))


def test_the_first_seed_of_each_method_is_logged_under_its_run(client, given, trained):
    runs = trained("logged")
    keep(runs, given.packing, metric=None, register=False)
    expected = [(NAMES[run.record["method"]], run.run_id) for run in runs]
    assert logged(client, "logged") == sorted(expected)
    for run in runs:
        assert client.get_run(run.run_id).outputs.model_outputs
        assert client.get_run(run.run_id).info.status == "FINISHED"
    assert client.search_registered_models("name = 'heated-logged'") == []


def test_without_validation_classes_the_first_method_is_the_champion(client, given, trained):
    runs = trained("first")
    keep(runs, given.packing, metric=None, register=True)
    expected = embedding_model.load(runs[0].models / "seed-0.safetensors", torch.device("cpu"))
    found = read("models:/heated-first@champion").model
    assert all(map(torch.equal, found.parameters(), expected.parameters()))


def test_with_validation_classes_the_best_seed_of_the_best_method_is(client, given, trained):
    runs = trained("best")
    keep(runs, given.packing, metric="recall_at_1", register=True)
    assert {name for name, _ in logged(client, "best")} == {"sm-seed-7", "hbn-seed-0"}
    version = client.get_model_version_by_alias("heated-best", "champion")
    assert version.run_id == runs[1].run_id


def test_what_is_there_is_not_written_again(client, given, trained):
    runs = trained("twice")
    for _ in range(2):
        keep(runs, given.packing, metric=None, register=True)
    assert len(logged(client, "twice")) == 2
    assert len(client.search_model_versions("name = 'heated-twice'")) == 2


def test_a_model_trained_anew_becomes_a_version_and_the_champion(client, given, trained):
    runs = trained("anew")
    keep(runs, given.packing, metric=None, register=True)
    before = client.get_model_version_by_alias("heated-anew", "champion").version
    shutil.copy(runs[0].models / "seed-7.safetensors", runs[0].models / "seed-0.safetensors")
    keep(runs, given.packing, metric=None, register=True)
    after = client.get_model_version_by_alias("heated-anew", "champion").version
    assert (int(before), int(after)) == (1, 3)


def test_the_champion_is_loaded_by_its_name_and_embeds(client, given, trained):
    import mlflow

    keep(trained("loaded"), given.packing, metric=None, register=True)
    mlflow.set_tracking_uri(address())
    loaded = mlflow.pyfunc.load_model("models:/heated-loaded@champion")
    expected = read("models:/heated-loaded@champion").predict(given.contents[:5])
    assert np.array_equal(loaded.predict(given.contents[:5]), expected)


@pytest.mark.parametrize(
    ("validation", "metric"), [("null", None), ("{folds: 5, fold: 0}", "recall_at_1")]
)
def test_params_choose_by_validation_classes_alone(tmp_path, validation, metric):
    for name in config.FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        changed = text.replace("validation: null", f"validation: {validation}", 1)
        (tmp_path / name).write_text(changed, encoding="utf-8")
    chosen = config.load(tmp_path).chosen_by("digits")
    assert chosen["metric"] == metric
    assert chosen["packing"]["size"] == 8
