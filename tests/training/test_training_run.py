import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from recipes import BATCH_NORM, SETTINGS, make_data, make_recipe
from safetensors.torch import save_file

from heated.common.errors import InputError
from heated.common.history import NullLogger
from heated.common.io import read_arrays
from heated.common.samples import Split
from heated.evaluation.metrics import retrieval_metrics
from heated.models.backbones import BACKBONES
from heated.models.embedding_model import load_model
from heated.training import provenance
from heated.training.training_run import TrainingRun

CPU = torch.device("cpu")
L2, NO_NORMALIZATION = {"name": "l2"}, {"name": "none"}


def make_run(cache, digest="data", **changes):
    return TrainingRun(make_recipe(**changes), make_data([3, 5, 9], [1, 2]), digest, CPU, cache)


def train_seed(run, folder, seed=0):
    """The seed's result, the logged rows and the bytes of the model."""
    rows, path = [], folder / f"seed-{seed}.safetensors"
    return run.train_seed(seed, path, rows.append), rows, path.read_bytes()


def initial_model(run, seed=0):
    return run.load_or_initialize(seed)[0].model


def test_a_recipe_lists_alpha_and_lr_per_epoch_and_is_json():
    assert make_recipe(epochs=3).lrs == pytest.approx([0.05, 0.05 * 0.55, 0.05 * 0.1])
    recipe = make_recipe()
    assert json.loads(json.dumps(asdict(recipe))) == asdict(recipe)
    assert asdict(recipe).items() >= recipe.epoch_invariant().items()
    assert set(asdict(recipe)) - set(recipe.epoch_invariant()) == {"alphas", "lrs", "eval_every"}
    assert recipe.per_epoch_values() == [[16, recipe.lrs[0], True], [4, recipe.lrs[1], True]]
    with pytest.raises(TypeError, match="widht"):
        make_recipe(widht=3)


def test_recipes_diverge_after_their_equal_first_epochs():
    recipe, *siblings = (
        make_recipe(alphas=alphas, lrs=[0.1] * len(alphas))
        for alphas in ([16, 16, 4], [16, 16, 16], [16, 4, 4], [8, 8, 8], [16, 16, 4])
    )
    assert recipe.divergence_epochs(siblings) == {1, 2}
    assert recipe.divergence_epochs([replace(siblings[0], label_smoothing=0.1)]) == set()


def write_weights(path, **changes):
    """Write weights for SETTINGS's network on images of 6 x 6; return them."""
    torch.manual_seed(77)
    network = BACKBONES["conv4"]((1, 6, 6), 8, width=4)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.rand_like(value))
    tensors = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(tensors | changes, path)
    return tensors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that starts from a file, its folder, and what `train_seed` gave for seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("trained")
    write_weights(folder / "w.safetensors")
    weights = str(folder / "w.safetensors")
    run = make_run(folder / "cache", init="class_means", weights=weights)
    return run, folder, [train_seed(run, folder, seed) for seed in (0, 1)]


def test_a_seed_is_trained_with_the_recipes_alpha_and_lr(trained):
    _, folder, seeds = trained
    for result, rows, _ in seeds:
        assert result["epochs_trained"] == 2
        assert result["seconds"] > 0
        assert result["history"] == rows
        assert [row["alpha"] for row in rows] == [16, 4]
        assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.005])
        measured = {"recall_at_1", "intra_class_variance", "inter_class_distance"}
        assert all(measured < set(row) for row in rows)
    model = load_model(folder / "seed-0.safetensors", CPU)
    assert model.architecture.num_classes == 3  # the training classes
    assert not list(folder.glob("*.npz"))  # only for two dimensions


def test_a_finished_seed_is_not_trained_again_and_its_rows_are_logged(trained, tmp_path):
    run, _, [(first, rows, weights), _] = trained
    result, logged, same_weights = train_seed(run, tmp_path)
    assert result["epochs_trained"] == 0
    assert result["history"] == first["history"] == rows == logged
    assert result["seconds"] == first["seconds"]
    assert weights == same_weights


