from collections import Counter
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from networks import BATCH_NORM, LARGE, make_network
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from heated.common.errors import InputError
from heated.common.geometry import variance_scaling_
from heated.models.backbones import BACKBONES, bottleneck_name

OPTIONS = {"batch_norm": BATCH_NORM, "frozen_blocks": 0}
SMALL = ("lenet", "conv4")
FEATURES = {"googlenet": 1024, "resnet50": 2048, "mobilenet_v2": 1280}
BATCH_NORMS = {"googlenet": 57, "resnet50": 53, "mobilenet_v2": 52}


def weight_layers(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def weight_shapes(network):
    return [tuple(layer.weight.shape) for layer in weight_layers(network)]


def test_images_become_embeddings_and_the_whole_network_learns():
    assert {*SMALL, *LARGE} == set(BACKBONES)
    shapes = [(1, 8, 8), (1, 28, 28), (3, 28, 28), (1, 9, 13)]
    for name, shape, dim in product(SMALL, shapes, [2, 64]):
        network = make_network(name, shape=shape, dim=dim)
        embeddings = network(torch.randn(8, *shape))
        assert embeddings.shape == (8, dim)
        assert dim == 2 or embeddings.min() < 0 < embeddings.max()  # no ReLU at the end
        embeddings.square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    for name in LARGE:
        network = make_network(name)
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 64)
        assert not any(isinstance(layer, nn.Dropout) and layer.p for layer in network.modules())
        with pytest.raises(InputError, match=f"{name}: got images of 1 channels, expected 3"):
            BACKBONES[name]((1, 64, 64), 64, **OPTIONS)
        with torch.device("meta"), pytest.raises(InputError, match=r"got 99, expected 0 to \d+"):
            BACKBONES[name]((3, 64, 64), 64, **OPTIONS | {"frozen_blocks": 99})


def test_lenet_has_the_papers_layers_and_conv4_four_blocks_and_a_bottleneck():
    block = ["Conv2d", "ReLU", "MaxPool2d"]
    for side, pooled in [(28, 7 * 7), (8, 2 * 2), (9, 3 * 3)]:
        network = make_network("lenet", shape=(1, side, side), dim=2)
        kinds = [type(layer).__name__ for layer in network]
        assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear"]
        shapes = [(32, 1, 5, 5), (64, 32, 5, 5), (500, 64 * pooled), (2, 500)]
        assert weight_shapes(network) == shapes
    for side, inputs, pools in [(8, 32, 3), (28, 32, 4), (84, 32 * 25, 4), (2, 32, 1)]:
        network = make_network("conv4", shape=(3, side, side))
        shapes = [(32, 3, 3, 3), *[(32, 32, 3, 3)] * 3, (64, inputs)]
        assert weight_shapes(network) == shapes
        count = Counter(type(layer) for layer in network)
        assert (count[nn.BatchNorm2d], count[nn.ReLU], count[nn.MaxPool2d]) == (4, 4, pools)


def test_a_bottleneck_replaces_torchvisions_classifier_and_options_reach_every_batch_norm(subtests):
    options = {"batch_norm": {"momentum": 0.2, "eps": 0.03, "frozen": False}, "frozen_blocks": 0}
    for name in LARGE:
        disabled = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        with subtests.test(name=name), torch.device("meta"):
            theirs = torchvision.models.get_model(name, weights=None, **disabled).state_dict()
            network = BACKBONES[name]((3, 64, 64), 48, **options)
            layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
            assert {(layer.momentum, layer.eps) for layer in layers} == {(0.2, 0.03)}
            assert len(layers) == BATCH_NORMS[name]
            ours, classifier = network.state_dict(), ("fc.", "classifier.")
            shapes = [
                {k: value.shape for k, value in state.items() if not k.startswith(classifier)}
                for state in (ours, theirs)
            ]
            assert shapes[0] == shapes[1]
            left = [tuple(ours[key].shape) for key in ours if key.startswith(classifier)]
            assert sorted(left) == [(48,), (48, FEATURES[name])]
            last = network.get_submodule(bottleneck_name(network))
            assert (type(last), last.out_features) == (nn.Linear, 48)


def batch_norm_keys(network):
    """Return the names of statistics, scale and shift of every batch norm."""
    return {
        f"{name}.{key}"
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d)
        for key in layer.state_dict()
        if key != "num_batches_tracked"
    }


def test_only_frozen_batch_norms_and_frozen_blocks_stay_the_same_in_training(subtests):
    for name in LARGE:
        with subtests.test(name=name):
            frozen, free = make_network(name, frozen=True), make_network(name, frozen_blocks=5)
            prefix = "features." if name == "mobilenet_v2" else ""
            blocks = free.features if prefix else free
            fixed = tuple(f"{prefix}{child}." for child, _ in [*blocks.named_children()][:5])
            normed = batch_norm_keys(frozen)
            assert batch_norm_keys(free) == normed
            layers = [m for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d)]
            assert len(layers) == BATCH_NORMS[name]
            assert {layer.eps for layer in layers} == {1e-3}
            for network in (frozen, free):
                before = deepcopy(network.state_dict())
                optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
                network.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
                optimizer.step()
                for key, value in network.state_dict().items():
                    is_frozen = key.startswith(fixed) if network is free else key in normed
                    assert torch.equal(value, before[key]) == is_frozen, key


def test_without_scale_batch_norms_keep_the_weights_files_scale_and_learn_their_shift():
    network = make_network("mobilenet_v2", scale=False)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        nn.init.uniform_(layer.weight, 0.5, 2)  # as pretrained weights may have
    before = [(layer.weight.clone(), layer.bias.clone()) for layer in layers]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    for layer, (scale, shift) in zip(layers, before, strict=True):
        assert torch.equal(layer.weight, scale)
        assert not torch.equal(layer.bias, shift)


def test_a_frozen_batch_norm_computes_what_a_free_one_does_in_eval_mode():
    frozen, free = make_network("mobilenet_v2", frozen=True), make_network("mobilenet_v2")
    generator = torch.Generator().manual_seed(1)
    for key in sorted(batch_norm_keys(free)):
        value = free.state_dict()[key]
        value.copy_(1 + 0.1 * torch.rand(value.shape, generator=generator))
    frozen.load_state_dict(free.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(images), free.eval()(images), rtol=1e-4, atol=0.1)


def test_weights_start_with_variance_2_over_fan_in_truncated_and_biases_at_0():
    for name in BACKBONES:
        for layer in weight_layers(make_network(name)):
            weight = layer.weight.detach()
            expected, tolerance = (2 / weight[0].numel()) ** 0.5, 4 / weight.numel() ** 0.5
            assert weight.std().item() == pytest.approx(expected, rel=tolerance), name
            assert abs(weight.mean().item()) < tolerance * expected, name
            assert weight.abs().max() < 2.3 * expected, name
            assert layer.bias is None or not layer.bias.any(), name


def test_variance_scaling_has_its_variance_after_truncation():
    for scale in (1, 2):
        torch.manual_seed(0)
        weight = variance_scaling_(torch.empty(2000, 5, 4, 5), scale=scale).double().numpy()
        assert weight.var() == pytest.approx(scale / 100, rel=0.01)
        limit = 2 * (scale / 100) ** 0.5 / 0.8796
        assert np.abs(weight).max() == pytest.approx(limit, rel=0.001)
        assert weight.mean() == pytest.approx(0, abs=0.001)
