from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
import torch
from embedders import KINDS, as_file, case
from PIL import Image

from heated.common.errors import InputError
from heated.data.packed_dataset import load_packed
from heated.inference.embedder import load_embedder, make_embedder, save_embedder
from heated.models.embedding_model import load_model, save_model

pytestmark = pytest.mark.xdist_group("embedder")  # one process makes what they share


@pytest.fixture(scope="module", params=KINDS)
def model_case(request, tmp_path_factory):
    return case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def embedder(model_case):
    return make_embedder(model_case.weights, model_case.packing)


def test_original_and_packed_images_get_the_embed_stages_embeddings(model_case, embedder):
    data = load_packed(model_case.packed)
    packed = data.images[data.split.query | data.split.gallery]
    for embeddings in (embedder.predict(model_case.contents), embedder.embed_packed(packed)):
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, model_case.embeddings, atol=1e-5, rtol=0)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_a_saved_embedder_is_loaded_with_the_same_digest(model_case, embedder, tmp_path):
    packing, contents = model_case.packing, model_case.contents
    more = {**packing, "max_damaged_images": 3, "split": None}
    save_embedder(tmp_path / "a", model_case.weights, more)
    loaded = load_embedder(tmp_path / "a")
    assert (loaded.digest, loaded.packing) == (embedder.digest, packing)
    assert np.array_equal(loaded.predict(contents), embedder.predict(contents))
    (tmp_path / "a" / "packing.json").unlink()
    with pytest.raises(InputError, match=r"is not a model of heated: packing.json is missing"):
        load_embedder(tmp_path / "a")


def test_another_packing_or_other_weights_have_another_digest(model_case, embedder, tmp_path):
    weights, packing = model_case.weights, model_case.packing
    other = "crop" if packing["fit"] == "squash" else "squash"
    assert make_embedder(weights, {**packing, "fit": other}).digest != embedder.digest
    model = load_model(weights, torch.device("cpu"))
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    save_model(tmp_path / "other.safetensors", model)
    assert make_embedder(tmp_path / "other.safetensors", packing).digest != embedder.digest
    with pytest.raises(InputError, match=r"was trained on images of \(.*packing makes \(9, 9"):
        save_embedder(tmp_path / "model", weights, {**packing, "size": 9})
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


def test_bytes_base64_pixels_lists_and_arrays_embed_alike(embedder):
    random = np.random.default_rng(0)
    pixels = random.integers(256, size=(31, 23, 3), dtype=np.uint8)
    text = b64encode(as_file(pixels)).decode()
    wrapped = "\n".join([text[:50], text[50:]])
    forms = [pixels, as_file(pixels), text, wrapped, pixels.tolist(), pixels.astype(np.int64)]
    forms += [bytearray(as_file(pixels)), f"data:image/png;base64,{text}", Image.fromarray(pixels)]
    first, *rest = embedder.predict(forms)
    assert all(np.array_equal(first, each) for each in rest)
    for shape in [(3, 9, 11), (3, 9, 11, 3)]:
        batch = random.integers(256, size=shape, dtype=np.uint8)
        assert np.array_equal(embedder.predict(batch), embedder.predict(list(batch)))
    gray = random.integers(256, size=(2, 31, 23), dtype=np.uint8)
    assert np.array_equal(embedder.predict(gray[..., None]), embedder.predict(gray))
    assert embedder.predict([]).shape == (0, 16)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_pillow_is_its_picture_in_every_mode(embedder, mode):
    blocks = np.zeros((16, 16), np.uint8)
    blocks[:8, :8] = blocks[8:, 8:] = 255
    picture = Image.fromarray(blocks)
    image = picture if mode in ("1", "L", "LA", "I", "I;16") else picture.convert("RGB")
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    if mode in ("I", "I;16"):  # 16 bit
        image = Image.fromarray(blocks.astype(np.uint16) * 257).convert(mode)
    one, other = embedder.predict([image, blocks])
    assert one @ other > 0.999


def test_an_image_of_pillow_is_upright_like_its_file(embedder):
    turned, pixels = Image.Exif(), np.arange(16 * 8, dtype=np.uint8).reshape(16, 8)
    turned[0x0112] = 6
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=turned)
    one, other = embedder.predict([Image.open(file), file.getvalue()])
    assert np.array_equal(one, other)


def test_invalid_images_are_rejected_with_their_index(embedder, subtests):
    for image, message in (
        (b"no image", "image 1: .*unknown format"),
        ("/etc/passwd!", "image 1: got text that is not base64"),
        (np.zeros((5, 5, 4), np.uint8), r"image 1: got uint8 of shape \(5, 5, 4\), expected"),
        (np.zeros((5, 5)), "image 1: got float64 of shape"),
        (np.full((5, 5), 256), "image 1: got pixels from 256 to 256, expected 0 to 255"),
        (np.zeros((0, 5), np.uint8), "image 1: got uint8 of shape"),
        ([[1, 2], [3]], "image 1: got lists of different lengths"),
        (None, "image 1: got object of shape"),
        ("data:image/png,%89PNG", "image 1: got a data: URI without base64"),
        (Image.new("F", (5, 5)), "image 1: got a Pillow image of mode F"),
    ):
        with subtests.test(image=image), pytest.raises(InputError, match=message):
            embedder.predict([np.zeros((5, 5), np.uint8), image])
    for single in (b"file", "text", Image.new("L", (5, 5))):
        with pytest.raises(InputError, match=r"got one image, expected a sequence"):
            embedder.predict(single)
    for shape in [(9, 11, 3), (9, 11)]:
        message = r"got an array of shape \(9, 11.*single image as image\[None\]"
        with subtests.test(shape=shape), pytest.raises(InputError, match=message):
            embedder.predict(np.zeros(shape, np.uint8))
