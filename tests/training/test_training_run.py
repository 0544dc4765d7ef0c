import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from heated.common.history import NullLogger
from heated.common.io import read_arrays
from heated.common.samples import Split
from heated.data.packed_dataset import Packed
from heated.models.backbones import BACKBONES
from heated.models.embedding_model import load, load_with_head
from heated.training.recipe import Recipe, by_epoch, throughout
from heated.training.training_run import Run

CPU = torch.device("cpu")
BATCH = {"name": "batch", "momentum": 0.05, "eps": 1e-3}
SETTINGS = {
    "backbone": {"name": "conv4", "width": 4},
    "weights": "none",
    "warm_up": "none",
    "bottleneck_lr_factor": 1,
    "head_lr_factor": 1,
    "embedding_dim": 4,
    "epochs": 2,
    "watch_every": 1,
    "batch_size": 8,
    "lr": 0.05,
    "optimiser": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
    "augment": [{"name": "affine", "degrees": 10, "scale": 0.1, "shear": 5, "shift": 0.1}],
    "pixel_mean": 0.5,
    "pixel_std": 0.5,
    "normalise": BATCH,
    "bias": "outside",
    "label_smoothing": 0.0,
    "alpha": {"name": "step", "start": 16, "end": 4, "at": 0.5},
    "lr_factor": {"name": "linear", "start": 1, "end": 0.1},
    "threads": 1,
    "precision": "float32",
}


def packed():
    """Three classes to train on, 3, 5 and 9, and two to test on."""
    labels = np.repeat([3, 5, 9, 1, 2], [7, 7, 7, 6, 6])
    images = np.random.default_rng(0).integers(256, size=(33, 6, 6, 1), dtype=np.uint8)
    train = labels >= 3
    names = tuple("abcdefghij")
    return Packed(images, labels, names, Split(train=train, query=~train, gallery=~train))


def run_in(cache, digest="data", **changes):
    return Run(Recipe.from_settings(SETTINGS | changes), packed(), digest, CPU, cache)


def finish(run, tmp_path, *seeds):
    """What became of each seed, and the rows that were logged."""
    rows = []
    done = [run.finished(s, tmp_path / f"seed-{s}.safetensors", rows.append) for s in seeds]
    return done, rows


def test_a_recipe_writes_alpha_and_lr_out_for_every_epoch_and_is_json():
    found = Recipe.from_settings(SETTINGS | {"epochs": 3})
    assert found.epochs == 3
    assert found.alphas == [16, 4, 4]
    assert found.lrs == pytest.approx([0.05, 0.05 * 0.55, 0.05 * 0.1])
    for key in set(SETTINGS) - {"alpha", "lr", "lr_factor", "epochs"}:
        assert getattr(found, key) == SETTINGS[key]
    found = Recipe.from_settings(SETTINGS)
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    assert set(asdict(found)) - set(throughout(found)) == {"alphas", "lrs", "watch_every"}
    assert by_epoch(found) == [[16, found.lrs[0], True], [4, found.lrs[1], True]]
    with pytest.raises(TypeError, match="widht"):
        Recipe.from_settings(SETTINGS | {"widht": 3})


def weights(folder, seed=0):
    return (folder / f"seed-{seed}.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The plain recipe's run, its folder, what became of seeds 0 and 1, and the logged rows."""
    folder = tmp_path_factory.mktemp("trained")
    run = run_in(folder / "cache")
    return run, folder, *finish(run, folder, 0, 1)


def test_a_seed_is_trained_with_the_recipes_alpha_and_lr(trained):
    _, folder, done, rows = trained
    assert [each["epochs_trained"] for each in done] == [2, 2]
    assert done[0]["seconds"] > 0
    assert [*done[0]["history"], *done[1]["history"]] == rows
    assert [row["alpha"] for row in rows] == [16, 4] * 2
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.005] * 2)
    for row in rows:
        assert {"recall_at_1", "compactness", "spread"} < set(row)
    assert load(folder / "seed-0.safetensors", CPU).architecture.num_classes == 3  # that train
    assert not list(folder.glob("*.npz"))  # looks are kept of two dimensions only


def test_a_finished_seed_is_not_trained_again_and_its_history_is_told_again(trained, tmp_path):
    run, folder, (first, _), rows = trained
    (done,), again = finish(run, tmp_path, 0)
    assert done["epochs_trained"] == 0
    assert done["history"] == first["history"] == rows[:2] == again
    assert done["seconds"] == first["seconds"]
    assert weights(folder) == weights(tmp_path)


def test_a_seeds_weights_are_the_same_without_the_cache_and_whatever_came_before(trained, tmp_path):
    _, folder, *_ = trained
    for seed in (1, 0):
        (done,), _ = finish(run_in(tmp_path / "cache"), tmp_path, seed)
        assert done["epochs_trained"] == 2
        assert weights(folder, seed) == weights(tmp_path, seed)
    assert weights(folder, 0) != weights(folder, 1)


