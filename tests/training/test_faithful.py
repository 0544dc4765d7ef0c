"""The paper's recipes, line by line: what trains on its data sets against the paper's table and the
authors' code (deep_metric_learning_Inception.py, metric_learning_lenet.py, layers.py)."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from heated import config
from heated.data.samplers import batches
from heated.models.embedding_model import Architecture, Model
from heated.training.loop import Progress
from heated.training.recipe import Recipe

PARAMS = config.load(Path(__file__).parents[2])
PHOTOGRAPHS = ("cub200", "cars196", "sop", "in-shop")
CLASSES = {"cub200": 100, "cars196": 98, "sop": 11318, "in-shop": 3997, "mnist": 10}
LR = {"cub200": 0.004, "cars196": 0.004, "sop": 0.01, "in-shop": 0.01, "mnist": 0.001}
EPOCHS = {**dict.fromkeys(PHOTOGRAPHS, 80), "mnist": 100}
HEATED = 19  # epochs, the last ones


def settings(dataset, method):
    return vars(Recipe.from_settings(PARAMS.settings(dataset, method)))


@cache
def begun(dataset, method):
    """A training before its first step, without ImageNet's weights."""
    given, packing = settings(dataset, method), PARAMS.datasets[dataset].packing
    shape = (packing.size, packing.size, 1 if packing.colour == "grey" else 3)
    torch.manual_seed(0)
    model = Model(Architecture.of(given, image_shape=shape, num_classes=CLASSES[dataset]))
    factors = {key: given[key] for key in ("bottleneck_lr_factor", "head_lr_factor")}
    return Progress.begin(model, given["optimiser"], **factors)


# --- epochs, alpha, learning rate ------------------------------------------------------------


@pytest.mark.parametrize("dataset", CLASSES)
def test_heated_methods_have_a_quarter_of_alpha_and_a_tenth_of_lr_in_the_last_19_epochs(dataset):
    epochs, lr = EPOCHS[dataset], LR[dataset]
    for method in ("sm", "ls", "ln", "bn"):
        given = settings(dataset, method)
        assert given["alphas"] == [1 if method in ("sm", "ls") else 16] * epochs
        assert given["lrs"] == [lr] * epochs
    for method in ("hln", "hbn"):
        given = settings(dataset, f"{method}-mnist" if dataset == "mnist" else method)
        assert given["alphas"] == [16] * (epochs - HEATED) + [16 * 0.25] * HEATED
        assert given["lrs"] == pytest.approx([lr] * (epochs - HEATED) + [lr * 0.1] * HEATED)


def test_mnists_methods_differ_in_the_moment_of_heating_only():
    for method in ("hln", "hbn"):
        here, there = (PARAMS.methods[name].model_dump() for name in (method, f"{method}-mnist"))
        for schedule in ("alpha", "lr_factor"):
            assert here[schedule].pop("at") == 0.7625
            assert there[schedule].pop("at") == 0.815
        assert here == there


def test_only_ls_smooths_labels_by_a_tenth():
    heated = {name: m for name, m in PARAMS.methods.items() if not hasattr(m, "loss")}
    smoothing = {name: method.label_smoothing for name, method in heated.items()}
    assert smoothing.pop("ls") == 0.1
    assert set(smoothing.values()) == {0}


# --- batches and images ----------------------------------------------------------------------


@pytest.mark.parametrize("dataset", CLASSES)
def test_a_batch_is_32_photographs_or_128_digits_and_the_last_partial_one_is_used(dataset):
    size = settings(dataset, "bn")["batch_size"]
    assert size == (128 if dataset == "mnist" else 32)
    assert [len(piece) for piece in batches(torch.arange(2 * size + 5), size)] == [size, size, 5]


@pytest.mark.parametrize("dataset", PHOTOGRAPHS)
def test_photographs_are_squashed_to_256_and_cropped_to_224_with_a_flip_of_half_of_them(dataset):
    packing, given = PARAMS.datasets[dataset].packing, settings(dataset, "bn")
    assert (packing.size, packing.fit, packing.filter) == (256, "squash", "lanczos")
    assert (packing.split.name, packing.validation, packing.damaged) == ("source", None, 0)
    assert given["augment"] == [
        {"name": "crop", "size": 224},
        {"name": "flip", "probability": 0.5},
    ]


@pytest.mark.parametrize("dataset", CLASSES)
def test_pixels_go_from_minus_1_to_1_and_digits_are_not_augmented(dataset):
    model = begun(dataset, "bn").model
    shape = model.architecture.image_shape
    for value, expected in ((0, -1), (255, 1)):
        prepared = model.prepare(torch.full((1, *shape), value, dtype=torch.uint8))
        assert prepared.unique().tolist() == [expected]
    assert settings("mnist", "bn")["augment"] == []


