from copy import deepcopy
from itertools import product

import numpy as np
import torch
from torch import nn

from heated.data.batches import Held, Mapped
from heated.models.embedding_model import Architecture, Model
from heated.training.init_stages import WARM_UPS

NORMALISATIONS = {
    "none": {"name": "none"},
    "l2": {"name": "l2"},
    "batch": {"name": "batch", "momentum": 0.3, "eps": 1e-3},
}
LABELS = np.array([0, 1, 2, 2, 1, 2, 0, 2, 2, 1, 2, 2, 2])
OPTIONS = {"batch_size": 4, "precision": "float32"}


def built(normalise="batch"):
    """A model that augments, with one batch norm and one linear layer, to be followed by hand."""
    torch.manual_seed(0)
    architecture = Architecture(
        image_shape=(8, 8, 2),
        num_classes=3,
        embedding_dim=5,
        backbone={"name": "conv4", "width": 3},
        normalise=NORMALISATIONS[normalise],
        bias="outside",
        label_smoothing=0.0,
        augment=[{"name": "crop", "size": 4}, {"name": "flip", "probability": 1.0}],
        pixel_mean=[0.5, 0.25],
        pixel_std=0.5,
    )
    model = Model(architecture)
    model.network = nn.Sequential(nn.BatchNorm2d(2, eps=0.01), nn.Flatten(1), nn.Linear(32, 5))
    return model


def images():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (13, 8, 8, 2), generator=generator, dtype=torch.uint8)


def warmed(name, model, source=None, **changes):
    source = Held(images()) if source is None else source
    WARM_UPS[name](model, source, torch.from_numpy(LABELS), **(OPTIONS | changes))
    return model


# --- the same by hand, in float64 ------------------------------------------------------------


def centres():
    """The images' central crops, not mirrored: (13, 2, 4, 4)."""
    pixels = images().numpy()[:, 2:6, 2:6].astype(np.float64) / 255
    return ((pixels - [0.5, 0.25]) / 0.5).transpose(0, 3, 1, 2)


def linear(model, pixels, mean, variance):
    standard = (pixels - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 0.01)
    weight, bias = (value.detach().double().numpy() for value in model.network[2].parameters())
    return standard.reshape(len(pixels), -1) @ weight.T + bias


def moving(batches, momentum, dims):
    """Running mean and variance after the batches."""
    mean, variance = np.zeros(batches[0].shape[1]), np.ones(batches[0].shape[1])
    for batch in batches:
        mean = (1 - momentum) * mean + momentum * batch.mean(axis=dims)
        variance = (1 - momentum) * variance + momentum * batch.var(axis=dims, ddof=1)
    return mean, variance


def settled(model):
    """The running statistics of the network's batch norm and of the head's. The batches are 0 to
    3, 4 to 7 and 8 to 12: the one left over joins."""
    batches = np.split(centres(), [4, 8])
    embedded = [linear(model, b, b.mean(axis=(0, 2, 3)), b.var(axis=(0, 2, 3))) for b in batches]
    return moving(batches, 0.1, (0, 2, 3)), moving(embedded, 0.3, 0)


def means_by_hand(model, normalise):
    """L2-normalised means of the embeddings at test time, with the authors' 1e-4."""
    inner, outer = settled(model)
    rows = linear(model, centres(), *inner)
    if normalise == "batch":
        rows = (rows - outer[0]) / np.sqrt(outer[1] + 1e-3) / np.sqrt(5)
    means = np.stack([rows[label == LABELS].mean(axis=0) for label in range(3)])
    return means / np.sqrt((means**2).sum(axis=1, keepdims=True) + 1e-4)


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


# --- what moves and what does not ------------------------------------------------------------


def changed(model, before):
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def running(layer):
    return {f"{layer}.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}


INNER, OUTER = running("network.0"), running("normalization.standardise")


def test_a_warm_up_changes_statistics_and_classifier_only_and_draws_nothing(subtests):
    for name, normalise in product(WARM_UPS, NORMALISATIONS):
        with subtests.test(name=name, normalise=normalise):
            model, state = built(normalise), torch.get_rng_state()
            before = deepcopy(model.state_dict())
            expected = INNER | (OUTER if normalise == "batch" else set())
            expected |= {"head.weight"} if name == "class_means" else set()
            assert changed(warmed(name, model), before) == (expected if name != "none" else set())
            assert all(parameter.grad is None for parameter in model.parameters())
            assert torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(5)
            assert changed(warmed(name, built(normalise)), model.state_dict()) == set()


def test_statistics_are_those_of_one_pass_in_order_over_centre_crops():
    for name in ("batch_norm", "class_means"):
        model = warmed(name, built())
        layers = (model.network[0], model.normalization.standardise)
        for layer, (mean, variance) in zip(layers, settled(built()), strict=True):
            close(layer.running_mean, mean)
            close(layer.running_var, variance)
            assert layer.num_batches_tracked == 3


def test_the_classifier_begins_at_the_unit_means_of_its_classes():
    for normalise in NORMALISATIONS:
        model = warmed("class_means", built(normalise))
        close(model.head.weight, means_by_hand(built(normalise), normalise))


def test_every_image_is_then_nearer_to_its_class_than_by_chance():
    torch.manual_seed(1)
    patterns = torch.randint(256, (3, 8, 8, 2))
    noisy = patterns[LABELS] * 0.8 + torch.randint(50, (13, 8, 8, 2))
    model = warmed("class_means", built(), Held(noisy.to(torch.uint8)))
    raw = model.eval().network(model.prepare(noisy.to(torch.uint8)))
    found = model.head.logits(model.normalization(raw))
    assert torch.equal(found.argmax(dim=1), torch.from_numpy(LABELS))


def test_a_memory_map_warms_up_as_what_is_held(tmp_path):
    everything = np.zeros((26, 8, 8, 2), dtype=np.uint8)
    everything[1::2] = images().numpy()
    np.save(tmp_path / "images.npy", everything)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    source = Mapped(mapped, np.arange(1, 26, 2), torch.device("cpu"))
    expected = warmed("class_means", built()).state_dict()
    assert changed(warmed("class_means", built(), source), expected) == set()


def test_the_network_computes_in_the_precision():
    seen = []
    model = built()
    model.network[2].register_forward_hook(lambda *arguments: seen.append(arguments[-1].dtype))
    warmed("batch_norm", model, precision="bfloat16")
    assert set(seen) == {torch.bfloat16}
