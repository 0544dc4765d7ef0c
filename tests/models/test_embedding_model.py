import json
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch
from recipes import make_recipe
from safetensors import safe_open
from safetensors.torch import save_file

from heated.common.errors import InputError
from heated.data.batches import Held
from heated.data.transforms import Draws
from heated.models import embedding_model
from heated.models.embedding_model import Architecture, Model, load, load_with_head, save
from heated.training.loop import train
from heated.training.train_state import TrainState

CPU = torch.device("cpu")
NORMALISATIONS = {
    "none": {"name": "none"},
    "l2": {"name": "l2"},
    "batch": {"name": "batch", "momentum": 0.2, "eps": 0.01},
}


def built(normalise="batch", backbone="conv4", bias="inside"):
    torch.manual_seed(0)
    return Model(
        Architecture(
            image_shape=(7, 7, 3),
            num_classes=3,
            embedding_dim=4,
            backbone={"name": "lenet"} if backbone == "lenet" else {"name": "conv4", "width": 4},
            normalise=NORMALISATIONS[normalise],
            bias=bias,
            label_smoothing=0.25,
            augment=[{"name": "crop", "size": 6}, {"name": "flip", "probability": 0.5}],
            pixel_mean=0.25,
            pixel_std=0.75,
        )
    )


def images(size=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (size, 7, 7, 3), generator=generator, dtype=torch.uint8)


def trained(model):
    """The model with every weight and every running statistic moved."""
    recipe = make_recipe(alphas=[5.0], lrs=[0.1], batch_size=3)
    train(TrainState.create(model, recipe, seed=0), Held(images()), torch.arange(6) % 3, recipe)
    return model.eval()


def with_pixels(mean, std):
    return Model(replace(built().architecture, pixel_mean=mean, pixel_std=std))


def test_pixels_may_have_a_mean_and_a_deviation_a_channel(tmp_path):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    model = with_pixels(mean, std)
    by_hand = images()[:, :6, :6].double() / 255
    by_hand = ((by_hand - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.prepare(images()).double(), by_hand, atol=1e-6, rtol=0)
    save(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path / "model.safetensors", CPU)
    assert loaded.architecture == model.architecture
    assert torch.equal(loaded.prepare(images()), model.prepare(images()))
    one, each = with_pixels(0.3, 0.7), with_pixels([0.3] * 3, [0.7] * 3)
    assert torch.equal(one.prepare(images()), each.prepare(images()))


def test_another_number_of_means_than_channels_is_refused():
    for numbers in ([0.5], [0.5, 0.5], [0.5] * 4):
        with pytest.raises(
            InputError, match=r"pixel_mean: came \[.*allowed: one number, or a list of 3"
        ):
            with_pixels(numbers, 0.5)


def test_a_loaded_model_is_the_saved_one_and_embeds_exactly_as_it(tmp_path):
    path = tmp_path / "model.safetensors"
    for normalise, backbone in product(NORMALISATIONS, ["conv4", "lenet"]):
        model = trained(built(normalise, backbone))
        save(path, model.train())
        loaded, whole = load(path, CPU), load_with_head(path, CPU)
        assert not any(module.training for module in loaded.modules())
        assert loaded.architecture == whole.architecture == model.architecture
        model.eval()
        with torch.inference_mode():
            assert torch.equal(whole(images()), model(images()))
            assert torch.equal(loaded(images()), model(images()))
        assert whole.state_dict().keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(whole.state_dict()[key], value), key
    for bias in ("outside", "inside", "none"):
        model = trained(built(bias=bias))
        save(path, model)
        whole = load_with_head(path, CPU)
        assert torch.equal(whole.head.logits(torch.ones(2, 4)), model.head.logits(torch.ones(2, 4)))
        assert whole.head.bias_inside == (bias == "inside")
        assert whole.head.label_smoothing == 0.25
        assert whole.normalization.standardise.eps == 0.01


def test_a_model_is_loaded_to_embed_without_loss_and_class_weights(tmp_path, monkeypatch):
    model = trained(built())
    save(tmp_path / "model.safetensors", model)
    monkeypatch.setattr(embedding_model, "head", lambda *_: pytest.fail("the loss was built"))
    loaded = load(tmp_path / "model.safetensors", CPU)
    expected = {key for key in model.state_dict() if not key.startswith("head.")}
    assert set(loaded.state_dict()) == expected
    assert "normalization.shift" in expected


def test_a_file_whose_normalization_is_part_of_the_head_still_loads(tmp_path):
    for normalise in NORMALISATIONS:
        model = trained(built(normalise))
        metadata = {"architecture": json.dumps(asdict(model.architecture))}
        weights = {
            key.replace("normalization.", "head.normalise."): value.contiguous()
            for key, value in model.state_dict().items()
        }
        save_file(weights, tmp_path / "old.safetensors", metadata)
        loaded, whole = (each(tmp_path / "old.safetensors", CPU) for each in (load, load_with_head))
        with torch.inference_mode():
            assert torch.equal(loaded(images()), model(images()))
        for key, value in model.state_dict().items():
            assert torch.equal(whole.state_dict()[key], value), key


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = trained(built())
    for name in ("first", "second"):
        save(tmp_path / name, model)
    save(tmp_path / "third", load_with_head(tmp_path / "first", CPU))
    first = (tmp_path / "first").read_bytes()
    assert (tmp_path / "second").read_bytes() == first
    assert (tmp_path / "third").read_bytes() == first


def test_the_file_is_safetensors_and_holds_no_pickle(tmp_path):
    path, model = tmp_path / "model.safetensors", built()
    save(path, model)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
        assert json.loads(file.metadata()["architecture"])["embedding_dim"] == 4
    header = int.from_bytes(path.read_bytes()[:8], "little")
    tensors = sum(value.nbytes for value in model.state_dict().values())
    assert path.stat().st_size == 8 + header + tensors


def test_a_file_that_is_no_model_of_ours_and_a_missing_one_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path)  # another program's
    for content in (path.read_bytes(), b"", b"no model"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged, or no model of the stage 'train'"):
            load(path, CPU)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing: the stage 'train'"):
        load(path, CPU)


def test_an_architecture_takes_its_own_keys_from_a_recipe():
    recipe = {**asdict(built().architecture), "batch_size": 3, "alphas": [1.0]}
    del recipe["image_shape"], recipe["num_classes"]
    found = Architecture.of(recipe, image_shape=(7, 7, 3), num_classes=3)
    assert found == built().architecture


def test_images_are_prepared_with_the_architectures_steps_and_range():
    model = built()
    centre = model.prepare(images())
    by_hand = (images()[:, :6, :6].permute(0, 3, 1, 2) / 255 - 0.25) / 0.75
    torch.testing.assert_close(centre, by_hand, atol=1e-6, rtol=0)
    augmented = model.prepare(
        images(), Draws(torch.Generator().manual_seed(0), len(images()), slice(None))
    )
    assert augmented.shape == centre.shape
    assert not torch.equal(augmented, centre)


def test_the_embedding_is_what_the_head_compares():
    model = trained(built("batch"))
    with torch.inference_mode():
        raw = model.network(model.prepare(images()))
        norm = model.normalization
        standard = (raw - norm.standardise.running_mean) / (
            norm.standardise.running_var + 0.01
        ).sqrt()
        expected = (standard + norm.shift) / 2
        torch.testing.assert_close(model(images()), expected, atol=1e-6, rtol=1e-5)