# --- optimiser -------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", CLASSES)
def test_every_parameter_learns_at_one_rate_without_weight_decay(dataset):
    """Birds and cars by SGD with momentum, products and digits by TensorFlow's Adam."""
    progress, given = begun(dataset, "bn"), settings(dataset, "bn")
    groups = progress.optimiser.param_groups
    held = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in progress.model.parameters()}
    assert all(parameter.requires_grad for parameter in held)
    assert given["bottleneck_lr_factor"] == given["head_lr_factor"] == 1
    assert {group["weight_decay"] for group in groups} == {0}
    if dataset in ("cub200", "cars196"):
        assert isinstance(progress.optimiser, torch.optim.SGD)
        for group in groups:
            assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.9, 0, False)
        return
    assert isinstance(progress.optimiser, torch.optim.Adam)
    assert progress.optimiser.epsilon_hat == (1e-8 if dataset == "mnist" else 0.01)
    for group in groups:
        assert (group["betas"], group["amsgrad"]) == ((0.9, 0.999), False)


# --- network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", PHOTOGRAPHS)
def test_photographs_go_through_googlenet_with_imagenets_weights_to_64_dimensions(dataset):
    model, given = begun(dataset, "bn").model, settings(dataset, "bn")
    assert type(model.network).__name__ == "GoogLeNet"
    assert (model.network.fc.in_features, model.network.fc.out_features) == (1024, 64)
    assert not any(isinstance(layer, nn.Dropout) and layer.p for layer in used(model.network))
    assert (given["weights"], given["precision"]) == ("imagenet", "float32")
    assert given["warm_up"] == ("batch_norm" if dataset[0] == "c" else "class_means")


def used(network):
    """The layers that images go through."""
    layers = []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: layers.append(layer))
        for layer in network.modules()
    ]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    return layers


@pytest.mark.parametrize("dataset", PHOTOGRAPHS)
def test_all_batch_norm_is_trained_with_the_authors_decay_and_epsilon(dataset):
    modules = begun(dataset, "bn").model.network.modules()
    layers = [layer for layer in modules if "BatchNorm" in repr(layer)[:20]]
    assert len(layers) == 57  # of GoogLeNet with batch norm after each convolution
    for layer in layers:
        assert type(layer) is nn.BatchNorm2d
        assert layer.momentum == pytest.approx(1 - 0.95)
        assert layer.eps == 1e-3
        assert layer.weight.requires_grad is layer.bias.requires_grad is True


def test_digits_go_through_lenet_to_2_dimensions_without_batch_norm_or_dropout():
    network, given = begun("mnist", "sm").model.network, settings("mnist", "sm")
    layers = [type(m).__name__ for m in network if list(m.parameters())]
    assert layers == ["Conv2d", "Conv2d", "Linear", "Linear"]
    shapes = [tuple(p.shape) for name, p in network.named_parameters() if "weight" in name]
    assert shapes == [(32, 1, 5, 5), (64, 32, 5, 5), (500, 64 * 7 * 7), (2, 500)]
    assert (given["weights"], given["warm_up"]) == ("none", "none")


# --- classifier ------------------------------------------------------------------------------


def test_the_bottlenecks_batch_norm_has_a_shift_and_no_scale():
    runs = [*((dataset, "bn") for dataset in PHOTOGRAPHS), ("cub200", "hbn")]
    for normalise in (begun(*each).model.normalization for each in runs):
        assert not normalise.standardise.affine
        assert (normalise.standardise.momentum, normalise.standardise.eps) == (0.05, 1e-3)
        assert normalise.shift.requires_grad
        assert normalise.shift.tolist() == [0] * 64


def test_there_is_a_bias_of_0_outside_alpha():
    for method in ("sm", "ls", "ln", "hln", "bn", "hbn"):
        head = begun("cub200", method).model.head
        assert head.bias.tolist() == [0] * 100
        assert head.bias.requires_grad
        assert not head.bias_inside


def test_the_bottleneck_and_the_classes_begin_with_the_authors_deviations():
    model = begun("sop", "bn").model
    assert model.network.fc.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    assert model.network.fc.bias.tolist() == [0] * 64
    classes = model.head.weight
    assert classes.std().item() == pytest.approx(math.sqrt(1 / 64), rel=0.02)
    # a normal distribution cut off at two deviations and widened to the variance asked for
    assert classes.abs().max().item() == pytest.approx(2 / 0.87962566 / 8, rel=0.01)


# --- evaluation ------------------------------------------------------------------------------


def test_the_papers_ranks_and_restarts_of_k_means():
    few, sop, in_shop = [1, 2, 4, 8], [1, 10, 100, 1000], [1, 10, 20, 30]
    ranks = {"cub200": few, "cars196": few, "sop": sop, "in-shop": in_shop, "mnist": few}
    for dataset, recall_at in ranks.items():
        evaluation = PARAMS.datasets[dataset].evaluation
        restarts = 1 if dataset in ("sop", "in-shop") else 10
        assert evaluation.recall_at == recall_at
        assert evaluation.kmeans.model_dump() == {"name": "scikit-learn", "restarts": restarts}
