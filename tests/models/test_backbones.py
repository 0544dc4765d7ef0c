from collections import Counter
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from networks import BATCH_NORM, LARGE, built
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from heated.common.errors import InputError
from heated.common.geometry import variance_scaling_
from heated.models.backbones import BACKBONES, bottleneck

OPTIONS = {"batch_norm": BATCH_NORM, "frozen_blocks": 0}
SMALL = ("lenet", "conv4")
FEATURES = {"googlenet": 1024, "resnet50": 2048, "mobilenet_v2": 1280}
BATCH_NORMS = {"googlenet": 57, "resnet50": 53, "mobilenet_v2": 52}


def weighted(network):
    """The layers with weights of their own, batch norm apart."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_images_become_embeddings_and_the_whole_network_learns():
    assert {*SMALL, *LARGE} == set(BACKBONES)
    shapes = [(1, 8, 8), (1, 28, 28), (3, 28, 28), (1, 9, 13)]
    for name, shape, dim in product(SMALL, shapes, [2, 64]):
        network = built(name, shape=shape, dim=dim)
        embeddings = network(torch.randn(8, *shape))
        assert embeddings.shape == (8, dim)
        assert dim == 2 or embeddings.min() < 0 < embeddings.max()  # no ReLU follows
        embeddings.square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    for name in LARGE:
        network = built(name)
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 64)
        assert not any(isinstance(layer, nn.Dropout) and layer.p for layer in network.modules())
        with pytest.raises(InputError, match="came images of 1 channels; allowed: 3"):
            BACKBONES[name]((1, 64, 64), 64, **OPTIONS)


# --- the layers ------------------------------------------------------------------------------


def test_lenet_has_the_papers_layers():
    block = ["Conv2d", "ReLU", "MaxPool2d"]
    for side, pooled in [(28, 7 * 7), (8, 2 * 2), (9, 3 * 3)]:
        network = built("lenet", shape=(1, side, side), dim=2)
        kinds = [type(layer).__name__ for layer in network]
        assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear"]
        shapes = [tuple(layer.weight.shape) for layer in weighted(network)]
        assert shapes == [(32, 1, 5, 5), (64, 32, 5, 5), (500, 64 * pooled), (2, 500)]


def test_lenet_pools_an_odd_side_with_its_last_row_as_tensorflows_same_does():
    network = built("lenet", shape=(1, 9, 9))
    sides = []
    batch = torch.randn(1, 1, 9, 9)
    for layer in network[:6]:
        batch = layer(batch)
        sides.append(batch.shape[2])
    assert sides == [9, 9, 5, 5, 5, 3]


def test_conv4_has_four_blocks_and_a_bottleneck():
    for side, inputs, pools in [(8, 32, 3), (28, 32, 4), (84, 32 * 25, 4), (2, 32, 1)]:
        network = built("conv4", shape=(3, side, side))
        shapes = [tuple(layer.weight.shape) for layer in weighted(network)]
        assert shapes == [(32, 3, 3, 3), *[(32, 32, 3, 3)] * 3, (64, inputs)]
        count = Counter(type(layer) for layer in network)
        assert (count[nn.BatchNorm2d], count[nn.ReLU], count[nn.MaxPool2d]) == (4, 4, pools)


# --- torchvision's -----------------------------------------------------------------------------


def test_a_bottleneck_stands_where_torchvision_has_its_classifier(subtests):
    for name in LARGE:
        without = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        with subtests.test(name=name), torch.device("meta"):
            theirs = torchvision.models.get_model(name, weights=None, **without).state_dict()
            network = BACKBONES[name]((3, 64, 64), 48, **OPTIONS)
            ours = network.state_dict()
            above = ("fc.", "classifier.")
            shapes = [
                {key: value.shape for key, value in each.items() if not key.startswith(above)}
                for each in (ours, theirs)
            ]
            assert shapes[0] == shapes[1]
            left = {key: tuple(value.shape) for key, value in ours.items() if key.startswith(above)}
            assert sorted(left.values()) == [(48,), (48, FEATURES[name])]
            last = network.get_submodule(bottleneck(network))
            assert (type(last), last.out_features) == (nn.Linear, 48)


def test_momentum_and_eps_reach_every_batch_norm():
    options = {"batch_norm": {"momentum": 0.2, "eps": 0.03, "frozen": False}, "frozen_blocks": 0}
    for name in LARGE:
        with torch.device("meta"):
            network = BACKBONES[name]((3, 64, 64), 64, **options)
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


def test_a_frozen_batch_norm_and_frozen_blocks_do_not_move_in_training_and_the_rest_does(subtests):
    for name in LARGE:
        with subtests.test(name=name):
            frozen, free = built(name, frozen=True), built(name, frozen_blocks=5)
            prefix = "features." if name == "mobilenet_v2" else ""
            blocks = free.features if prefix else free
            fixed = tuple(f"{prefix}{child}." for child, _ in [*blocks.named_children()][:5])
            normed = batch_norm(frozen).keys()
            assert batch_norm(free).keys() == normed
            layers = [m for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d)]
            assert len(layers) == BATCH_NORMS[name]
            assert {layer.eps for layer in layers} == {1e-3}
            for network in (frozen, free):
                before = deepcopy(network.state_dict())
                optimiser = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
                network.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
                optimiser.step()
                for key, value in network.state_dict().items():
                    still = key.startswith(fixed) if network is free else key in normed
                    assert torch.equal(value, before[key]) == still, key


def test_a_frozen_batch_norm_computes_what_another_does_at_test_time():
    frozen, free = built("mobilenet_v2", frozen=True), built("mobilenet_v2")
    generator = torch.Generator().manual_seed(1)
    for key, value in batch_norm(free).items():
        free.state_dict()[key].copy_(1 + 0.1 * torch.rand(value.shape, generator=generator))
    frozen.load_state_dict(free.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(images), free.eval()(images), rtol=1e-4, atol=0.1)


def test_there_are_only_so_many_blocks_to_freeze():
    with torch.device("meta"):
        BACKBONES["mobilenet_v2"]((3, 64, 64), 64, **OPTIONS | {"frozen_blocks": 19})
        with pytest.raises(InputError, match="frozen_blocks: came 20; allowed: 0 to 19"):
            BACKBONES["mobilenet_v2"]((3, 64, 64), 64, **OPTIONS | {"frozen_blocks": 20})


# --- the starting weights --------------------------------------------------------------------


def test_weights_start_with_variance_2_over_fan_in_cut_off_and_biases_at_0(subtests):
    for name in BACKBONES:
        with subtests.test(name=name):
            for layer in weighted(built(name)):
                weight = layer.weight.detach()
                expected = (2 / weight[0].numel()) ** 0.5
                rough = 4 / weight.numel() ** 0.5  # of few weights the deviation is known roughly
                assert weight.std().item() == pytest.approx(expected, rel=rough)
                assert abs(weight.mean().item()) < rough * expected
                assert weight.abs().max() < 2.3 * expected
                if layer.bias is not None:
                    assert not layer.bias.any()


def test_variance_scaling_has_its_variance_after_the_cut():
    for scale in (1, 2):
        torch.manual_seed(0)
        weight = variance_scaling_(torch.empty(2000, 5, 4, 5), scale=scale).double().numpy()
        assert weight.var() == pytest.approx(scale / 100, rel=0.01)
        cut = 2 * (scale / 100) ** 0.5 / 0.8796
        assert np.abs(weight).max() == pytest.approx(cut, rel=0.001)
        assert weight.mean() == pytest.approx(0, abs=0.001)


def test_the_seed_decides_the_weights():
    for name in (*SMALL, "mobilenet_v2"):
        torch.manual_seed(0)
        options = {"width": 32} if name == "conv4" else OPTIONS if name in LARGE else {}
        again = BACKBONES[name]((3, 64, 64), 64, **options)
        triples = zip(*map(weighted, (built(name), again, built(name, seed=1))), strict=True)
        for a, b, c in triples:
            assert torch.equal(a.weight, b.weight)
            assert not torch.equal(a.weight, c.weight)
