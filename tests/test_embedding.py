from copy import deepcopy

import numpy as np
import pytest
import torch

from heated import embedding
from heated.models import Architecture, Model


def built(normalise="batch"):
    torch.manual_seed(0)
    batch = {"name": "batch", "momentum": 0.05, "eps": 1e-3}
    return Model(
        Architecture(
            image_shape=(6, 6, 1),
            num_classes=3,
            embedding_dim=4,
            backbone={"name": "conv4", "width": 4},
            normalise=batch if normalise == "batch" else {"name": normalise},
            bias="outside",
            label_smoothing=0.0,
            augment=[
                {"name": "affine", "degrees": 90, "scale": 0.5, "shear": 9, "shift": 0.5},
            ],
            pixel_mean=0.5,
            pixel_std=0.5,
        )
    )


def images(size=23):
    return np.random.default_rng(0).integers(256, size=(size, 6, 6, 1), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 4, 22, 23])
def test_the_batch_size_changes_nothing(monkeypatch, batch):
    whole = embedding.embed(built(), images())
    monkeypatch.setattr(embedding, "BATCH", batch)
    parts = embedding.embed(built(), images())
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)


def test_each_image_gets_the_models_embedding_in_order():
    model = built()
    found = embedding.embed(model, images(), quiet=True)
    assert found.shape == (23, 4)
    assert found.dtype == torch.float32
    one = model(torch.from_numpy(images()[5:6])).detach()
    torch.testing.assert_close(found[5:6], one, atol=1e-6, rtol=0)


def test_arrays_and_tensors_embed_alike():
    model = built()
    array = embedding.embed(model, images())
    assert torch.equal(embedding.embed(model, torch.from_numpy(images())), array)


@pytest.mark.parametrize("normalise", ["none", "l2"])
def test_embeddings_are_raw_not_of_unit_length(normalise):
    lengths = embedding.embed(built(normalise), images()).norm(dim=1)
    assert lengths.std() > 1e-3


def test_a_training_model_is_left_in_eval_mode():
    model = built().train()
    embedding.embed(model, images())
    assert not any(module.training for module in model.modules())


def test_weights_and_running_statistics_are_left_as_they_were():
    model = built().train()
    before = deepcopy(model.state_dict())
    embedding.embed(model, images())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_embedding_is_not_augmented_and_leaves_the_global_generator_alone():
    model = built()
    state = torch.get_rng_state()
    first = embedding.embed(model, images())
    assert torch.equal(embedding.embed(model, images()), first)
    assert torch.equal(torch.get_rng_state(), state)