def test_a_seeds_weights_do_not_depend_on_the_cache_or_on_earlier_trainings(trained, tmp_path):
    run, _, seeds = trained
    for seed in (1, 0):
        alone = replace(run, checkpoint_folder=tmp_path / "cache")
        result, _, weights = train_seed(alone, tmp_path, seed)
        assert result["epochs_trained"] == 2
        assert weights == seeds[seed][2]
    assert seeds[0][2] != seeds[1][2]


@pytest.mark.parametrize("last", [0, 3])
def test_an_interrupted_training_resumes_with_bit_identical_results(tmp_path, last):
    def interrupt(row):
        if row["epoch"] == last:
            raise KeyboardInterrupt

    plane = {"epochs": 6, "embedding_dim": 2, "eval_every": 2}
    *_, expected = train_seed(make_run(tmp_path / "one", **plane), tmp_path / "a")
    run = make_run(tmp_path / "two", **plane)
    path = tmp_path / "b" / "seed-0.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run.train_seed(0, path, interrupt)
    assert not path.exists()
    result, rows, weights = train_seed(run, tmp_path / "b")
    assert result["epochs_trained"] == 6 - last  # with the epoch that was interrupted in its log
    assert [row["epoch"] for row in rows] == list(range(6))
    assert weights == expected
    whole, resumed = (read_arrays(tmp_path / name / "seed-0.npz") for name in "ab")
    assert whole["epochs"].tolist() == [1, 2, 3, 5]  # alpha changes in epoch 3
    assert whole["labels"].tolist() == [1] * 6 + [2] * 6
    with torch.inference_mode():
        model = load_model(tmp_path / "a" / "seed-0.safetensors", CPU)
        embeddings = model(torch.from_numpy(run.data.images[run.data.split.query])).numpy()
    angles = np.arctan2(embeddings[:, 1], embeddings[:, 0])
    np.testing.assert_allclose(whole["angles"][-1], angles, atol=1e-5)
    for key, value in whole.items():
        np.testing.assert_array_equal(resumed[key], value)


def test_the_unseen_classes_are_measured_with_the_evaluations_queries_and_gallery(tmp_path):
    run = make_run(tmp_path / "cache")
    test = np.flatnonzero(run.data.split.query)
    query, gallery = (np.isin(np.arange(len(run.data.labels)), part) for part in (test[::3], test))
    gallery[test[::3]] = False  # as In-Shop: no image is both
    data = replace(run.data, split=Split(run.data.split.train, query, gallery))
    result, *_ = train_seed(replace(run, data=data), tmp_path)
    model = load_model(tmp_path / "seed-0.safetensors", CPU)
    with torch.inference_mode():
        embeddings = model(torch.from_numpy(run.data.images[test]))
    labels = torch.from_numpy(run.data.labels[test])
    masks = {"query": torch.from_numpy(query[test]), "gallery": torch.from_numpy(gallery[test])}
    expected = retrieval_metrics(embeddings, labels, recall_at_k=[1], **masks).values
    assert result["history"][-1]["recall_at_1"] == expected["recall_at_1"]


def heated_family(end=4):
    """The recipes of bn, bn-drop, bn-heat and hbn; of 16 epochs the last 4 are heated."""
    constant, sixteen = ({"name": "constant", "value": value} for value in (1, 16))
    step = {"name": "step", "at": 0.7625}
    drop, heat = step | {"start": 1, "end": 0.1}, step | {"start": 16, "end": end}
    schedules = {"bn": (sixteen, constant), "bn-drop": (sixteen, drop)}
    schedules |= {"bn-heat": (heat, constant), "hbn": (heat, drop)}
    return {
        name: make_recipe(epochs=16, eval_every=8, alpha=alpha, lr_schedule=factor)
        for name, (alpha, factor) in schedules.items()
    }


