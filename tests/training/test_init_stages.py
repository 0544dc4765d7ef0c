from copy import deepcopy
from itertools import product

import numpy as np
import torch
from recipes import make_recipe
from torch import nn

from heated.data.packed_dataset import InMemoryImages
from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.training.initialization import INITIALIZERS

NORMALIZATIONS = {
    "none": {"name": "none"},
    "l2": {"name": "l2"},
    "batch": {"name": "batch", "momentum": 0.3, "eps": 1e-3},
}
LABELS = np.array([0, 1, 2, 2, 1, 2, 0, 2, 2, 1, 2, 2, 2])


def make_model(normalization="batch"):
    """A model with augmentation, one batch norm and one linear layer, simple to compute by hand."""
    torch.manual_seed(0)
    recipe = make_recipe(
        embedding_dim=5,
        normalize=NORMALIZATIONS[normalization],
        augment=[{"name": "crop", "size": 4}, {"name": "flip", "p": 1.0}],
        pixel_mean=[0.5, 0.25],
    )
    model = ModelWithLoss(Architecture.of(vars(recipe), image_shape=(8, 8, 2), num_classes=3))
    model.network = nn.Sequential(nn.BatchNorm2d(2, eps=0.01), nn.Flatten(1), nn.Linear(32, 5))
    return model


def make_images():
    images = np.random.default_rng(3).integers(256, size=(13, 8, 8, 2), dtype=np.uint8)
    return torch.from_numpy(images)


def initialized(name, model, precision="float32"):
    options = {"batch_size": 4, "precision": precision}
    INITIALIZERS[name](model, InMemoryImages(make_images()), torch.from_numpy(LABELS), **options)
    return model


def center_crops():
    """The images' central crops in float64, not mirrored: (13, 2, 4, 4)."""
    pixels = make_images().numpy()[:, 2:6, 2:6].astype(np.float64) / 255
    return ((pixels - [0.5, 0.25]) / 0.5).transpose(0, 3, 1, 2)


def embed_by_hand(model, pixels, mean, variance):
    standard = (pixels - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 0.01)
    weight, bias = (value.detach().double().numpy() for value in model.network[2].parameters())
    return standard.reshape(len(pixels), -1) @ weight.T + bias


def running_statistics(batches, momentum, dims):
    mean, variance = np.zeros(batches[0].shape[1]), np.ones(batches[0].shape[1])
    for batch in batches:
        mean = (1 - momentum) * mean + momentum * batch.mean(axis=dims)
        variance = (1 - momentum) * variance + momentum * batch.var(axis=dims, ddof=1)
    return mean, variance


def statistics_by_hand(model):
    """The running statistics of the network's batch norm and of the normalization's.

    The batches are 0 to 3, 4 to 7 and 8 to 12: the single remaining image joins the last.
    """
    batches, dims = np.split(center_crops(), [4, 8]), (0, 2, 3)
    embedded = [embed_by_hand(model, b, b.mean(axis=dims), b.var(axis=dims)) for b in batches]
    return running_statistics(batches, 0.1, dims), running_statistics(embedded, 0.3, 0)


def class_means_by_hand(model, normalization):
    """The normalized means of the embeddings at test time, with the authors' 1e-4."""
    inner, outer = statistics_by_hand(model)
    rows = embed_by_hand(model, center_crops(), *inner)
    if normalization == "batch":
        rows = (rows - outer[0]) / np.sqrt(outer[1] + 1e-3) / np.sqrt(5)
    means = np.stack([rows[label == LABELS].mean(axis=0) for label in range(3)])
    return means / np.sqrt((means**2).sum(axis=1, keepdims=True) + 1e-4)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def changed_keys(model, before):
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_only_statistics_and_classifier_change_and_no_random_number_is_drawn(subtests):
    inner, outer = (
        {f"{layer}.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}
        for layer in ("network.0", "normalization.standardize")
    )
    for name, normalization in product(INITIALIZERS, NORMALIZATIONS):
        with subtests.test(name=name, normalization=normalization):
            model, state = make_model(normalization), torch.get_rng_state()
            before = deepcopy(model.state_dict())
            expected = inner | (outer if normalization == "batch" else set())
            expected |= {"head.weight"} if name == "class_means" else set()
            changed = changed_keys(initialized(name, model), before)
            assert changed == (expected if name != "none" else set())
            assert all(parameter.grad is None for parameter in model.parameters())
            assert torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(5)
            other = initialized(name, make_model(normalization))
            assert not changed_keys(other, model.state_dict())


def test_statistics_are_those_of_one_pass_in_order_over_center_crops():
    for name in ("batch_norm", "class_means"):
        model = initialized(name, make_model())
        layers = (model.network[0], model.normalization.standardize)
        for layer, (mean, var) in zip(layers, statistics_by_hand(make_model()), strict=True):
            assert_close(layer.running_mean, mean)
            assert_close(layer.running_var, var)
            assert layer.num_batches_tracked == 3


def test_classifier_weights_are_the_normalized_class_means():
    for normalization in NORMALIZATIONS:
        model = initialized("class_means", make_model(normalization))
        expected = class_means_by_hand(make_model(normalization), normalization)
        assert_close(model.head.weight, expected)


def test_the_network_computes_in_the_precision():
    seen, model = [], make_model()
    model.network[2].register_forward_hook(lambda *arguments: seen.append(arguments[-1].dtype))
    initialized("batch_norm", model, precision="bfloat16")
    assert set(seen) == {torch.bfloat16}
