"""Losses of pytorch-metric-learning in our loop, compared with the library's own usage."""

import re
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from pydantic import TypeAdapter
from sklearn.datasets import load_digits

from heated import config
from heated.common.errors import InputError
from heated.config import methods
from heated.config.yaml_files import expand_bases
from heated.data.packed_dataset import InMemoryImages
from heated.data.samplers import SAMPLERS
from heated.losses.heated_softmax import HeatedSoftmax
from heated.losses.pml import LOSSES, MINERS, SCALES, PMLLoss, check_options
from heated.models import embedding_model
from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.training.gradient_step import raw_embeddings
from heated.training.loop import epoch_seed, train
from heated.training.recipe import Recipe
from heated.training.train_state import TrainState, make_alpha_scheduler

losses, miners, regularizers = (
    pytest.importorskip(f"pytorch_metric_learning.{name}", reason="compares with the library")
    for name in ("losses", "miners", "regularizers")
)
PARAMS = config.load_params(ROOT)
PML_METHODS = {name: m for name, m in PARAMS.methods.items() if hasattr(m, "loss")}
# The library indexes by a list of lists, and gives tensors to scipy: both still work as intended.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]
CPU = torch.device("cpu")
BATCH_SIZE = 32


def digits():
    """Return the first 24 images of each digit, (N, 8, 8, 1) uint8, and their labels."""
    images, labels = load_digits(return_X_y=True)
    first = np.concatenate([np.flatnonzero(labels == label)[:24] for label in range(10)])
    pixels = torch.from_numpy((images[first] * 15).astype(np.uint8)).view(-1, 8, 8, 1)
    return pixels, torch.from_numpy(labels[first])


IMAGES, LABELS = digits()


def settings_of(method, **changes):
    """Return the settings of digits and a method in params.yaml, for two small epochs."""
    short = {"epochs": 2, "batch_size": BATCH_SIZE, "precision": "float32"}
    return PARAMS.settings("digits", method) | short | changes


def make_model(settings):
    torch.manual_seed(0)
    shape = {"image_shape": (8, 8, 1), "num_classes": 10}
    return ModelWithLoss(Architecture.of(vars(Recipe.from_settings(settings)), **shape))


def train_model(settings, model=None):
    """Train a model; return it and its history."""
    model, recipe = model or make_model(settings), Recipe.from_settings(settings)
    state = TrainState.create(model, recipe, seed=0)
    train(state, InMemoryImages(IMAGES), LABELS, recipe)
    return model, state.history


@pytest.mark.slow
def test_every_competitor_trains_on_digits_and_its_loss_falls(subtests):
    for name in PARAMS.studies.competitors.methods:
        with subtests.test(method=name):
            constant = {"lr": 0.01, "lr_schedule": {"name": "constant", "value": 1.0}}
            _, (first, last) = train_model(settings_of(name, **constant))
            assert last["loss"] < first["loss"]
            is_heated = isinstance(PARAMS.methods[name], methods.HeatedSoftmaxMethod)
            has_alpha = getattr(PARAMS.methods[name], "alpha", None) is not None
            assert ("accuracy" in last) == is_heated
            assert ("alpha" in last) == ("temperature" in last) == has_alpha


def test_every_listed_loss_and_miner_is_used():
    assert {method.loss.name for method in PML_METHODS.values()} == set(LOSSES)
    assert {method.miner.name for method in PML_METHODS.values() if method.miner} == set(MINERS)


def make_reference(module, names, choice, **sizes):
    """Build the library's object as its documentation does."""
    name, options = embedding_model.name_and_options(choice)
    if "embedding_regularizer" in options:
        options["embedding_regularizer"] = regularizers.LpRegularizer()
    return getattr(module, names[name])(**options, **sizes)


def test_an_epoch_equals_the_librarys_example_loop(subtests):
    """The library's README: embed, mine, loss, backward, step; our batches and learning rates."""
    constant = [name for name, method in PML_METHODS.items() if method.alpha is None]
    for method_name in constant:
        with subtests.test(method=method_name):
            settings = settings_of(method_name, epochs=1, lr=0.01, augment=[])
            model = make_model(settings)
            network, proxies = deepcopy(model.network), deepcopy(model.head.criterion.state_dict())
            train_model(settings, model)

            needs_sizes = proxies and method_name != "margin"
            sizes = {"num_classes": 10, "embedding_size": 64} if needs_sizes else {}
            loss_func = make_reference(losses, LOSSES, settings["loss"], **sizes)
            loss_func.load_state_dict(proxies)
            miner = settings.get("miner")
            mining_func = make_reference(miners, MINERS, miner) if miner else None
            groups = [{"params": network.parameters()}]
            if proxies:
                lr = 0.01 * settings["classifier_lr_mult"]
                groups += [{"params": loss_func.parameters(), "lr": lr}]
            optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
            name, options = embedding_model.name_and_options(Recipe.from_settings(settings).sampler)
            generator = torch.Generator().manual_seed(epoch_seed(0, 0))
            network.train()
            for step, batch in enumerate(SAMPLERS[name](LABELS, BATCH_SIZE, generator, **options)):
                torch.manual_seed(epoch_seed(0, 0) + 2 + step)  # for random miners
                optimizer.zero_grad()
                embeddings = network(IMAGES[batch].permute(0, 3, 1, 2).float() / 127.5 - 1)
                pairs = mining_func(embeddings, LABELS[batch]) if mining_func else None
                loss_func(embeddings, LABELS[batch], pairs).backward()
                optimizer.step()

            states = (model.network.state_dict(), network.state_dict())
            torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.head.criterion.state_dict(), loss_func.state_dict())