def train_family(folder, recipes, cache):
    """The number of epochs that each method trained, and its weights."""
    epochs, weights = {}, {}
    for name, recipe in recipes.items():
        run = replace(make_run(cache), recipe=recipe, sibling_recipes=[*recipes.values()])
        result, _, weights[name] = train_seed(run, folder / name)
        epochs[name] = result["epochs_trained"]
    return epochs, weights


def test_methods_that_share_an_initial_schedule_share_that_training(tmp_path):
    recipes, cache = heated_family(), tmp_path / "cache"
    # heated methods measure the unseen classes before the change, so they diverge an epoch earlier
    assert recipes["bn"].divergence_epochs(recipes.values()) == {11, 12}
    epochs, weights = train_family(tmp_path / "first", recipes, cache)
    assert epochs == {"bn": 16, "bn-drop": 4, "bn-heat": 5, "hbn": 4}
    changed = recipes | {"hbn": heated_family(end=2)["hbn"]}
    epochs, changed_weights = train_family(tmp_path / "second", changed, cache)
    assert epochs == {"bn": 0, "bn-drop": 0, "bn-heat": 0, "hbn": 4}
    weights["changed"] = changed_weights["hbn"]
    for name, recipe in {**recipes, "changed": changed["hbn"]}.items():
        run = replace(make_run(tmp_path / f"cache-{name}"), recipe=recipe)
        result, _, unshared_weights = train_seed(run, tmp_path / f"unshared-{name}")
        assert result["epochs_trained"] == 16
        assert unshared_weights == weights[name], name


def test_only_trainings_that_begin_alike_wait_for_each_other(tmp_path):
    recipes, constant = heated_family(), {"name": "constant", "value": 4}
    recipes["bn-4"] = make_recipe(epochs=16, eval_every=8, alpha=constant)
    runs = {name: replace(make_run(tmp_path), recipe=recipe) for name, recipe in recipes.items()}
    locks = {name: run.checkpoints(0).prefix_lock for name, run in runs.items()}
    assert len({locks[name] for name in heated_family()}) == 1
    assert locks["bn-4"] != locks["bn"]
    assert locks["bn-4"].parent == runs["bn"].checkpoints(0).family_folder


def test_a_seed_locked_by_another_process_is_retried_last(tmp_path):
    run = make_run(tmp_path / "cache")
    lock = FileLock(run.checkpoints(0).prefix_lock)
    lock.acquire(0)
    order = []

    class ReleasingLogger:
        def log(self, seed, row):
            if row["epoch"] == 0:
                order.append(seed)
            lock.release()

    results = run.train_seeds([0, 1], tmp_path / "models", ReleasingLogger())
    assert order == [1, 0]
    assert list(results) == [0, 1]


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_data_set_without_images_in_a_part_is_an_error(tmp_path, empty):
    parts = ([], [1, 2]) if empty == "train" else ([3, 5, 9], [])
    run = replace(make_run(tmp_path / "cache"), data=make_data(*parts))
    with pytest.raises(InputError, match="got an empty part, expected images"):
        run.train_seeds([0], tmp_path / "models", NullLogger())


def test_a_seed_that_fails_is_reported_after_the_other_seeds(tmp_path):
    run = make_run(tmp_path / "cache", lr=1e30, normalize=NO_NORMALIZATION)
    with pytest.raises(FloatingPointError, match=r"(?s)seed 0: .*'epoch': 0.*\nseed 1: .*"):
        run.train_seeds([0, 1], tmp_path / "models", NullLogger())
    assert list((tmp_path / "models").iterdir()) == []


