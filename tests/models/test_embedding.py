from copy import deepcopy

import numpy as np
import torch

from heated.data.batches import InMemoryImages, MemmapImages
from heated.models import embedding
from heated.models.embedding_model import Architecture, ModelWithLoss

PIXELS = np.random.default_rng(0).integers(256, size=(23, 6, 6, 1), dtype=np.uint8)
IMAGES = InMemoryImages(torch.from_numpy(PIXELS))


def make_model(normalize="batch"):
    torch.manual_seed(0)
    batch = {"name": "batch", "momentum": 0.05, "eps": 1e-3}
    affine = {"name": "affine", "degrees": 90, "scale": 0.5, "shear": 9, "translate": 0.5}
    return ModelWithLoss(
        Architecture(
            image_shape=(6, 6, 1),
            num_classes=3,
            embedding_dim=4,
            backbone={"name": "conv4", "width": 4},
            normalize=batch if normalize == "batch" else {"name": normalize},
            augment=[affine],
            pixel_mean=0.5,
            pixel_std=0.5,
        )
    )


def test_every_image_gets_the_models_raw_embedding_in_order_at_any_batch_size(monkeypatch):
    model = make_model()
    expected = model.eval()(IMAGES.images).detach()
    for size in (1, 4, 22, 23, 512):
        monkeypatch.setattr(embedding, "MAX_BATCH", size)
        embeddings = embedding.embed(model, IMAGES, quiet=True)
        assert (embeddings.shape, embeddings.dtype) == ((23, 4), torch.float32)
        torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=0)
    assert embedding.embed(model, InMemoryImages(IMAGES.images[:0])).shape == (0, 4)
    for normalize in ("none", "l2"):  # not of unit length
        assert embedding.embed(make_model(normalize), IMAGES).norm(dim=1).std() > 1e-3


def test_a_memory_map_is_read_batch_by_batch_and_gives_the_same_embeddings(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", PIXELS)
    memmap = np.load(tmp_path / "images.npy", mmap_mode="r")
    indices, sizes, read = np.arange(1, 23, 2), [], MemmapImages.read

    def spy(self, batch):
        sizes.append(len(batch))
        return read(self, batch)

    monkeypatch.setattr(embedding, "MAX_BATCH", 4)
    expected = embedding.embed(make_model(), InMemoryImages(IMAGES.images[indices]))
    monkeypatch.setattr(MemmapImages, "read", spy)
    images = MemmapImages(memmap, indices, torch.device("cpu"))
    assert torch.equal(embedding.embed(make_model(), images), expected)
    assert sizes == [4, 4, 3]


def test_large_images_have_smaller_batches():
    model = make_model()
    for shape, size in (((1, 8, 8), 512), ((3, 224, 224), 111), ((3, 9999, 9999), 1)):
        model.input_shape = shape
        assert embedding.batch_size_for(model) == size


def test_a_training_model_is_left_in_eval_mode_and_otherwise_unchanged():
    model = make_model().train()
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    first = embedding.embed(model, IMAGES)
    assert not any(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(embedding.embed(model, IMAGES), first)  # not augmented
    assert torch.equal(torch.get_rng_state(), state)
