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
OPTIONS = {
    "fit": "squash",
    "color_mode": "gray",
    "filter": "bilinear",
    "max_damaged_images": 0,
    "workers": 2,
}


def samples(images):
    """Samples of arrays or files, which are read last to first."""
    return Samples(
        class_names=("a", "b", "ß", "d"),
        labels=np.array([0, 1, 2, 3, 0, 1, 2, 3, 3, 2]),
        names=[f"{i}.png" for i in range(10)],
        split=None,
        contents=lambda: ((i, images[i]) for i in reversed(range(len(images)))),
    )


def packed(given, folder, *, size=12, **options):
    pack(given, split(given, "halves"), folder, size=size, **{**OPTIONS, **options})
    return load_packed(folder)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def with_damage(*numbers):
    return [b"damaged" if i in numbers else png(image) for i, image in enumerate(GRAYS)]


def test_packed_data_is_read_back(new_folder):
    for images, workers in product([GRAYS, with_damage()], [1, 3]):
        given = samples(images)
        data = packed(given, new_folder() / "packed", workers=workers)
        np.testing.assert_array_equal(data.images, GRAYS[..., None])
        assert data.images.dtype == np.uint8
        np.testing.assert_array_equal(data.labels, given.labels)
        assert data.labels.dtype == np.int64
        assert data.class_names == given.class_names
        for part, mask in split(given, "halves").masks().items():
            np.testing.assert_array_equal(data.split.masks()[part], mask)
            assert data.split.masks()[part].dtype == bool


def test_the_folder_holds_two_files_that_numpy_reads_without_pickle(tmp_path):
    given = samples(GRAYS)
    parted = replace(split(given, "halves"), tested="fold 1, “ß”")
    pack(given, parted, tmp_path / "packed", size=12, **OPTIONS)
    files = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert files == ["images.npy", "index.npz"]
    with np.load(tmp_path / "packed" / "index.npz", allow_pickle=False) as index:
        masks = {"train", "query", "gallery"}
        assert set(index) == {"labels", "class_names", "tested", "damaged"} | masks
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    data = load_packed(tmp_path / "packed")
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable
    assert data.split.tested == "fold 1, “ß”"


def test_images_are_packed_as_decoded_and_may_have_different_sizes(tmp_path):
    options = {"size": 6, "fit": "crop", "color_mode": "rgb", "filter": "lanczos"}
    given = [*COLORS[:5], *(np.full((5 + i, 20 - i, 3), 9 * i, dtype=np.uint8) for i in range(5))]
    images = packed(samples(given), tmp_path / "packed", **options).images
    assert images.shape == (10, 6, 6, 3)
    for image, content in zip(images, given, strict=True):
        np.testing.assert_array_equal(image, packing.decode(content, **options))


def test_the_old_folder_stays_until_the_new_one_is_complete(tmp_path):
    folder = tmp_path / "packed"
    packed(samples(GRAYS), folder)
    before = packed_sha256(folder)

    def contents():
        yield 0, png(GRAYS[0])
        raise OSError("unplugged")

    with pytest.raises(OSError, match=f"{folder}: cannot pack the images: unplugged"):
        packed(replace(samples(GRAYS), contents=contents), folder)
    assert packed_sha256(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    packed(samples(255 - GRAYS), folder)
    np.testing.assert_array_equal(load_packed(folder).images, 255 - GRAYS[..., None])


def test_too_many_damaged_images_are_an_error_that_names_them(tmp_path):
    with pytest.raises(InputError) as caught:
        packed(samples(with_damage(1, 6)), tmp_path / "packed", max_damaged_images=1)
    for text in (
        "packing.max_damaged_images: got 2 damaged images of 10, expected at most 1",
        "`packing.max_damaged_images: 2`",
        "dvc repro --force --single-item download@<the data set>\n",
        "\n  1.png: no image, or of an unknown format\n  6.png: ",
    ):
        assert text in str(caught.value)
    given = replace(
        samples([b""] * 30), labels=np.arange(30) % 4, names=[f"<{i}>" for i in range(30)]
    )
    with pytest.raises(InputError) as caught:
        packed(given, tmp_path / "packed")
    assert [i for i in range(30) if f"<{i}>" in str(caught.value)] == list(range(20))
    assert str(caught.value).endswith("and 10 more")
    with pytest.raises(InputError, match="training: got 1 classes"):
        packed(samples(with_damage(1, 5)), tmp_path / "packed", max_damaged_images=2)
    assert not (tmp_path / "packed").exists()


def test_damaged_images_that_are_allowed_are_zeros_and_in_no_part(tmp_path, capsys):
    given = samples(with_damage(1, 6))
    data = packed(given, tmp_path / "packed", max_damaged_images=2)
    kept = np.isin(np.arange(10), [1, 6], invert=True)
    np.testing.assert_array_equal(data.images[..., 0], GRAYS * kept[:, None, None])
    for name, mask in split(given, "halves").masks().items():
        np.testing.assert_array_equal(data.split.masks()[name], mask & kept)
    with np.load(tmp_path / "packed" / "index.npz") as index:
        assert index["damaged"].tolist() == ["1.png", "6.png"]
    assert "2 damaged images are excluded:\n  1.png: no image" in capsys.readouterr().err


def test_free_space_is_checked_before_anything_is_decoded(tmp_path):
    given = replace(samples(GRAYS), contents=None)
    with pytest.raises(InputError, match=r"got \d+ MiB of free space, expected \d+ MiB for 10"):
        packed(given, tmp_path / "packed", size=2**24)


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


def test_a_missing_packed_data_set_is_an_error_with_the_stage_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="the stage 'split' makes it"):
        load_packed(tmp_path / "packed")


def test_the_digest_is_of_images_and_index(tmp_path):
    def digest_of(given, name):
        packed(given, tmp_path / name)
        return packed_sha256(tmp_path / name)

    other_pixel = GRAYS.copy()
    other_pixel[9, 11, 11] ^= 1
    other_label = np.array([0, 1, 2, 3, 0, 1, 2, 3, 2, 3])
    first = digest_of(samples(GRAYS), "first")
    assert digest_of(samples(GRAYS), "again") == first
    assert digest_of(samples(other_pixel), "pixel") != first
    assert digest_of(replace(samples(GRAYS), labels=other_label), "label") != first
    assert len(bytes.fromhex(first)) == 32
