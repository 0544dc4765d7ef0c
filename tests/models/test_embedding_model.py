import json
from dataclasses import asdict, replace

import pytest
import torch
from recipes import make_recipe
from safetensors import safe_open
from safetensors.torch import save_file

from heated.common.errors import InputError
from heated.data.batches import InMemoryImages
from heated.data.transforms import AugmentationRNG
from heated.models import embedding_model
from heated.models.embedding_model import (
    Architecture,
    ModelWithLoss,
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
IMAGES = torch.randint(
    256, (6, 7, 7, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)


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
    train(
        TrainState.create(model, recipe, seed=0),
        InMemoryImages(IMAGES),
        torch.arange(6) % 3,
        recipe,
    )
    return model.eval()


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


# --- files -----------------------------------------------------------------------------------


def test_a_loaded_model_equals_the_saved_one_in_files_of_all_versions(tmp_path, subtests):
    cases = [(name, "inside", {}) for name in NORMALIZATIONS]
    cases += [("batch", "outside", {}), ("l2", "none", {"backbone": {"name": "lenet"}})]
    for normalize, bias, changes in cases:
        with subtests.test(normalize=normalize, bias=bias):
            model = train_model(make_model(normalize, bias=bias, **changes))
            paths = [tmp_path / "new.safetensors", tmp_path / "old.safetensors"]
            save_model(paths[0], model.train())
            former = {  # the normalization was once part of the head
                key.replace("normalization.", "head.normalise.").replace("dize.", "dise."): value
                for key, value in model.state_dict().items()
            }
            architecture = json.dumps(asdict(model.architecture))
            for current, old in (("normalize", "normalise"), ('"p"', '"probability"')):
                architecture = architecture.replace(current, old)
            former = {key: value.contiguous() for key, value in former.items()}
            save_file(former, paths[1], {"architecture": architecture})
            model.eval()
            for path in paths:
                loaded, whole = load_model(path, CPU), load_model_with_loss(path, CPU)
                assert not any(module.training for module in loaded.modules())
                assert loaded.architecture == whole.architecture == model.architecture
                with torch.inference_mode():
                    assert torch.equal(whole(IMAGES), model(IMAGES))
                    assert torch.equal(loaded(IMAGES), model(IMAGES))
                assert whole.state_dict().keys() == model.state_dict().keys()
                for key, value in model.state_dict().items():
                    assert torch.equal(whole.state_dict()[key], value), key
                ones = torch.ones(2, 4)
                assert torch.equal(whole.head.logits(ones), model.head.logits(ones))
                assert whole.head.bias_inside == (bias == "inside")
                assert whole.head.label_smoothing == 0.25
            assert normalize != "batch" or whole.normalization.standardize.eps == 0.01


def test_a_model_is_loaded_for_embedding_without_its_loss(tmp_path, monkeypatch):
    model = train_model(make_model())
    save_model(tmp_path / "model.safetensors", model)
    monkeypatch.setattr(embedding_model, "HeatedSoftmax", lambda *_: pytest.fail("built the loss"))
    loaded = load_model(tmp_path / "model.safetensors", CPU)
    expected = {key for key in model.state_dict() if not key.startswith("head.")}
    assert set(loaded.state_dict()) == expected
    assert "normalization.shift" in expected


def test_equal_models_give_equal_safetensors_files_without_pickle(tmp_path):
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


def test_other_files_and_missing_ones_are_rejected(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path)  # another program's
    for content in (path.read_bytes(), b"", b"no model"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged, or not a model of the stage 'train'"):
            load_model(path, CPU)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors .*'train'"):
        load_model(path, CPU)


def test_an_architecture_takes_the_values_of_its_names_from_a_recipe():
    recipe = {**asdict(make_model().architecture), "batch_size": 3, "alphas": [1.0]}
    del recipe["image_shape"], recipe["num_classes"]
    architecture = Architecture.of(recipe, image_shape=(7, 7, 3), num_classes=3)
    assert architecture == make_model().architecture
