"""The recipes of params.yaml against the paper's table and the authors' code.

Their files: deep_metric_learning_Inception.py, metric_learning_lenet.py, layers.py.
"""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from heated import config
from heated.data.samplers import split_batches
from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.training.recipe import Recipe
from heated.training.train_state import TrainState

PARAMS = config.load_params(Path(__file__).parents[2])
PHOTOGRAPHS = ("cub200", "cars196", "sop", "in-shop")
CLASSES = {"cub200": 100, "cars196": 98, "sop": 11318, "in-shop": 3997, "mnist": 10}
LR = {"cub200": 0.004, "cars196": 0.004, "sop": 0.01, "in-shop": 0.004, "mnist": 0.001}
EPOCHS = {**dict.fromkeys(PHOTOGRAPHS, 80), "mnist": 100}
HEATED = 19  # the number of heated epochs, which are the last ones


def make_recipe(dataset, method):
    return Recipe.from_settings(PARAMS.settings(dataset, method))


@cache
def initial_state(dataset, method):
    """A training before its first step, without ImageNet's weights."""
    recipe, packing = make_recipe(dataset, method), PARAMS.datasets[dataset].packing
    shape = (packing.size, packing.size, 1 if dataset == "mnist" else 3)
    torch.manual_seed(0)
    architecture = Architecture.of(vars(recipe), image_shape=shape, num_classes=CLASSES[dataset])
    return TrainState.create(ModelWithLoss(architecture), recipe, seed=0)


@pytest.mark.parametrize("dataset", CLASSES)
def test_heating_is_a_quarter_of_alpha_and_a_tenth_of_lr_in_the_last_19_epochs(dataset):
    epochs, lr = EPOCHS[dataset], LR[dataset]
    for method in ("sm", "ls", "ln", "bn"):
        recipe = make_recipe(dataset, method)
        assert recipe.alphas == [1 if method in ("sm", "ls") else 16] * epochs
        assert recipe.lrs == [lr] * epochs
    for method in ("hln", "hbn"):
        recipe = make_recipe(dataset, f"{method}-mnist" if dataset == "mnist" else method)
        assert recipe.alphas == [16] * (epochs - HEATED) + [16 * 0.25] * HEATED
        assert recipe.lrs == pytest.approx([lr] * (epochs - HEATED) + [lr * 0.1] * HEATED)


def test_mnists_methods_differ_only_in_when_heating_starts():
    for method in ("hln", "hbn"):
        plain, mnist = (PARAMS.methods[name].model_dump() for name in (method, f"{method}-mnist"))
        for schedule in ("alpha", "lr_schedule"):
            assert plain[schedule].pop("at") == 0.7625
            assert mnist[schedule].pop("at") == 0.815
        assert plain == mnist


def test_only_ls_smooths_labels_by_a_tenth():
    smoothing = {n: getattr(m, "label_smoothing", 0) for n, m in PARAMS.methods.items()}
    assert {name: value for name, value in smoothing.items() if value} == {"ls": 0.1}


@pytest.mark.parametrize("dataset", CLASSES)
def test_batches_and_images_are_the_authors(dataset):
    """Photographs: squashed to 256, cropped to 224, half of them mirrored. Pixels: in [-1, 1]."""
    recipe, packing = make_recipe(dataset, "bn"), PARAMS.datasets[dataset].packing
    size = 128 if dataset == "mnist" else 32
    assert recipe.batch_size == size
    pieces = split_batches(torch.arange(2 * size + 5), size)
    assert [len(piece) for piece in pieces] == [size, size, 5]
    model = initial_state(dataset, "bn").model
    for value, expected in ((0, -1), (255, 1)):
        images = torch.full((1, *model.architecture.image_shape), value, dtype=torch.uint8)
        assert model.prepare(images).unique().tolist() == [expected]
    if dataset == "mnist":
        assert recipe.augment == []
        return
    assert (packing.size, packing.fit, packing.filter) == (256, "squash", "lanczos")
    assert (packing.split.name, packing.validation) == ("source", None)
    assert packing.max_damaged_images == 0
    assert recipe.augment == [{"name": "crop", "size": 224}, {"name": "flip", "p": 0.5}]


@pytest.mark.parametrize("dataset", CLASSES)
def test_every_parameter_has_one_learning_rate_without_weight_decay(dataset):
    """CUB, Cars and In-Shop: SGD with momentum; products and digits: TensorFlow's Adam."""
    state, recipe = initial_state(dataset, "bn"), make_recipe(dataset, "bn")
    groups = state.optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in trained}
    fixed = len([*state.model.parameters()]) - len(trained)
    assert fixed == (0 if dataset == "mnist" else 57)  # the scales of GoogLeNet's batch norms
    assert recipe.bottleneck_lr_mult == recipe.classifier_lr_mult == 1
    assert {group["weight_decay"] for group in groups} == {0}
    if dataset in ("cub200", "cars196", "in-shop"):
        assert isinstance(state.optimizer, torch.optim.SGD)
        expected = {"momentum": 0.9, "dampening": 0, "nesterov": False}
    else:
        assert isinstance(state.optimizer, torch.optim.Adam)
        assert state.optimizer.epsilon_hat == (1e-8 if dataset == "mnist" else 0.01)
        expected = {"betas": (0.9, 0.999), "amsgrad": False}
    for group in groups:
        assert expected.items() <= group.items()


