import sys

import numpy as np
import pytest
import torch
from embedders import KINDS, case
from recipes import SETTINGS

from heated.common.errors import run
from heated.common.geometry import l2_normalize
from heated.data.packed_dataset import load_packed
from heated.inference.onnx import export
from heated.models.backbones import BACKBONES
from heated.models.embedding_model import Architecture, ModelWithLoss, save_model


@pytest.fixture
def run_onnx():
    """What embeds images with an exported file."""
    pytest.importorskip("onnxscript", reason="exports with it")
    runtime = pytest.importorskip("onnxruntime", reason="compares with it")

    def run_session(path, images):
        session = runtime.InferenceSession(path)
        (entry,), (output,) = session.get_inputs(), session.get_outputs()
        assert (entry.name, entry.type, output.name) == ("images", "tensor(uint8)", "embeddings")
        return session.run(None, {"images": np.ascontiguousarray(images)})[0]

    return run_session


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_the_embed_stages_embeddings(run_onnx, tmp_path, kind):
    model_case = case(kind, tmp_path)
    export(model_case.weights, tmp_path / "model.onnx")
    data = load_packed(model_case.packed)
    images = data.images[data.split.query | data.split.gallery]
    for count in (1, 5, len(images)):
        embeddings = run_onnx(tmp_path / "model.onnx", images[:count])
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, model_case.embeddings[:count], atol=1e-4, rtol=0)


NORM = {"batch_norm": {"momentum": 0.1, "eps": 1e-5, "frozen": True}, "frozen_blocks": 0}
OPTIONS = {"lenet": {}, "conv4": {"width": 4}}  # of small networks; large ones take NORM
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES if name not in OPTIONS]


@pytest.mark.parametrize("name", [*OPTIONS, *LARGE])
def test_every_backbone_is_exported(run_onnx, tmp_path, name):
    shape = (32, 32, 1 if name in OPTIONS else 3)
    torch.manual_seed(0)
    backbone = {"name": name, **OPTIONS.get(name, NORM)}
    settings = SETTINGS | {"backbone": backbone, "normalize": {"name": "l2"}, "augment": []}
    model = ModelWithLoss(Architecture.of(settings, image_shape=shape, num_classes=3)).eval()
    save_model(tmp_path / "model.safetensors", model)
    export(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(256, size=(3, *shape), dtype=np.uint8)
    with torch.inference_mode():
        expected = l2_normalize(model(torch.from_numpy(images))).numpy()
    embeddings = run_onnx(tmp_path / "model.onnx", images)
    np.testing.assert_allclose(embeddings, expected, atol=1e-4, rtol=0)


def test_the_command_says_what_to_install_names_a_missing_file_and_writes_nothing(
    tmp_path, monkeypatch
):
    def error_of(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run(export)
        return str(caught.value)

    paths = tmp_path / "absent.safetensors", tmp_path / "out.onnx"
    assert error_of() == "2"  # with its usage
    assert "absent.safetensors" in error_of(*paths)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "needs onnxscript. Run `pip install onnxscript`" in error_of(*paths)
    assert not any(tmp_path.iterdir())