@pytest.mark.parametrize("last", [0, 3])
def test_a_training_that_is_cut_off_goes_on_where_it_was(tmp_path, last):
    def cut_off(row):
        if row["epoch"] == last:
            raise KeyboardInterrupt

    plane = {"epochs": 6, "embedding_dim": 2, "watch_every": 2}
    finish(run_in(tmp_path / "one", **plane), tmp_path / "a", 0)
    run = run_in(tmp_path / "two", **plane)
    path = tmp_path / "b" / "seed-0.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run.finished(0, path, cut_off)
    assert not path.exists()
    (done,), rows = finish(run, tmp_path / "b", 0)
    assert done["epochs_trained"] == 6 - last  # with the epoch that was cut off in its log
    assert [row["epoch"] for row in rows] == list(range(6))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    whole, resumed = (read_arrays(tmp_path / name / "seed-0.npz") for name in "ab")
    assert whole["epochs"].tolist() == [1, 3, 5]
    assert whole["labels"].tolist() == [1] * 6 + [2] * 6
    with torch.inference_mode():
        model = load(tmp_path / "a" / "seed-0.safetensors", CPU)
        embeddings = model(torch.from_numpy(run.data.images[run.data.split.query])).numpy()
    angles = np.arctan2(embeddings[:, 1], embeddings[:, 0])
    np.testing.assert_allclose(whole["angles"][-1], angles, atol=1e-5)
    for key, value in whole.items():
        np.testing.assert_array_equal(resumed[key], value)


def heated_family(end=4):
    """The recipes of bn, bn-drop, bn-heat and hbn; of 16 epochs the last 4 are heated."""
    constant, sixteen = ({"name": "constant", "value": value} for value in (1, 16))
    drop, heat = (
        {"name": "step", "start": start, "end": end, "at": 0.7625}
        for start, end in ((1, 0.1), (16, end))
    )
    pairs = {"bn": (sixteen, constant), "bn-drop": (sixteen, drop)}
    pairs |= {"bn-heat": (heat, constant), "hbn": (heat, drop)}
    small = SETTINGS | {"epochs": 16, "watch_every": 8}
    return {
        name: Recipe.from_settings(small | {"alpha": alpha, "lr_factor": factor})
        for name, (alpha, factor) in pairs.items()
    }


def family_trained(folder, recipes, cache):
    """How many epochs each method trained, and its weights."""
    trained, models = {}, {}
    for name, each in recipes.items():
        run = Run(each, packed(), "data", CPU, cache, others=list(recipes.values()))
        (done,), _ = finish(run, folder / name, 0)
        trained[name], models[name] = done["epochs_trained"], weights(folder / name)
    return trained, models


def test_methods_that_begin_alike_train_their_beginning_once(tmp_path):
    recipes, cache = heated_family(), tmp_path / "cache"
    trained, models = family_trained(tmp_path / "first", recipes, cache)
    assert trained == {"bn": 16, "bn-drop": 4, "bn-heat": 4, "hbn": 4}
    changed = recipes | {"hbn": heated_family(end=2)["hbn"]}
    again, hotter = family_trained(tmp_path / "second", changed, cache)
    assert again == {"bn": 0, "bn-drop": 0, "bn-heat": 0, "hbn": 4}
    models["hotter"] = hotter["hbn"]
    for name, each in {**recipes, "hotter": changed["hbn"]}.items():
        alone = Run(each, packed(), "data", CPU, tmp_path / f"cache-{name}")
        (done,), _ = finish(alone, tmp_path / f"alone-{name}", 0)
        assert done["epochs_trained"] == 16
        assert weights(tmp_path / f"alone-{name}") == models[name], name


def test_a_recipe_that_differs_otherwise_shares_nothing(trained, tmp_path):
    run, folder, *_ = trained
    smooth = run_in(folder / "cache", label_smoothing=0.1)
    (done,), _ = finish(smooth, tmp_path, 0)
    assert done["epochs_trained"] == 2
    assert replace(smooth, others=[run.recipe]).partings() == set()


def test_a_seed_that_another_process_has_in_hand_comes_later(tmp_path):
    run = run_in(tmp_path / "cache")
    lock = FileLock(run.checkpoints(0).family / "beginning.lock")
    lock.acquire(0)
    taken = []

    class Taken:
        def log(self, seed, row):
            if row["epoch"] == 0:
                taken.append(seed)
            lock.release()

    done = run.finish([0, 1], tmp_path / "models", Taken())
    assert taken == [1, 0]
    assert list(done) == [0, 1]


def test_a_seed_that_fails_lets_the_others_finish_and_is_told_at_the_end(tmp_path):
    run = run_in(tmp_path / "cache", lr=1e30, normalise={"name": "none"})
    with pytest.raises(FloatingPointError, match=r"(?s)seed 0: .*epoch 0.*\nseed 1: .*epoch 0"):
        run.finish([0, 1], tmp_path / "models", NullLogger())
    assert list((tmp_path / "models").iterdir()) == []


