import json
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damages import DAMAGES
from recipes import make_recipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from heated.common.errors import InputError
from heated.data.packed_dataset import InMemoryImages, MemmapImages
from heated.data.transforms import AugmentationRNG
from heated.models import embedding_model
from heated.models.embedding_model import (
    Architecture,
    ModelWithLoss,
    batch_size_for,
    check_image_shape,
    embed,
    load_model,
    load_model_with_loss,
    save_model,
)
from heated.training.loop import train
from heated.training.train_state import TrainState

CPU = torch.device("cpu")
NORMALIZATIONS = {
    "none": {"name": "none"},
    "l2": {"name": "l2"},
    "batch": {"name": "batch", "momentum": 0.2, "eps": 0.01},
}
PIXELS = np.random.default_rng(0).integers(256, size=(23, 7, 7, 3), dtype=np.uint8)
ALL_IMAGES = InMemoryImages(torch.from_numpy(PIXELS))
IMAGES = ALL_IMAGES.images[:6]


def make_model(normalize="batch", *, bias="inside", **changes):
    torch.manual_seed(0)
    architecture = Architecture(
        image_shape=(7, 7, 3),
        num_classes=3,
        embedding_dim=4,
        backbone={"name": "conv4", "width": 4},
        normalize=NORMALIZATIONS[normalize],
        bias=bias,
        label_smoothing=0.25,
        augment=[{"name": "crop", "size": 6}, {"name": "flip", "p": 0.5}],
        pixel_mean=0.25,
        pixel_std=0.75,
    )
    return ModelWithLoss(replace(architecture, **changes))


def train_model(model):
    """Change every weight and every running statistic; return the model in eval mode."""
    recipe = make_recipe(alphas=[5.0], lrs=[0.1], batch_size=3)
    state = TrainState.create(model, recipe, seed=0)
    train(state, InMemoryImages(IMAGES), torch.arange(6) % 3, recipe)
    return model.eval()


def test_every_image_gets_the_models_raw_embedding_in_order_at_any_batch_size(monkeypatch):
    model = make_model()
    expected = model.eval()(ALL_IMAGES.images).detach()
    for size in (1, 4, 22, 23, 512):
        monkeypatch.setattr(embedding_model, "MAX_BATCH", size)
        embeddings = embed(model, ALL_IMAGES, quiet=True)
        assert (embeddings.shape, embeddings.dtype) == ((23, 4), torch.float32)
        torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=0)
    assert embed(model, InMemoryImages(IMAGES[:0])).shape == (0, 4)
    for normalize in ("none", "l2"):  # not of unit length
        assert embed(make_model(normalize), ALL_IMAGES).norm(dim=1).std() > 1e-3
    for shape, size in (((1, 8, 8), 512), ((3, 224, 224), 111), ((3, 9999, 9999), 1)):
        model.input_shape = shape  # large images have smaller batches
        assert batch_size_for(model) == size