def test_in_shop_is_trained_as_cars196_and_measured_at_its_own_ranks():
    """The paper's section 4.1: SGD for Car196, CUB200 and Fashion, and Adam for Products only."""
    for method in ("sm", "ls", "ln", "hln", "bn", "hbn"):
        recipe = make_recipe("in-shop", method)
        assert recipe == make_recipe("cars196", method) == make_recipe("cub200", method)
        assert recipe.optimizer == {"name": "sgd", "momentum": 0.9, "weight_decay": 0}
        assert (recipe.lrs[0], recipe.init) == (0.004, "batch_norm")
        assert recipe != make_recipe("sop", method)
    assert PARAMS.datasets["in-shop"].evaluation.recall_at == [1, 10, 20, 30]
    assert {*PARAMS.datasets["cars196"].evaluation.recall_at} >= {1, 2, 4}
    assert {*PARAMS.datasets["sop"].evaluation.recall_at} >= {1, 10, 100}


def used_layers(network):
    """The layers that images pass through."""
    layers, hook = [], nn.modules.module.register_module_forward_hook
    with torch.no_grad(), hook(lambda layer, *_: layers.append(layer)):
        network.eval()(torch.zeros(1, 3, 224, 224))
    return layers


@pytest.mark.parametrize("dataset", PHOTOGRAPHS)
def test_photographs_use_googlenet_with_imagenets_weights_and_batch_norm_without_scale(dataset):
    network, recipe = initial_state(dataset, "bn").model.network, make_recipe(dataset, "bn")
    assert type(network).__name__ == "GoogLeNet"
    assert (network.fc.in_features, network.fc.out_features) == (1024, 64)
    assert not any(isinstance(layer, nn.Dropout) and layer.p for layer in used_layers(network))
    assert (recipe.weights, recipe.precision) == ("imagenet", "float32")
    assert recipe.init == ("class_means" if dataset == "sop" else "batch_norm")
    layers = [layer for layer in network.modules() if "BatchNorm" in repr(layer)[:20]]
    assert len(layers) == 57  # of GoogLeNet with batch norm after each convolution
    for layer in layers:
        assert type(layer) is nn.BatchNorm2d
        assert layer.momentum == pytest.approx(1 - 0.95)
        assert layer.eps == 1e-3
        assert layer.bias.requires_grad is True
        assert layer.weight.requires_grad is False  # slim's default: no scale
        assert (layer.weight == 1).all()


def test_digits_use_lenet_with_2_dimensions_without_batch_norm_or_dropout():
    network, recipe = initial_state("mnist", "sm").model.network, make_recipe("mnist", "sm")
    layers = [type(m).__name__ for m in network if list(m.parameters())]
    assert layers == ["Conv2d", "Conv2d", "Linear", "Linear"]
    shapes = [tuple(p.shape) for name, p in network.named_parameters() if "weight" in name]
    assert shapes == [(32, 1, 5, 5), (64, 32, 5, 5), (500, 64 * 7 * 7), (2, 500)]
    assert (recipe.weights, recipe.init) == ("none", "none")


def test_the_normalizations_batch_norm_has_a_shift_and_no_scale():
    runs = [*((dataset, "bn") for dataset in PHOTOGRAPHS), ("cub200", "hbn")]
    for normalization in (initial_state(*each).model.normalization for each in runs):
        assert not normalization.standardize.affine
        assert (normalization.standardize.momentum, normalization.standardize.eps) == (0.05, 1e-3)
        assert normalization.shift.requires_grad is True
        assert normalization.shift.tolist() == [0] * 64


def test_the_classifiers_bias_starts_at_0_and_is_not_multiplied_by_alpha():
    for method in ("sm", "ls", "ln", "hln", "bn", "hbn"):
        head = initial_state("cub200", method).model.head
        assert head.bias.tolist() == [0] * 100
        assert head.bias.requires_grad
        assert not head.bias_inside


def test_bottleneck_and_class_weights_start_with_the_authors_deviations():
    model = initial_state("sop", "bn").model
    assert model.network.fc.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    assert model.network.fc.bias.tolist() == [0] * 64
    classes = model.head.weight
    assert classes.std().item() == pytest.approx(math.sqrt(1 / 64), rel=0.02)
    # a normal distribution truncated at two deviations and scaled to the given variance
    assert classes.abs().max().item() == pytest.approx(2 / 0.87962566 / 8, rel=0.01)


def test_evaluation_uses_the_papers_ranks_and_restarts_of_k_means():
    few, sop, in_shop = [1, 2, 4, 8], [1, 10, 100, 1000], [1, 10, 20, 30]
    ranks = {"cub200": few, "cars196": few, "sop": sop, "in-shop": in_shop, "mnist": few}
    for dataset, recall_at in ranks.items():
        evaluation = PARAMS.datasets[dataset].evaluation
        restarts = 1 if dataset == "sop" else 10
        assert evaluation.recall_at == recall_at
        assert evaluation.kmeans.model_dump() == {"name": "scikit-learn", "restarts": restarts}