def test_the_key_changes_with_all_that_makes_the_weights_and_not_with_how_it_was_written(tmp_path):
    plain = run_in(tmp_path)
    changes = [{"alpha": {"name": "constant", "value": 16}}, {"normalise": {"name": "l2"}}]
    changes += [{"lr": 0.06}, {"epochs": 3}, {"batch_size": 9}, {"threads": 2}, {"digest": "other"}]
    changes += [{"bottleneck_lr_factor": 2}, {"head_lr_factor": 2}]
    changes += [{"warm_up": "batch_norm"}, {"warm_up": "class_means"}]
    keys = [plain.key(), plain.key(0), plain.key(1)]
    keys += [run_in(tmp_path, **each).key(0) for each in changes]
    assert len(set(keys)) == len(keys)
    constant = run_in(tmp_path, alpha={"name": "constant", "value": 4})
    step = run_in(tmp_path, alpha={"name": "step", "start": 4, "end": 4, "at": 0.5})
    assert constant.key(0) == step.key(0)
    assert run_in(tmp_path / "elsewhere").key(0) == plain.key(0)


def stored(path, **changes):
    """A path with weights for SETTINGS's network on images of 6 x 6, and the weights."""
    torch.manual_seed(77)
    network = BACKBONES["conv4"]((1, 6, 6), 8, width=4)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.rand_like(value))
    tensors = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(tensors | changes, path)
    return tensors


def test_every_seed_begins_with_the_weights_of_the_file_but_for_its_bottleneck(tmp_path):
    tensors = stored(tmp_path / "w.safetensors")
    run = run_in(tmp_path / "cache", weights=str(tmp_path / "w.safetensors"))
    bottlenecks = []
    for seed in (0, 1):
        found = run.progress(seed)[0].model.network.state_dict()
        changed = {name for name in found if found[name].shape != tensors[name].shape}
        (bottleneck,) = {name for name in changed if not name.endswith("bias")}
        for name in set(found) - {bottleneck, bottleneck.replace("weight", "bias")}:
            assert torch.equal(found[name], tensors[name]), name
        bottlenecks.append(found[bottleneck])
    assert not torch.equal(*bottlenecks)
    drawn = run_in(tmp_path / "cache").progress(0)[0].model.network.state_dict()
    assert torch.equal(drawn[bottleneck], bottlenecks[0])


def test_the_key_is_of_the_weights_in_the_file_and_not_of_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    stored(tmp_path / "a.safetensors")
    stored(tmp_path / "b.safetensors", **{"0.weight": torch.zeros(4, 1, 3, 3)})
    keys = [run_in(tmp_path, weights=f"{name}.safetensors").key(0) for name in "ab"]
    assert len({*keys, run_in(tmp_path).key(0)}) == 3
    (tmp_path / "a.safetensors").rename(tmp_path / "c.safetensors")
    assert run_in(tmp_path, weights="c.safetensors").key(0) == keys[0]
    stored(tmp_path / "c.safetensors", **{"0.weight": torch.ones(4, 1, 3, 3)})
    assert run_in(tmp_path, weights="c.safetensors").key(0) != keys[0]


def test_weights_and_warm_up_come_before_the_first_epoch_only(tmp_path):
    stored(tmp_path / "w.safetensors")
    changes = {"weights": str(tmp_path / "w.safetensors"), "warm_up": "class_means"}
    begun = run_in(tmp_path / "cache", **changes)
    finish(begun, tmp_path / "a", 0)
    again, seconds = run_in(tmp_path / "cache", **changes).progress(0)
    expected = load_with_head(tmp_path / "a" / "seed-0.safetensors", CPU).state_dict()
    assert seconds > 0
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_methods_and_warm_ups_of_one_seed_start_from_the_same_network(tmp_path):
    changes = [{"normalise": BATCH}, {"normalise": {"name": "l2"}}, {"normalise": {"name": "none"}}]
    changes += [{"warm_up": name} for name in ("batch_norm", "class_means")]
    plain, *others = (run_in(tmp_path, **each).progress(0)[0].model for each in changes)
    for other in others:
        for name, value in plain.network.named_parameters():
            assert torch.equal(other.network.get_parameter(name), value), name
    for warmed in others[2:]:
        mean = warmed.normalization.standardise.running_mean
        assert not torch.equal(mean, plain.normalization.standardise.running_mean)
    heads = [torch.equal(warmed.head.weight, plain.head.weight) for warmed in others[2:]]
    assert heads == [True, False]
    another = run_in(tmp_path).progress(1)[0].model
    assert not torch.equal(another.network[0].weight, plain.network[0].weight)


def test_the_history_watches_the_classes_that_are_not_trained(trained):
    run, *_ = trained
    progress, _ = run.progress(1)
    model, history = progress.model, progress.history
    assert run.monitor(progress)().items() <= history[-1].items()
    held_out = torch.from_numpy(run.data.images[run.data.split.query])
    with torch.inference_mode():
        unit = torch.nn.functional.normalize(model.eval()(held_out), dim=1)
    nearest = (unit @ unit.T - 2 * torch.eye(12)).argmax(dim=1)
    labels = torch.tensor([1] * 6 + [2] * 6)
    right = (labels[nearest] == labels).double().mean().item()
    assert history[-1]["recall_at_1"] == pytest.approx(right)
