"""pytorch-metric-learning's losses behind the loop, beside the library's own way of using them."""

import re
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from pydantic import TypeAdapter
from pytorch_metric_learning import losses, miners
from sklearn.datasets import load_digits

from heated import config
from heated.common.errors import InputError
from heated.config import method
from heated.config.entries import expand
from heated.data.batches import Held
from heated.data.samplers import SAMPLERS
from heated.losses.heated_softmax import HeatedSoftmax
from heated.losses.pml import LOSSES, MINERS, LibraryLoss, check, drawing
from heated.models import embedding_model
from heated.models.embedding_model import Architecture, Model
from heated.training.loop import Progress, epoch_seed, raw_embeddings, train
from heated.training.recipe import Recipe

PARAMS = config.load(ROOT)
OURS = {name: m for name, m in PARAMS.methods.items() if hasattr(m, "loss")}
RIVALS = PARAMS.studies.competitors.methods
# The library indexes by a list of lists, and gives tensors to scipy: both still do what is meant.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]
CPU = torch.device("cpu")
SIZE = 32


def digits():
    """Of each of ten digits the first 24, as uint8 (N, 8, 8, 1), and their labels."""
    images, labels = load_digits(return_X_y=True)
    first = np.concatenate([np.flatnonzero(labels == label)[:24] for label in range(10)])
    pixels = torch.from_numpy((images[first] * 15).astype(np.uint8)).view(-1, 8, 8, 1)
    return pixels, torch.from_numpy(labels[first])


def settings(method, **changes):
    """What params.yaml says of digits and the method, for two epochs of batches of 32."""
    return PARAMS.settings("digits", method) | {"epochs": 2, "batch_size": SIZE} | changes


def built(said):
    torch.manual_seed(0)
    given = {"image_shape": (8, 8, 1), "num_classes": 10}
    return Model(Architecture.of(vars(Recipe.from_settings(said)), **given))


def trained(said, model=None):
    """A model after the epochs, and the rows of its history."""
    made = built(said) if model is None else model
    progress = Progress.begin(made, said["optimiser"], head_lr_factor=said["head_lr_factor"])
    images, labels = digits()
    known = vars(Recipe.from_settings(said))
    train(
        progress,
        Held(images),
        labels,
        **{key: known[key] for key in ("alphas", "lrs", "batch_size", "sampler")},
        precision="float32",
        seed=0,
        watch_every=2,
        watch=dict,
        log=lambda row: None,
        keep=lambda progress: None,
    )
    return made, progress.history


@pytest.mark.slow
def test_every_competitor_trains_on_digits_and_its_loss_falls(subtests):
    for name in RIVALS:
        with subtests.test(method=name):
            calm = {"lr": 0.01, "lr_factor": {"name": "constant", "value": 1.0}}
            _, (first, last) = trained(settings(name, **calm))
            assert last["loss"] < first["loss"]
            heated = isinstance(PARAMS.methods[name], config.method.HeatedSoftmax)
            assert ("accuracy" in last) == ("alpha" in last) == ("temperature" in last) == heated


def test_the_listed_losses_are_all_used():
    assert {method.loss.name for method in OURS.values()} == set(LOSSES)
    assert {method.miner.name for method in OURS.values() if method.miner} == set(MINERS)


def constructed(module, names, choice, **sizes):
    """The library's own object, built as its pages say."""
    options = {key: value for key, value in choice.items() if key != "name"}
    if "embedding_regularizer" in options:
        from pytorch_metric_learning.regularizers import LpRegularizer

        options["embedding_regularizer"] = LpRegularizer()
    return getattr(module, names[choice["name"]])(**options, **sizes)


def test_an_epoch_equals_the_librarys_own_example_loop(subtests):
    for name in OURS:
        with subtests.test(method=name):
            check_epoch_equals_example_loop(name)


