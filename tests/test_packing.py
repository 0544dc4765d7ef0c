from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from heated.packing import digest, pack, unpack
from heated.samples import Samples
from heated.splits import split

GREY = np.random.default_rng(0).integers(0, 256, (10, 12, 12), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (10, 9, 14, 3), dtype=np.uint8)


def samples(images):
    return Samples(
        class_names=("a", "b", "ß", "d"),
        labels=np.array([0, 1, 2, 3, 0, 1, 2, 3, 3, 2]),
        train_classes=None,
        image=lambda i: images[i],
    )


def packed(given, folder, *, size):
    pack(given, split(given, "halves"), folder, size=size)
    return unpack(folder)


def test_what_is_packed_is_unpacked(tmp_path):
    given = samples(GREY)
    data = packed(given, tmp_path / "packed", size=12)
    np.testing.assert_array_equal(data.images, GREY[..., None])
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.labels, given.labels)
    assert data.labels.dtype == np.int64
    assert data.class_names == given.class_names
    for name, mask in split(given, "halves").masks().items():
        np.testing.assert_array_equal(data.split.masks()[name], mask)
        assert data.split.masks()[name].dtype == bool


def test_the_folder_holds_two_files_that_numpy_reads_without_pickle(tmp_path):
    packed(samples(GREY), tmp_path / "packed", size=12)
    files = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert files == ["images.npy", "index.npz"]
    with np.load(tmp_path / "packed" / "index.npz", allow_pickle=False) as index:
        assert set(index) == {"labels", "class_names", "train", "query", "gallery"}


def test_the_images_are_mapped_and_read_only(tmp_path):
    images = packed(samples(GREY), tmp_path / "packed", size=12).images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_an_image_is_squashed_to_a_square_whatever_its_aspect(tmp_path):
    images = packed(samples(COLOUR), tmp_path / "packed", size=6).images
    assert images.shape == (10, 6, 6, 3)
    for image, given in zip(images, COLOUR, strict=True):
        expected = Image.fromarray(given).resize((6, 6), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, expected)


def test_images_of_many_sizes_become_one_array(tmp_path):
    given = replace(samples(GREY), image=lambda i: np.full((5 + i, 20 - i), 9 * i, dtype=np.uint8))
    images = packed(given, tmp_path / "packed", size=7).images
    assert images.shape == (10, 7, 7, 1)
    for i, image in enumerate(images):
        assert set(image.ravel()) == {9 * i}


def test_shrinking_averages_where_a_pick_of_pixels_would_flicker(tmp_path):
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    images = packed(replace(samples(GREY), image=lambda i: board), tmp_path / "p", size=8).images
    assert np.abs(images.astype(int) - 127).max() < 40


def test_a_part_is_the_masked_images_and_labels_in_their_order(tmp_path):
    data = packed(samples(GREY), tmp_path / "packed", size=12)
    mask = np.array([False, True, False, False, True, False, False, False, True, False])
    images, labels = data.part(mask)
    np.testing.assert_array_equal(images, GREY[[1, 4, 8], ..., None])
    assert labels.tolist() == [1, 0, 3]


def test_an_unreadable_image_leaves_the_former_folder(tmp_path):
    folder = tmp_path / "packed"
    packed(samples(GREY), folder, size=12)
    before = digest(folder)

    def image(i):
        if i == 7:
            raise OSError("cannot be read")
        return GREY[0]

    broken = replace(samples(GREY), image=image)
    with pytest.raises(OSError, match="cannot be read"):
        pack(broken, split(broken, "halves"), folder, size=12)
    assert digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_what_was_not_packed_is_told_with_the_stage_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="the stage 'split' makes it"):
        unpack(tmp_path / "packed")


def test_the_digest_is_of_images_and_index(tmp_path):
    def digest_of(given, name):
        packed(given, tmp_path / name, size=12)
        return digest(tmp_path / name)

    other_pixel = GREY.copy()
    other_pixel[9, 11, 11] ^= 1
    other_label = np.array([0, 1, 2, 3, 0, 1, 2, 3, 2, 3])
    first = digest_of(samples(GREY), "first")
    assert digest_of(samples(GREY), "again") == first
    assert digest_of(samples(other_pixel), "pixel") != first
    assert digest_of(replace(samples(GREY), labels=other_label), "label") != first
    assert len(bytes.fromhex(first)) == 32
