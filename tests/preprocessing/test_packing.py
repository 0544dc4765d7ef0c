import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from heated.common.errors import InputError
from heated.common.samples import Samples
from heated.data.packed_dataset import digest, unpack
from heated.datasets.splits import split
from heated.preprocessing import packing
from heated.preprocessing.packing import pack

GREY = np.random.default_rng(0).integers(0, 256, (10, 12, 12), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (10, 9, 14, 3), dtype=np.uint8)
OPTIONS = {"fit": "squash", "colour": "grey", "filter": "bilinear", "damaged": 0, "workers": 2}


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
    return unpack(folder)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def with_damage(*numbers):
    return [b"damaged" if i in numbers else png(image) for i, image in enumerate(GREY)]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_packed_is_unpacked(tmp_path, workers):
    for name, images in {"arrays": GREY, "files": with_damage()}.items():
        given = samples(images)
        data = packed(given, tmp_path / name, workers=workers)
        np.testing.assert_array_equal(data.images, GREY[..., None])
        assert data.images.dtype == np.uint8
        np.testing.assert_array_equal(data.labels, given.labels)
        assert data.labels.dtype == np.int64
        assert data.class_names == given.class_names
        for part, mask in split(given, "halves").masks().items():
            np.testing.assert_array_equal(data.split.masks()[part], mask)
            assert data.split.masks()[part].dtype == bool


def test_what_is_tested_is_kept(tmp_path):
    given = samples(GREY)
    parted = replace(split(given, "halves"), tested="fold 1, “ß”")
    pack(given, parted, tmp_path / "p", size=12, **OPTIONS)
    assert unpack(tmp_path / "p").split.tested == "fold 1, “ß”"


def test_the_folder_holds_two_files_that_numpy_reads_without_pickle(tmp_path):
    images = packed(samples(GREY), tmp_path / "packed").images
    files = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert files == ["images.npy", "index.npz"]
    with np.load(tmp_path / "packed" / "index.npz", allow_pickle=False) as index:
        masks = {"train", "query", "gallery"}
        assert set(index) == {"labels", "class_names", "tested", "damaged"} | masks
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_images_are_packed_as_they_are_decoded(tmp_path):
    choice = {"size": 6, "fit": "crop", "colour": "rgb", "filter": "lanczos"}
    images = packed(samples(COLOUR), tmp_path / "packed", **choice).images
    assert images.shape == (10, 6, 6, 3)
    for image, given in zip(images, COLOUR, strict=True):
        np.testing.assert_array_equal(image, packing.decode(given, **choice))


def test_images_of_many_sizes_become_one_array(tmp_path):
    given = [np.full((5 + i, 20 - i), 9 * i, dtype=np.uint8) for i in range(10)]
    images = packed(samples(given), tmp_path / "packed", size=7).images
    assert images.shape == (10, 7, 7, 1)
    for i, image in enumerate(images):
        assert set(image.ravel()) == {9 * i}


def test_the_former_folder_stays_until_the_new_one_is_whole(tmp_path):
    folder = tmp_path / "packed"
    packed(samples(GREY), folder)
    before = digest(folder)

    def contents():
        yield 0, png(GREY[0])
        raise OSError("unplugged")

    with pytest.raises(OSError, match=f"{folder} cannot be made: unplugged"):
        packed(replace(samples(GREY), contents=contents), folder)
    assert digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    packed(samples(255 - GREY), folder)
    np.testing.assert_array_equal(unpack(folder).images, 255 - GREY[..., None])


def test_damaged_images_stop_the_packing_in_the_end_and_are_named(tmp_path):
    with pytest.raises(InputError) as told:
        packed(samples(with_damage(1, 6)), tmp_path / "packed", damaged=1)
    assert "2 of 10 images are damaged; allowed: 1" in str(told.value)
    assert "packing.damaged: 2" in str(told.value)
    assert "dvc repro --force --single-item download@<the data set>\n" in str(told.value)
    assert "\n  1.png: no image, or of an unknown format\n  6.png: " in str(told.value)
    assert not (tmp_path / "packed").exists()


def test_damaged_images_that_are_allowed_are_zeros_and_in_no_part(tmp_path, capsys):
    given = samples(with_damage(1, 6))
    data = packed(given, tmp_path / "packed", damaged=2)
    kept = np.isin(np.arange(10), [1, 6], invert=True)
    np.testing.assert_array_equal(data.images[..., 0], GREY * kept[:, None, None])
    for name, mask in split(given, "halves").masks().items():
        np.testing.assert_array_equal(data.split.masks()[name], mask & kept)
    with np.load(tmp_path / "packed" / "index.npz") as index:
        assert index["damaged"].tolist() == ["1.png", "6.png"]
    assert "2 damaged images are left out:\n  1.png: no image" in capsys.readouterr().err


def test_of_many_damaged_images_the_first_twenty_are_named(tmp_path):
    images = [b""] * 30
    given = replace(samples(images), labels=np.arange(30) % 4, names=[f"<{i}>" for i in range(30)])
    with pytest.raises(InputError) as told:
        packed(given, tmp_path / "packed")
    named = [i for i in range(30) if f"<{i}>" in str(told.value)]
    assert named == list(range(20))
    assert str(told.value).endswith("and 10 more")


def test_a_side_that_damage_leaves_without_classes_stops_the_packing(tmp_path):
    with pytest.raises(InputError, match="the training side has 1 classes"):
        packed(samples(with_damage(1, 5)), tmp_path / "packed", damaged=2)


def test_a_disk_without_room_is_told_before_anything_is_decoded(tmp_path):
    given = replace(samples(GREY), contents=None)
    with pytest.raises(InputError, match=r"MiB are needed for 10 images and \d+ MiB are free"):
        packed(given, tmp_path / "packed", size=2**24)


def test_few_contents_are_in_memory_at_a_time():
    decoded = []

    def contents(content):
        for number in range(100):
            assert number - len(decoded) < 2 * 2 + 2
            yield number, content

    for content in (GREY[0], b"file"):
        decoded.clear()
        decoded.extend(packing.decoded(contents(content), lambda content: content, 2))
        assert [number for number, _ in decoded] == list(range(100))


def test_what_was_not_packed_is_told_with_the_stage_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="the stage 'split' makes it"):
        unpack(tmp_path / "packed")


def test_the_digest_is_of_images_and_index(tmp_path):
    def digest_of(given, name):
        packed(given, tmp_path / name)
        return digest(tmp_path / name)

    other_pixel = GREY.copy()
    other_pixel[9, 11, 11] ^= 1
    other_label = np.array([0, 1, 2, 3, 0, 1, 2, 3, 2, 3])
    first = digest_of(samples(GREY), "first")
    assert digest_of(samples(GREY), "again") == first
    assert digest_of(samples(other_pixel), "pixel") != first
    assert digest_of(replace(samples(GREY), labels=other_label), "label") != first
    assert len(bytes.fromhex(first)) == 32
