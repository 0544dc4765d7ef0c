from copy import deepcopy

import numpy as np
import torch

from heated.data.batches import Held, Mapped
from heated.models import embedding
from heated.models.embedding_model import Architecture, Model


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


def held(size=23):
    return Held(torch.from_numpy(images(size)))


def test_the_batch_size_changes_nothing(monkeypatch):
    whole = embedding.embed(built(), held())
    for batch in (1, 4, 22, 23):
        monkeypatch.setattr(embedding, "IMAGES", batch)
        torch.testing.assert_close(embedding.embed(built(), held()), whole, atol=1e-6, rtol=0)


def test_each_image_gets_the_models_embedding_in_order():
    model = built()
    found = embedding.embed(model, held(), quiet=True)
    assert found.shape == (23, 4)
    assert found.dtype == torch.float32
    one = model(torch.from_numpy(images()[5:6])).detach()
    torch.testing.assert_close(found[5:6], one, atol=1e-6, rtol=0)


def test_a_memory_map_is_read_piece_by_piece_and_embeds_as_what_is_held(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", images())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    numbers, sizes, read = np.arange(1, 23, 2), [], Mapped.read

    def noting(self, piece):
        sizes.append(len(piece))
        return read(self, piece)

    monkeypatch.setattr(embedding, "IMAGES", 4)
    expected = embedding.embed(built(), Held(torch.from_numpy(images()[numbers])))
    monkeypatch.setattr(Mapped, "read", noting)
    found = embedding.embed(built(), Mapped(mapped, numbers, torch.device("cpu")))
    assert torch.equal(found, expected)
    assert sizes == [4, 4, 3]


def test_fewer_images_go_through_at_once_where_they_are_large():
    model = built()
    for shape, count in (((1, 8, 8), 512), ((3, 224, 224), 111), ((3, 9999, 9999), 1)):
        model.input_shape = shape
        assert embedding.at_a_time(model) == count


def test_no_image_gives_no_embedding():
    assert embedding.embed(built(), held(0)).shape == (0, 4)


def test_embeddings_are_raw_not_of_unit_length():
    for normalise in ("none", "l2"):
        assert embedding.embed(built(normalise), held()).norm(dim=1).std() > 1e-3


def test_a_training_model_is_left_in_eval_mode_and_otherwise_as_it_was():
    model = built().train()
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    first = embedding.embed(model, held())
    assert not any(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(embedding.embed(model, held()), first)  # not augmented
    assert torch.equal(torch.get_rng_state(), state)