def check_epoch_equals_example_loop(method):
    """The library's README: embed, mine, loss, backward, step; our batches and learning rates."""
    said = settings(method, epochs=1, lr=0.01, augment=[])
    model = built(said)
    network, proxies = deepcopy(model.network), deepcopy(model.head.criterion.state_dict())
    trained(said, model)

    wanted = ("num_classes", "embedding_size") if proxies and method != "margin" else ()
    sizes = {name: {"num_classes": 10, "embedding_size": 64}[name] for name in wanted}
    loss_func = constructed(losses, LOSSES, said["loss"], **sizes)
    loss_func.load_state_dict(proxies)
    mine = constructed(miners, MINERS, said["miner"]) if said.get("miner") else None
    rates = [{"params": network.parameters()}]
    if proxies:
        rates += [{"params": loss_func.parameters(), "lr": 0.01 * said["head_lr_factor"]}]
    optimiser = torch.optim.SGD(rates, lr=0.01, momentum=0.9)
    images, labels = digits()
    name, options = embedding_model.split_choice(Recipe.from_settings(said).sampler)
    draw = torch.Generator().manual_seed(epoch_seed(0, 0))
    network.train()
    for step, batch in enumerate(SAMPLERS[name](labels, SIZE, draw, **options)):
        torch.manual_seed(epoch_seed(0, 0) + 2 + step)  # of the miners that draw
        optimiser.zero_grad()
        pixels = images[batch].permute(0, 3, 1, 2).float() / 127.5 - 1
        embeddings = network(pixels)
        pairs = None if mine is None else mine(embeddings, labels[batch])
        loss_func(embeddings, labels[batch], pairs).backward()
        optimiser.step()

    for key, value in network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    for key, value in loss_func.state_dict().items():
        torch.testing.assert_close(model.head.criterion.state_dict()[key], value)


def test_training_again_gives_the_same_bits_whatever_the_global_generator():
    one, _ = trained(settings("margin"))  # whose miner draws
    torch.manual_seed(77)
    state = torch.get_rng_state()
    with drawing(5):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = trained(settings("margin"))
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


# --- losses that are points of the heated softmax's space ------------------------------------


def test_norm_softmax_and_the_librarys_proxy_nca_are_heated_softmaxes():
    check_heated_softmax({"name": "norm_softmax", "temperature": 0.25}, 4)
    check_heated_softmax({"name": "proxy_nca", "softmax_scale": 3}, 6)  # distances are 2 - 2 z


