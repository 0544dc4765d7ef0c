from base64 import b64encode

import numpy as np
import pytest
import torch
from embedders import KINDS, as_file, case

from heated.common.errors import InputError
from heated.data.packed_dataset import unpack
from heated.inference import embedder
from heated.models import embedding_model

pytestmark = pytest.mark.xdist_group("embedder")  # one process makes what they share


@pytest.fixture(scope="module", params=KINDS)
def given(request, tmp_path_factory):
    return case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def served(given):
    return embedder.embedder(given.weights, given.packing)


def test_images_as_they_came_get_the_embed_stages_embeddings(given, served):
    found = served.predict(given.contents)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, given.embeddings, atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_what_is_written_is_read_back_and_has_the_same_digest(given, served, tmp_path):
    embedder.write(
        tmp_path / "model", given.weights, {**given.packing, "damaged": 3, "split": None}
    )
    read = embedder.read(tmp_path / "model")
    assert read.digest == served.digest
    assert read.packing == given.packing
    assert np.array_equal(read.predict(given.contents), served.predict(given.contents))


def test_another_packing_or_other_weights_are_another_digest(given, served, tmp_path):
    other = "crop" if given.packing["fit"] == "squash" else "squash"
    assert embedder.embedder(given.weights, {**given.packing, "fit": other}).digest != served.digest
    model = embedding_model.load(given.weights, torch.device("cpu"))
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    embedding_model.save(tmp_path / "other.safetensors", model)
    other = embedder.embedder(tmp_path / "other.safetensors", given.packing)
    assert other.digest != served.digest


def test_bytes_base64_pixels_lists_and_arrays_of_images_embed_alike(served):
    random = np.random.default_rng(0)
    pixels = random.integers(256, size=(31, 23, 3), dtype=np.uint8)
    file = as_file(pixels)
    text = b64encode(file).decode()
    wrapped = "\n".join([text[:50], text[50:]])
    forms = [pixels, file, text, wrapped, pixels.tolist(), pixels.astype(np.int64)]
    found = served.predict(forms)
    assert all(np.array_equal(found[0], each) for each in found)
    for shape in [(3, 9, 11), (3, 9, 11, 3)]:
        batch = random.integers(256, size=shape, dtype=np.uint8)
        assert np.array_equal(served.predict(batch), served.predict(list(batch)))
    grey = random.integers(256, size=(2, 31, 23), dtype=np.uint8)
    assert np.array_equal(served.predict(grey[..., None]), served.predict(grey))
    assert served.predict([]).shape == (0, 16)


def test_images_packed_before_embed_as_they_do_unpacked(given, served):
    data = unpack(given.packed)
    tested = data.split.query | data.split.gallery
    found = served.embeddings(data.images[tested])
    np.testing.assert_allclose(found, given.embeddings, atol=1e-5, rtol=0)


def test_what_is_no_image_is_named_by_its_number(served, subtests):
    cases = [
        (b"no image", "image 1: no image, or of an unknown format"),
        ("/etc/passwd!", "image 1: came text that is not base64"),
        (np.zeros((5, 5, 4), np.uint8), r"image 1: came uint8 of shape \(5, 5, 4\); allowed"),
        (np.zeros((5, 5)), "image 1: came float64 of shape"),
        (np.full((5, 5), 256), "image 1: came pixels from 256 to 256; allowed: 0 to 255"),
        (np.zeros((0, 5), np.uint8), "image 1: came uint8 of shape"),
        ([[1, 2], [3]], "image 1: came lists of different lengths"),
        (None, "image 1: came object of shape"),
    ]
    for image, told in cases:
        with subtests.test(image=image, told=told), pytest.raises(InputError, match=told):
            served.predict([np.zeros((5, 5), np.uint8), image])


def test_one_image_in_place_of_a_batch_is_refused(served, subtests):
    for shape in [(9, 11, 3), (9, 11)]:
        told = r"came \(9, 11.*a single one is image\[None\]"
        with subtests.test(shape=shape), pytest.raises(InputError, match=told):
            served.predict(np.zeros(shape, np.uint8))


def test_a_packing_that_does_not_fit_and_a_folder_that_lacks_a_file_are_told(given, tmp_path):
    with pytest.raises(InputError, match=r"was trained on images of \(.*packing makes \(9, 9"):
        embedder.write(tmp_path / "model", given.weights, {**given.packing, "size": 9})
    assert not any(tmp_path.iterdir())
    embedder.write(tmp_path / "model", given.weights, given.packing)
    (tmp_path / "model" / "packing.json").unlink()
    with pytest.raises(InputError, match=r"is no model of heated: packing.json is not in it"):
        embedder.read(tmp_path / "model")
