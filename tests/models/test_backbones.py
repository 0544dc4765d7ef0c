from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from heated.common.errors import InputError
from heated.common.initializers import variance_scaling_
from heated.models.backbones import BACKBONES, bottleneck

BATCH_NORM = {"batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": False}, "frozen_blocks": 0}
FROZEN = {"batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": True}, "frozen_blocks": 0}
SMALL, LARGE = ["lenet", "conv4"], ["googlenet", "resnet50", "mobilenet_v2"]
OPTIONS = {"lenet": {}, "conv4": {"width": 32}} | dict.fromkeys(LARGE, BATCH_NORM)
FEATURES = {"googlenet": 1024, "resnet50": 2048, "mobilenet_v2": 1280}
BATCH_NORMS = {"googlenet": 57, "resnet50": 53, "mobilenet_v2": 52}


def built(name, image_shape, embedding_dim=64, **options):
    torch.manual_seed(0)
    return BACKBONES[name](image_shape, embedding_dim, **(options or OPTIONS[name]))


def weighted(network):
    """The layers with weights of their own, batch norm apart."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_every_backbone_is_tested_here():
    assert set(OPTIONS) == set(BACKBONES)


def test_images_become_embeddings(subtests):
    for name, shape, embedding_dim in product(
        SMALL, [(1, 8, 8), (1, 28, 28), (3, 28, 28), (1, 9, 13)], [2, 64]
    ):
        with subtests.test(name=name, shape=shape, embedding_dim=embedding_dim):
            network = built(name, shape, embedding_dim)
            assert network(torch.randn(3, *shape)).shape == (3, embedding_dim)


@pytest.mark.parametrize("name", LARGE)
def test_images_become_embeddings_by_the_large_ones_too(name):
    network = built(name, (3, 64, 64))
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 64)
    assert not any(isinstance(layer, nn.Dropout) and layer.p for layer in network.modules())
    with pytest.raises(InputError, match="came images of 1 channels; allowed: 3"):
        built(name, (1, 64, 64))


@pytest.mark.parametrize("name", SMALL)
def test_an_embedding_has_both_signs_since_no_relu_follows_it(name):
    embeddings = built(name, (1, 8, 8))(torch.randn(8, 1, 8, 8))
    assert embeddings.min() < 0 < embeddings.max()


@pytest.mark.parametrize("name", SMALL)
def test_the_whole_network_learns(name):
    network = built(name, (1, 8, 8))
    network(torch.randn(4, 1, 8, 8)).square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


# --- the layers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "pooled"), [(28, 7 * 7), (8, 2 * 2), (9, 3 * 3)])
def test_lenet_has_the_papers_layers(side, pooled):
    shapes = [tuple(layer.weight.shape) for layer in weighted(built("lenet", (1, side, side), 2))]
    assert shapes == [(32, 1, 5, 5), (64, 32, 5, 5), (500, 64 * pooled), (2, 500)]


def test_lenet_is_convolutions_pools_and_relus_without_batch_norm_or_dropout():
    kinds = [type(layer).__name__ for layer in built("lenet", (1, 28, 28))]
    block = ["Conv2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear"]


def test_lenet_pools_an_odd_side_with_its_last_row_as_tensorflows_same_does():
    network = built("lenet", (1, 9, 9))
    sides = []
    batch = torch.randn(1, 1, 9, 9)
    for layer in network[:6]:
        batch = layer(batch)
        sides.append(batch.shape[2])
    assert sides == [9, 9, 5, 5, 5, 3]


def test_conv4_has_four_blocks_and_a_bottleneck(subtests):
    for side, inputs, pools in [(8, 32, 3), (28, 32, 4), (84, 32 * 25, 4), (2, 32, 1)]:
        with subtests.test(side=side, inputs=inputs, pools=pools):
            network = built("conv4", (3, side, side), 64)
            shapes = [tuple(layer.weight.shape) for layer in weighted(network)]
            assert shapes == [(32, 3, 3, 3), *[(32, 32, 3, 3)] * 3, (64, inputs)]
            assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network) == 4
            assert sum(isinstance(layer, nn.ReLU) for layer in network) == 4
            assert sum(isinstance(layer, nn.MaxPool2d) for layer in network) == pools


# --- torchvision's -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_a_bottleneck_stands_where_torchvision_has_its_classifier(name):
    without = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    theirs = getattr(torchvision.models, name)(weights=None, **without).state_dict()
    network = built(name, (3, 64, 64), 48)
    ours = network.state_dict()
    above = ("fc.", "classifier.")
    shapes = [
        {key: value.shape for key, value in each.items() if not key.startswith(above)}
        for each in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    left = {key: tuple(value.shape) for key, value in ours.items() if key.startswith(above)}
    assert sorted(left.values()) == [(48,), (48, FEATURES[name])]


@pytest.mark.parametrize("name", LARGE)
def test_momentum_and_eps_reach_every_batch_norm(name):
    options = {"batch_norm": {"momentum": 0.2, "eps": 0.03, "frozen": False}, "frozen_blocks": 0}
    network = built(name, (3, 64, 64), **options)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.momentum, layer.eps) for layer in layers} == {(0.2, 0.03)}
    assert len(layers) == BATCH_NORMS[name]


def batch_norm(network):
    """Statistics, scales and shifts of every batch norm, by name."""
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d)
    return {
        f"{name}.{key}": value.clone()
        for name, layer in network.named_modules()
        if isinstance(layer, kinds)
        for key, value in layer.state_dict().items()
        if key != "num_batches_tracked"
    }


def moved(network):
    """What of the batch norms is not as it was after a step of training."""
    before = batch_norm(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimiser.step()
    return {
        key for key, value in batch_norm(network).items() if not torch.equal(value, before[key])
    }


@pytest.mark.parametrize("name", LARGE)
def test_a_frozen_batch_norm_does_not_move_in_training_and_another_does(name):
    frozen, free = built(name, (3, 64, 64), **FROZEN), built(name, (3, 64, 64))
    assert moved(free) == set(batch_norm(free)) == set(batch_norm(frozen))
    assert moved(frozen) == set()
    frozen_layers = [m for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen_layers) == BATCH_NORMS[name]
    assert {layer.eps for layer in frozen_layers} == {1e-3}


def test_a_frozen_batch_norm_computes_what_another_does_at_test_time():
    frozen, free = built("resnet50", (3, 64, 64), **FROZEN), built("resnet50", (3, 64, 64))
    generator = torch.Generator().manual_seed(1)
    for key, value in batch_norm(free).items():
        free.state_dict()[key].copy_(1 + 0.1 * torch.rand(value.shape, generator=generator))
    frozen.load_state_dict(free.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(images), free.eval()(images), rtol=1e-4, atol=0.1)


@pytest.mark.parametrize("name", LARGE)
def test_so_many_blocks_stay_as_they_are_in_training_and_the_others_learn(name):
    network = built(name, (3, 64, 64), **BATCH_NORM | {"frozen_blocks": 5})
    blocks = network.features if name == "mobilenet_v2" else network
    prefix = "features." if name == "mobilenet_v2" else ""
    still = tuple(f"{prefix}{child}." for child, _ in [*blocks.named_children()][:5])
    before = deepcopy(network.state_dict())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimiser.step()
    assert set(before) == set(network.state_dict())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(still), key


def test_there_are_only_so_many_blocks_to_freeze():
    built("mobilenet_v2", (3, 64, 64), **BATCH_NORM | {"frozen_blocks": 19})
    with pytest.raises(InputError, match="frozen_blocks: came 20; allowed: 0 to 19"):
        built("mobilenet_v2", (3, 64, 64), **BATCH_NORM | {"frozen_blocks": 20})


def test_the_bottleneck_is_the_last_layer(subtests):
    for name in BACKBONES:
        with subtests.test(name=name):
            network = built(name, (3, 64, 64), 48)
            layer = network.get_submodule(bottleneck(network))
            assert (type(layer), layer.out_features) == (nn.Linear, 48)


# --- the starting weights --------------------------------------------------------------------


def test_weights_start_with_variance_2_over_fan_in_cut_off_and_biases_at_0(subtests):
    for name in BACKBONES:
        with subtests.test(name=name):
            for layer in weighted(built(name, (3, 28, 28), 64)):
                weight = layer.weight.detach()
                expected = (2 / weight[0].numel()) ** 0.5
                rough = 4 / weight.numel() ** 0.5  # of few weights the deviation is known roughly
                assert weight.std().item() == pytest.approx(expected, rel=rough)
                assert abs(weight.mean().item()) < rough * expected
                assert weight.abs().max() < 2.3 * expected
                if layer.bias is not None:
                    assert not layer.bias.any()


@pytest.mark.parametrize("scale", [1, 2])
def test_variance_scaling_has_its_variance_after_the_cut(scale):
    torch.manual_seed(0)
    weight = variance_scaling_(torch.empty(2000, 5, 4, 5), scale=scale).double().numpy()
    assert weight.var() == pytest.approx(scale / 100, rel=0.01)
    cut = 2 * (scale / 100) ** 0.5 / 0.8796
    assert np.abs(weight).max() == pytest.approx(cut, rel=0.001)
    assert weight.mean() == pytest.approx(0, abs=0.001)


def test_the_seed_decides_the_weights(subtests):
    for name in BACKBONES:
        with subtests.test(name=name):
            first, again = built(name, (3, 8, 8)), built(name, (3, 8, 8))
            torch.manual_seed(1)
            other = BACKBONES[name]((3, 8, 8), 64, **OPTIONS[name])
            triples = zip(weighted(first), weighted(again), weighted(other), strict=True)
            for a, b, c in triples:
                assert torch.equal(a.weight, b.weight)
                assert not torch.equal(a.weight, c.weight)