def check_heated_softmax(loss, alpha):
    theirs = LibraryLoss(10, 6, loss=loss, miner=None).double()
    ours = HeatedSoftmax(10, 6, normalise="l2", bias="none", alpha=alpha).double()
    (proxies,) = theirs.criterion.parameters()
    with torch.no_grad():
        ours.weight.copy_(proxies if proxies.shape == ours.weight.shape else proxies.T)
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(8, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    two = one.detach().clone().requires_grad_()
    labels = torch.arange(8)
    loss_of_one, right = theirs.outcome(one, labels)
    assert right.isnan()
    loss_of_two = ours(two, labels)
    torch.testing.assert_close(loss_of_one, loss_of_two)
    loss_of_one.backward()
    loss_of_two.backward()
    torch.testing.assert_close(one.grad, two.grad)


def test_the_histogram_loss_is_the_chance_that_a_negative_is_nearer():
    """Ustinova and Lempitsky, arXiv 1611.00822, eq. 2 to 5, in numpy; it is where torch warns."""
    generator = np.random.default_rng(0)
    embeddings, labels = generator.normal(size=(12, 5)), np.arange(12) % 3
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    same = labels[:, None] == labels
    upper = np.triu(np.ones((12, 12), dtype=bool), 1)
    bins = 10

    def density(cosines):
        place = (cosines + 1) / 2 * bins
        low = np.floor(place).astype(int)
        found = np.zeros(bins + 1)
        np.add.at(found, low, low + 1 - place)
        np.add.at(found, np.minimum(low + 1, bins), place - low)
        return found / len(cosines)

    cosines = unit @ unit.T
    positive, negative = density(cosines[same & upper]), density(cosines[~same & upper])
    expected = (negative * positive.cumsum()).sum()
    head = LibraryLoss(3, 5, loss={"name": "histogram", "n_bins": bins}, miner=None)
    found, _ = head.outcome(torch.from_numpy(embeddings), torch.from_numpy(labels))
    assert found.item() == pytest.approx(expected, rel=1e-6)


# --- what a user may get wrong ---------------------------------------------------------------


def test_what_the_library_does_not_take_is_told_with_what_it_does(subtests):
    cases = [
        ({"name": "triplett"}, None, "losses name: came 'triplett'; allowed: arcface, "),
        ({"name": "triplet", "margn": 1}, None, "Did you mean 'margin'?"),
        ({"name": "arcface", "num_classes": 9}, None, "arcface.num_classes: came 'num_classes'; "),
        ({"name": "margin", "beta": "far"}, None, "losses margin: came {'beta': 'far'}; "),
        (
            {"name": "contrastive", "distance": {"name": "CosineSimilarty"}},
            None,
            "distances name: came 'CosineSimilarty'; allowed: ",
        ),
        ({"name": "triplet"}, {"name": "semihard"}, "miners name: came 'semihard'; allowed: "),
        ({"name": "triplet"}, {"name": "triplet", "kind": "hard"}, "triplet.kind: came 'kind'; "),
    ]
    for loss, miner, told in cases:
        with subtests.test(loss=loss, miner=miner, told=told):
            with pytest.raises(InputError, match="^methods.mine: ") as error:
                check("methods.mine", loss=loss, miner=miner)
            assert told in str(error.value)


def test_an_option_may_be_an_object_of_the_librarys():
    distance = {"name": "LpDistance", "p": 1, "normalize_embeddings": False}
    head = LibraryLoss(4, 2, loss={"name": "triplet", "distance": distance}, miner=None)
    assert (head.criterion.distance.p, head.criterion.distance.normalize_embeddings) == (1, False)


def test_without_the_library_a_method_of_it_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pytorch_metric_learning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    told = "not installed: pip install pytorch-metric-learning"
    with pytest.raises(InputError, match=f"^methods.triplet: losses triplet: .* {told}$"):
        check("methods.triplet", loss={"name": "triplet"}, miner=None)
    trained(settings("bn"))  # which does not need it


def test_a_trained_model_embeds_without_the_library(tmp_path, monkeypatch):
    model, _ = trained(settings("proxy-anchor"))
    embedding_model.save(tmp_path / "model.safetensors", model)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    loaded = embedding_model.load(tmp_path / "model.safetensors", CPU)
    images, _ = digits()
    with torch.inference_mode():
        prepared = model.eval().prepare(images)
        assert torch.equal(loaded(images), raw_embeddings(model, prepared, "float32"))


def test_a_further_loss_is_a_key_and_the_method_of_the_docs(monkeypatch):
    readme = (ROOT / "docs/competitors.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(methods:\n  circle:.*?)```", readme, re.DOTALL)
    known = {name: entry.value for name, entry in config.read(ROOT).entries["methods"].items()}
    expanded, _ = expand(known | yaml.safe_load(block)["methods"])
    said = expanded["circle"].value
    said = TypeAdapter(method.Method).validate_python(said).model_dump()
    with pytest.raises(InputError, match="losses name: came 'circle'; allowed: "):
        check("methods.circle", loss=said["loss"], miner=None)
    monkeypatch.setitem(LOSSES, "circle", "CircleLoss")
    own = {key: value for key, value in said.items() if value is not None}
    base = {k: v for k, v in settings("bn").items() if k not in ("normalise", "bias", "alpha")}
    model, (first, last) = trained(base | own | {"lr": 0.01})
    assert (model.head.criterion.m, model.head.criterion.gamma) == (0.4, 80)
    assert last["loss"] < first["loss"]
