import io
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from heated.common.errors import InputError
from heated.common.samples import Samples
from heated.data.packed_dataset import load_packed, packed_sha256
from heated.datasets.splits import split
from heated.preprocessing import packing
from heated.preprocessing.packing import pack

GRAYS = np.random.default_rng(0).integers(0, 256, (10, 12, 12), dtype=np.uint8)
COLORS = np.random.default_rng(1).integers(0, 256, (10, 9, 14, 3), dtype=np.uint8)
OPTIONS = {"fit": "squash", "color_mode": "gray", "filter": "bilinear"}
DEFAULTS = {**OPTIONS, "size": 12, "max_damaged_images": 0, "workers": 2}


def samples(images):
    """Samples of arrays or files, which are read last to first."""
    return Samples(
        class_names=("a", "b", "ß", "d"),
        labels=np.array([0, 1, 2, 3, 0, 1, 2, 3, 3, 2]),
        names=[f"{i}.png" for i in range(10)],
        split=None,
        contents=lambda: ((i, images[i]) for i in reversed(range(len(images)))),
    )


def packed(data, folder, **options):
    pack(data, split(data, "halves"), folder, **{**DEFAULTS, **options})
    return load_packed(folder)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def with_damage(*numbers):
    return [b"damaged" if i in numbers else png(image) for i, image in enumerate(GRAYS)]


def test_packed_data_is_read_back(new_folder):
    with pytest.raises(FileNotFoundError, match="the stage 'split' makes it"):
        load_packed(new_folder())
    for images, workers in product([GRAYS, with_damage()], [1, 3]):
        data, folder = samples(images), new_folder() / "packed"
        masks = replace(split(data, "halves"), tested="fold 1, “ß”")
        pack(data, masks, folder, **{**DEFAULTS, "workers": workers})
        result = load_packed(folder)
        assert isinstance(result.images, np.memmap)
        assert not result.images.flags.writeable
        assert result.images.dtype == np.uint8
        np.testing.assert_array_equal(result.images, GRAYS[..., None])
        assert result.labels.dtype == np.int64
        np.testing.assert_array_equal(result.labels, data.labels)
        assert result.class_names == data.class_names
        assert result.split.tested == "fold 1, “ß”"
        for part, mask in masks.masks().items():
            assert result.split.masks()[part].dtype == bool
            np.testing.assert_array_equal(result.split.masks()[part], mask)
    assert sorted(path.name for path in folder.iterdir()) == ["images.npy", "index.npz"]
    assert [path.name for path in folder.parent.iterdir()] == ["packed"]
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        parts = {"train", "query", "gallery"}
        assert set(index) == {"labels", "class_names", "tested", "damaged"} | parts


def test_images_are_packed_as_decoded_and_may_have_different_sizes(tmp_path):
    options = {"size": 6, "fit": "crop", "color_mode": "rgb", "filter": "lanczos"}
    plain = [np.full((5 + i, 20 - i, 3), 9 * i, dtype=np.uint8) for i in range(5)]
    contents = [*COLORS[:5], *plain]
    images = packed(samples(contents), tmp_path / "packed", **options).images
    assert images.shape == (10, 6, 6, 3)
    for image, content in zip(images, contents, strict=True):
        np.testing.assert_array_equal(image, packing.decode(content, **options))


def test_the_old_folder_stays_until_the_new_one_is_complete(tmp_path):
    folder = tmp_path / "packed"
    packed(samples(GRAYS), folder)
    before = packed_sha256(folder)

    def contents():
        yield 0, png(GRAYS[0])
        raise OSError(5, "unplugged")

    with pytest.raises(OSError, match=f"unplugged: '{folder}'"):
        packed(replace(samples(GRAYS), contents=contents), folder)
    assert packed_sha256(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    packed(samples(255 - GRAYS), folder)
    np.testing.assert_array_equal(load_packed(folder).images, 255 - GRAYS[..., None])


def test_too_many_damaged_images_are_an_error_that_names_them(tmp_path):
    folder, many = tmp_path / "packed", [f"<{i}>" for i in range(30)]
    with pytest.raises(InputError) as caught:
        packed(samples(with_damage(1, 6)), folder, max_damaged_images=1)
    for text in (
        "packing.max_damaged_images: got 2 of 10 images damaged, expected at most 1",
        "`packing.max_damaged_images: 2`",
        "dvc repro --force --single-item download@<the data set>\n",
        "\n  1.png: no image, or of an unknown format\n  6.png: ",
    ):
        assert text in str(caught.value)
    with pytest.raises(InputError) as caught:
        packed(replace(samples([b""] * 30), labels=np.arange(30) % 4, names=many), folder)
    assert [i for i in range(30) if many[i] in str(caught.value)] == list(range(20))
    assert str(caught.value).endswith("and 10 more")
    with pytest.raises(InputError, match="training: got 1 classes"):
        packed(samples(with_damage(1, 5)), folder, max_damaged_images=2)
    assert not folder.exists()


def test_damaged_images_that_are_allowed_are_zeros_and_in_no_part(tmp_path, capsys):
    data = samples(with_damage(1, 6))
    result = packed(data, tmp_path / "packed", max_damaged_images=2)
    kept = np.isin(np.arange(10), [1, 6], invert=True)
    np.testing.assert_array_equal(result.images[..., 0], GRAYS * kept[:, None, None])
    for name, mask in split(data, "halves").masks().items():
        np.testing.assert_array_equal(result.split.masks()[name], mask & kept)
    with np.load(tmp_path / "packed" / "index.npz") as index:
        assert index["damaged"].tolist() == ["1.png", "6.png"]
    printed = capsys.readouterr().err
    assert "2 damaged images are excluded:\n  1.png: no image" in printed
    assert f"{tmp_path / 'packed'}: 8 images of 4 classes\n" in printed
    packed(replace(data, left_out=["a/1.heic"]), tmp_path / "packed", max_damaged_images=2)
    assert "classes; left out: 1 .heic files such as a/1.heic\n" in capsys.readouterr().err


def test_free_space_is_checked_before_anything_is_decoded(tmp_path):
    data = replace(samples(GRAYS), contents=None)
    with pytest.raises(InputError, match=r"got \d+ MiB of free space, expected \d+ MiB for 10"):
        packed(data, tmp_path / "packed", size=2**24)


def test_few_contents_are_in_memory_at_a_time():
    decoded = []

    def contents(content):
        for number in range(100):
            assert number - len(decoded) < 2 * 2 + 2
            yield number, content

    for content in (GRAYS[0], b"file"):
        decoded.clear()
        decoded.extend(packing.decode_all(contents(content), lambda content: content, 2))
        assert [number for number, _ in decoded] == list(range(100))


def test_the_digest_is_of_images_and_index(tmp_path):
    def digest(data, name):
        packed(data, tmp_path / name)
        return packed_sha256(tmp_path / name)

    labels, pixels = np.array([0, 1, 2, 3, 0, 1, 2, 3, 2, 3]), GRAYS.copy()
    pixels[9, 11, 11] ^= 1
    first = digest(samples(GRAYS), "first")
    assert digest(samples(GRAYS), "again") == first
    assert digest(samples(pixels), "pixel") != first
    assert digest(replace(samples(GRAYS), labels=labels), "label") != first
    assert len(bytes.fromhex(first)) == 32