def test_the_key_depends_on_everything_that_determines_the_weights_and_nothing_else(tmp_path):
    plain = make_run(tmp_path)
    changes = [{"alpha": {"name": "constant", "value": 16}}, {"normalize": L2}, {"threads": 2}]
    changes += [{"lr": 0.06}, {"epochs": 3}, {"batch_size": 9}, {"digest": "other"}]
    changes += [{"bottleneck_lr_mult": 2}, {"classifier_lr_mult": 2}, {"label_smoothing": 0.1}]
    changes += [{"init": "batch_norm"}, {"init": "class_means"}]
    keys = [plain.key(), plain.key(0), plain.key(1)]
    keys += [make_run(tmp_path, **each).key(0) for each in changes]
    keys += [replace(plain, device=torch.device("meta")).key(0)]
    assert len(set(keys)) == len(keys)
    constant = make_run(tmp_path, alpha={"name": "constant", "value": 4})
    step = make_run(tmp_path, alpha={"name": "step", "start": 4, "end": 4, "at": 0.5})
    assert constant.key(0) == step.key(0)
    assert make_run(tmp_path / "elsewhere").key(0) == plain.key(0)


def test_the_key_in_mlflow_depends_on_method_parameters_and_processor(tmp_path, monkeypatch):
    def key(method="hln", params=SETTINGS):
        tags = {"recipe": "digits", "method": method}
        return provenance.make_provenance(make_run(tmp_path), tags, params)["key"]

    plain = key()
    assert key() == plain
    assert key(method="tuned-hln") != plain
    assert key(params=SETTINGS | {"note": "at another epoch"}) != plain
    collect = provenance.collect_environment
    monkeypatch.setattr(
        provenance, "collect_environment", lambda d: collect(d) | {"device": "other"}
    )
    assert key() != plain


def test_every_seed_starts_from_the_files_weights_except_for_its_bottleneck(tmp_path):
    tensors = write_weights(tmp_path / "w.safetensors")
    run = make_run(tmp_path / "cache", weights=str(tmp_path / "w.safetensors"))
    bottlenecks = []
    for seed in (0, 1):
        found = initial_model(run, seed).network.state_dict()
        changed = {name for name in found if found[name].shape != tensors[name].shape}
        (bottleneck,) = {name for name in changed if not name.endswith("bias")}
        for name in set(found) - {bottleneck, bottleneck.replace("weight", "bias")}:
            assert torch.equal(found[name], tensors[name]), name
        bottlenecks.append(found[bottleneck])
    assert not torch.equal(*bottlenecks)
    random = initial_model(make_run(tmp_path / "cache")).network.state_dict()
    assert torch.equal(random[bottleneck], bottlenecks[0])


def test_the_key_depends_on_the_weights_in_a_file_and_not_on_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    write_weights(tmp_path / "a.safetensors")
    write_weights(tmp_path / "b.safetensors", **{"0.weight": torch.zeros(4, 1, 3, 3)})
    keys = [make_run(tmp_path, weights=f"{name}.safetensors").key(0) for name in "ab"]
    assert len({*keys, make_run(tmp_path).key(0)}) == 3
    (tmp_path / "a.safetensors").rename(tmp_path / "c.safetensors")
    assert make_run(tmp_path, weights="c.safetensors").key(0) == keys[0]
    write_weights(tmp_path / "c.safetensors", **{"0.weight": torch.ones(4, 1, 3, 3)})
    assert make_run(tmp_path, weights="c.safetensors").key(0) != keys[0]


def test_methods_and_initializers_of_one_seed_start_from_the_same_network(tmp_path):
    changes = [{"normalize": each} for each in (BATCH_NORM, L2, NO_NORMALIZATION)]
    changes += [{"init": name} for name in ("batch_norm", "class_means")]
    plain, *models = (initial_model(make_run(tmp_path, **each)) for each in changes)
    for model in models:
        for name, value in plain.network.named_parameters():
            assert torch.equal(model.network.get_parameter(name), value), name
    for model in models[2:]:
        mean = model.normalization.standardize.running_mean
        assert not torch.equal(mean, plain.normalization.standardize.running_mean)
    heads = [torch.equal(model.head.weight, plain.head.weight) for model in models[2:]]
    assert heads == [True, False]
    another = initial_model(make_run(tmp_path), seed=1)
    assert not torch.equal(another.network[0].weight, plain.network[0].weight)