def test_training_is_reproducible_and_independent_of_the_global_generator():
    states = []
    for seed in (0, 77):  # with a random miner
        model = make_model(settings_of("margin"))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train_model(settings_of("margin"), model)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_norm_softmax_and_the_librarys_proxy_nca_are_heated_softmaxes():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(8, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    for loss, alpha in (
        ({"name": "norm_softmax", "temperature": 0.25}, 4),
        ({"name": "proxy_nca", "softmax_scale": 3}, 6),  # squared distances are 2 - 2 z
    ):
        theirs = PMLLoss(10, 6, loss=loss, miner=None).double()
        ours = HeatedSoftmax(10, 6, normalize="l2", bias="none", alpha=alpha).double()
        (proxies,) = theirs.criterion.parameters()
        with torch.no_grad():
            ours.weight.copy_(proxies if proxies.shape == ours.weight.shape else proxies.T)
        values = [head.loss_and_correct(embeddings, torch.arange(8)) for head in (theirs, ours)]
        assert values[0][1].isnan()
        torch.testing.assert_close(values[0][0], values[1][0])
        gradients = [torch.autograd.grad(loss, embeddings)[0] for loss, _ in values]
        torch.testing.assert_close(*gradients)


def test_the_histogram_loss_is_the_chance_that_a_negative_is_nearer():
    """Ustinova and Lempitsky, arXiv 1611.00822, eq. 2 to 5, where torch warns in the library."""
    bins, labels = 10, np.arange(12) % 3
    embeddings = np.random.default_rng(0).normal(size=(12, 5))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    is_same, upper = labels[:, None] == labels, np.triu(np.ones((12, 12), dtype=bool), 1)

    def density(cosines):
        position = (cosines + 1) / 2 * bins
        low = np.floor(position).astype(int)
        counts = np.zeros(bins + 1)
        np.add.at(counts, low, low + 1 - position)
        np.add.at(counts, np.minimum(low + 1, bins), position - low)
        return counts / len(cosines)

    cosines = unit @ unit.T
    positive, negative = density(cosines[is_same & upper]), density(cosines[~is_same & upper])
    expected = (negative * positive.cumsum()).sum()
    head = PMLLoss(3, 5, loss={"name": "histogram", "n_bins": bins}, miner=None)
    loss, _ = head.loss_and_correct(torch.from_numpy(embeddings), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_invalid_options_are_rejected_with_what_is_valid(subtests):
    typo = {"name": "contrastive", "distance": {"name": "CosineSimilarty"}}
    kind = {"name": "triplet", "kind": "hard"}
    for loss, miner, message in (
        ({"name": "triplett"}, None, "losses name: .*'triplett'.*arcface, "),
        ({"name": "triplet", "margn": 1}, None, "Did you mean 'margin'"),
        ({"name": "arcface", "num_classes": 9}, None, "arcface.num_classes: .*'num_classes'"),
        ({"name": "margin", "beta": "far"}, None, "losses margin: got {'beta': 'far'}, rejected"),
        (typo, None, "distances name: .*'CosineSimilarty'.*CosineSimilarity"),
        ({"name": "triplet"}, {"name": "semihard"}, "miners name: .*'semihard'.*distance_weighted"),
        ({"name": "triplet"}, kind, "triplet.kind: .*'kind'"),
    ):
        raises = pytest.raises(InputError, match=f"^methods.mine: .*{message}")
        with subtests.test(loss=loss, miner=miner), raises:
            check_options("methods.mine", loss=loss, miner=miner)
    distance = {"name": "LpDistance", "p": 1, "normalize_embeddings": False}
    head = PMLLoss(4, 2, loss={"name": "triplet", "distance": distance}, miner=None)
    assert (head.criterion.distance.p, head.criterion.distance.normalize_embeddings) == (1, False)


def test_only_building_a_loss_needs_the_library(tmp_path, monkeypatch):
    model, _ = train_model(settings_of("proxy-anchor"))
    embedding_model.save_model(tmp_path / "model.safetensors", model)
    for name in [name for name in sys.modules if name.startswith("pytorch_metric_learning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    message = "^methods.triplet: losses triplet: .*not installed. Run `pip install pytorch-metric"
    with pytest.raises(InputError, match=message):
        check_options("methods.triplet", loss={"name": "triplet"}, miner=None)
    train_model(settings_of("bn"))
    loaded = embedding_model.load_model(tmp_path / "model.safetensors", CPU)
    with torch.inference_mode():
        prepared = model.eval().prepare(IMAGES)
        assert torch.equal(loaded(IMAGES), raw_embeddings(model, prepared, "float32"))


def test_a_scale_may_follow_a_schedule_of_alpha(subtests):
    """With a constant, training equals that with the number; else the schedule is in the rows."""
    constant = {"name": "constant", "value": 8.0}
    heated = {name: each for name, each in PML_METHODS.items() if name.startswith("heated-")}
    for name, method in heated.items():
        option = SCALES[method.loss.name]
        with subtests.test(method=name):
            loss = method.loss.model_dump()
            value = 1 / 8.0 if option == "temperature" else 8.0
            states, histories = [], []
            for changes in ({"alpha": constant}, {"loss": loss | {option: value}, "alpha": None}):
                settings = {**settings_of(name, lr=0.01), **changes}
                model, history = train_model({k: v for k, v in settings.items() if v is not None})
                states.append(model.state_dict())
                histories.append([row["loss"] for row in history])
            torch.testing.assert_close(*states, rtol=0, atol=0)
            assert histories[0] == histories[1]
            model, history = train_model(settings_of(name))
            schedule = method.alpha
            assert [row["alpha"] for row in history] == [schedule.start, schedule.end]
            last = getattr(model.head.criterion, option)
            assert last == (1 / schedule.end if option == "temperature" else schedule.end)
    rest = {"circle", "sphereface", "subcenter_arcface"}
    assert {each.loss.name for each in heated.values()} == set(SCALES) - rest


def test_every_scale_is_set_where_it_is_alpha(subtests):
    embeddings, labels = torch.randn(12, 4), torch.arange(12) % 3
    for name, option in SCALES.items():
        loss = next(m.loss.model_dump() for m in PML_METHODS.values() if m.loss.name == name)
        with subtests.test(loss=name):
            values = []
            for value in ("alpha", 1 / 8.0 if option == "temperature" else 8.0):
                torch.manual_seed(0)
                head = PMLLoss(3, 4, loss=loss | {option: value}, miner=None)
                scheduler = make_alpha_scheduler(head, [8.0])
                assert (scheduler is not None) == (value == "alpha")
                values.append(head.loss_and_correct(embeddings, labels)[0])
            assert torch.equal(*values)


def test_training_within_an_epoch_resumes_with_the_scale_of_its_epoch():
    settings = settings_of("heated-arcface")
    recipe, checkpoints = Recipe.from_settings(settings), []

    def save(state):
        if state.step == 2 and len(state.history) == 1:
            checkpoints.append(deepcopy(state.to_checkpoint()))

    whole, parts = (TrainState.create(make_model(settings), recipe, seed=0) for _ in range(2))
    train(whole, InMemoryImages(IMAGES), LABELS, recipe, on_step_end=save)
    parts.restore(checkpoints[0])
    assert parts.model.head.criterion.scale == 16
    train(parts, InMemoryImages(IMAGES), LABELS, recipe)
    assert parts.history == whole.history
    states = (whole.model.state_dict(), parts.model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_alpha_is_only_for_a_losss_scale():
    for loss, message in (
        ({"name": "arcface", "margin": "alpha"}, "arcface.margin: got 'alpha', expected it for"),
        ({"name": "triplet", "margin": "alpha"}, "triplet.margin: got 'alpha', expected a loss"),
    ):
        with pytest.raises(InputError, match=message):
            check_options("methods.mine", loss=loss, miner=None)


def test_another_loss_needs_a_key_and_the_method_in_the_docs(monkeypatch):
    readme = (ROOT / "docs/competitors.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(methods:\n  tuplet:.*?)```", readme, re.DOTALL)
    entries = config.read_sources(ROOT).entries["methods"]
    known = {name: entry.value for name, entry in entries.items()}
    expanded, _ = expand_bases(known | yaml.safe_load(block)["methods"])
    tuplet = TypeAdapter(methods.Method).validate_python(expanded["tuplet"].value).model_dump()
    with pytest.raises(InputError, match="losses name: .*'tuplet'"):
        check_options("methods.tuplet", loss=tuplet["loss"], miner=None)
    monkeypatch.setitem(LOSSES, "tuplet", "TupletMarginLoss")
    tuplet = {key: value for key, value in tuplet.items() if value is not None}
    base = {k: v for k, v in settings_of("bn").items() if k not in ("normalize", "bias", "alpha")}
    model, (first, last) = train_model(base | tuplet | {"lr": 0.01})
    assert model.head.criterion.scale == 64
    assert last["loss"] < first["loss"]