def test_a_memory_map_is_read_batch_by_batch_and_gives_the_same_embeddings(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", PIXELS)
    memmap = np.load(tmp_path / "images.npy", mmap_mode="r")
    indices, sizes, iter_batches = np.arange(1, 23, 2), [], MemmapImages.iter_batches

    def spy(self, batches):
        sizes.extend(map(len, batches))
        return iter_batches(self, batches)

    monkeypatch.setattr(embedding_model, "MAX_BATCH", 4)
    expected = embed(make_model(), InMemoryImages(ALL_IMAGES.images[indices]))
    monkeypatch.setattr(MemmapImages, "iter_batches", spy)
    assert torch.equal(embed(make_model(), MemmapImages(memmap, indices, CPU)), expected)
    assert sizes == [4, 4, 3]


def test_a_training_model_is_left_in_eval_mode_and_otherwise_unchanged():
    model = make_model().train()
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    first = embed(model, ALL_IMAGES)
    assert not any(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(embed(model, ALL_IMAGES), first)  # not augmented
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_prepared_with_the_architectures_steps_and_range(tmp_path):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    model = make_model(pixel_mean=mean, pixel_std=std)
    expected = (IMAGES[:, :6, :6].double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    prepared = model.prepare(IMAGES)
    torch.testing.assert_close(prepared.double(), expected.permute(0, 3, 1, 2), atol=1e-6, rtol=0)
    draws = AugmentationRNG(torch.Generator().manual_seed(0), len(IMAGES), slice(None))
    augmented = model.prepare(IMAGES, draws)
    assert augmented.shape == prepared.shape
    assert not torch.equal(augmented, prepared)
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors", CPU)
    assert loaded.architecture == model.architecture
    assert torch.equal(loaded.prepare(IMAGES), prepared)
    one = make_model(pixel_mean=0.3, pixel_std=0.7)
    three = make_model(pixel_mean=[0.3] * 3, pixel_std=[0.7] * 3)
    assert torch.equal(one.prepare(IMAGES), three.prepare(IMAGES))
    for numbers in ([0.5], [0.5, 0.5], [0.5] * 4):
        with pytest.raises(InputError, match=r"pixel_mean: got \[.*one number or a list of 3"):
            make_model(pixel_mean=numbers)


def test_the_embedding_is_the_normalized_one():
    model = train_model(make_model())
    norm = model.normalization
    with torch.inference_mode():
        raw = model.network(model.prepare(IMAGES)) - norm.standardize.running_mean
        expected = (raw / (norm.standardize.running_var + 0.01).sqrt() + norm.shift) / 2
        torch.testing.assert_close(model(IMAGES), expected, atol=1e-6, rtol=1e-5)


def save_formerly(path, model):
    """Write a model's file as versions did in which the normalization was part of the head."""
    weights = {
        key.replace("normalization.", "head.normalise.").replace("dize.", "dise."): value
        for key, value in model.state_dict().items()
    }
    text = json.dumps(asdict(model.architecture)).replace("normalize", "normalise")
    metadata = {"architecture": text.replace('"p"', '"probability"')}
    save_file({key: value.contiguous() for key, value in weights.items()}, path, metadata)


def test_a_loaded_model_equals_the_saved_one_in_files_of_all_versions(tmp_path, subtests):
    cases = [(name, "inside", {}) for name in NORMALIZATIONS]
    cases += [("batch", "outside", {}), ("l2", "none", {"backbone": {"name": "lenet"}})]
    for normalize, bias, changes in cases:
        with subtests.test(normalize=normalize, bias=bias):
            model = train_model(make_model(normalize, bias=bias, **changes))
            paths = [tmp_path / "new.safetensors", tmp_path / "old.safetensors"]
            save_model(paths[0], model.train())
            save_formerly(paths[1], model)
            model.eval()
            for path in paths:
                loaded, whole = load_model(path, CPU), load_model_with_loss(path, CPU)
                assert not any(module.training for module in loaded.modules())
                assert loaded.architecture == whole.architecture == model.architecture
                with torch.inference_mode():
                    assert torch.equal(loaded(IMAGES), model(IMAGES))
                torch.testing.assert_close(whole.state_dict(), model.state_dict(), rtol=0, atol=0)
                ones = torch.ones(2, 4)
                assert torch.equal(whole.head.logits(ones), model.head.logits(ones))
                assert whole.head.bias_inside == (bias == "inside")
                assert whole.head.label_smoothing == 0.25
            assert normalize != "batch" or whole.normalization.standardize.eps == 0.01


def test_equal_models_give_equal_safetensors_files_without_pickle(tmp_path, monkeypatch):
    model, paths = train_model(make_model()), [tmp_path / name for name in "abc"]
    save_model(paths[0], model)
    save_model(paths[1], model)
    save_model(paths[2], load_model_with_loss(paths[0], CPU))
    content = paths[0].read_bytes()
    assert all(path.read_bytes() == content for path in paths)
    with safe_open(paths[0], "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
        assert json.loads(file.metadata()["architecture"])["embedding_dim"] == 4
    header = int.from_bytes(content[:8], "little")
    tensors = sum(value.nbytes for value in model.state_dict().values())
    assert len(content) == 8 + header + tensors
    monkeypatch.setattr(embedding_model, "HeatedSoftmax", None)  # loading without the loss
    embedding_keys = {key for key in model.state_dict() if not key.startswith("head.")}
    assert set(load_model(paths[0], CPU).state_dict()) == embedding_keys


def test_images_of_another_shape_than_the_models_are_refused():
    model = make_model()
    check_image_shape(Path("seed-0.safetensors"), model, model.architecture.image_shape)
    with pytest.raises(InputError, match=r"seed-0\.safetensors was trained on images of .*16, 16"):
        check_image_shape(Path("seed-0.safetensors"), model, (16, 16, 1))


def test_a_model_with_any_changed_bit_is_rejected(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, train_model(make_model()))
    content = path.read_bytes()
    for number, damage in enumerate(DAMAGES):
        path.write_bytes(damage(content))
        assert path.read_bytes() != content, number
        with pytest.raises(InputError, match="model.safetensors is damaged, or not a model"):
            load_model(path, CPU)


def test_other_files_and_missing_ones_are_rejected(tmp_path):
    path = tmp_path / "model.safetensors"
    save_formerly(path, make_model())
    with safe_open(path, "pt") as file:
        weights, metadata = load_file(path), file.metadata()
    for changes in ({"embedding_dim": 5}, {"unknown": 1}, {"backbone": {"name": "x"}}):
        text = json.dumps(json.loads(metadata["architecture"]) | changes)
        save_file(weights, path, {"architecture": text})
        with pytest.raises(InputError, match="is damaged, or not a model of the stage 'train'"):
            load_model(path, CPU)
    save_file({"a": torch.zeros(2)}, path)  # another program's
    for content in (path.read_bytes(), b"", b"no model"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged, or not a model of the stage 'train'"):
            load_model(path, CPU)
    save_model(path, make_model())
    whole = path.read_bytes()
    for found, other in [
        (b'\\"embedding_dim\\": 4', b'\\"embedding_dim\\": 5'),  # weights of another shape
        (b'\\"embedding_dim\\"', b'\\"embedding_din\\"'),
        (b'\\"image_shape\\"', b'\\"image_shapf\\"'),
        (b'\\"name\\": \\"conv4\\"', b'\\"name\\": \\"conv5\\"'),
        (b"pixel_mean", b"pixel_neam"),
    ]:
        assert found in whole
        path.write_bytes(whole.replace(found, other))
        with pytest.raises(InputError, match="is damaged, or not a model of the stage 'train'"):
            load_model(path, CPU)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors .*'train'"):
        load_model(path, CPU)
