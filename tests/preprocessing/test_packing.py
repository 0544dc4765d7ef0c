import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from heated.common.errors import InputError
from heated.common.io import read_json
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

    def contents(skip):
        return islice(((i, images[i]) for i in reversed(range(len(images)))), skip, None)

    return Samples(
        class_names=("a", "b", "ß", "d"),
        labels=np.array([0, 1, 2, 3, 0, 1, 2, 3, 3, 2]),
        names=[f"{i}.png" for i in range(10)],
        split=None,
        contents=contents,
    )


def counting(images):
    """Samples, and the numbers of those that were read."""
    given, seen = samples(images), []

    def contents(skip):
        for number, content in given.contents(skip):
            seen.append(number)
            yield number, content

    return replace(given, contents=contents), seen


def packed(given, folder, *, size=12, **options):
    source = folder.parent / "raw"
    parted = split(given, "halves")
    pack(given, parted, folder, size=size, source=source, **{**OPTIONS, **options})
    return unpack(folder)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def with_damage(*numbers):
    return [b"damaged" if i in numbers else png(image) for i, image in enumerate(GREY)]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_packed_is_unpacked(tmp_path, workers):
    given = samples(GREY)
    data = packed(given, tmp_path / "packed", workers=workers)
    np.testing.assert_array_equal(data.images, GREY[..., None])
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.labels, given.labels)
    assert data.labels.dtype == np.int64
    assert data.class_names == given.class_names
    for name, mask in split(given, "halves").masks().items():
        np.testing.assert_array_equal(data.split.masks()[name], mask)
        assert data.split.masks()[name].dtype == bool


def test_what_is_tested_is_kept(tmp_path):
    given = samples(GREY)
    parted = replace(split(given, "halves"), tested="fold 1, “ß”")
    pack(given, parted, tmp_path / "p", size=12, source=tmp_path / "raw", **OPTIONS)
    assert unpack(tmp_path / "p").split.tested == "fold 1, “ß”"


def test_the_folder_holds_two_files_that_numpy_reads_without_pickle(tmp_path):
    packed(samples(GREY), tmp_path / "packed")
    files = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert files == ["images.npy", "index.npz"]
    with np.load(tmp_path / "packed" / "index.npz", allow_pickle=False) as index:
        masks = {"train", "query", "gallery"}
        assert set(index) == {"labels", "class_names", "tested", "damaged"} | masks
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_the_images_are_mapped_and_read_only(tmp_path):
    images = packed(samples(GREY), tmp_path / "packed").images
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

    def contents(skip):
        yield from samples(GREY).contents(skip + 3)
        raise OSError("cannot be read")

    broken = replace(samples(GREY), names=list("abcdefghij"), contents=contents)
    with pytest.raises(OSError, match="cannot be read"):
        packed(broken, folder)
    assert digest(folder) == before
    packed(samples(255 - GREY), folder)
    np.testing.assert_array_equal(unpack(folder).images, 255 - GREY[..., None])


def stopped(images, folder, monkeypatch, **options):
    """A packing that ends in an error when five images are packed, and that is kept."""
    monkeypatch.setattr(packing, "KEPT_EVERY", 1)
    monkeypatch.setattr(packing, "PIECE", 1)

    def contents(skip):
        yield from islice(samples(images).contents(skip), 7)  # two more are ahead
        raise OSError("unplugged")

    kept = folder.with_name(f".{folder.name}.partial")
    told = f"{folder} cannot be made: unplugged.\nWhat is packed so far stays in {kept}; the next"
    with pytest.raises(OSError, match=told):
        packed(replace(samples(images), contents=contents), folder, workers=1, **options)
    assert read_json(kept / "progress.json")["done"] == 5


def test_the_same_call_goes_on_where_the_last_one_was_stopped(tmp_path, monkeypatch):
    packed(samples(GREY), tmp_path / "whole")
    stopped(GREY, tmp_path / "packed", monkeypatch)
    given, seen = counting(GREY)
    packed(given, tmp_path / "packed")
    assert seen == [4, 3, 2, 1, 0]
    assert digest(tmp_path / "packed") == digest(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        {"filter": "lanczos"},
        {"fit": "crop"},
        {"colour": "inverted"},
        {"size": 11},
        {"names": [f"{i}.jpg" for i in range(10)]},
        {"labels": np.array([0, 1, 2, 3, 0, 1, 2, 3, 2, 3])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_call_starts_over(tmp_path, monkeypatch, change):
    stopped(GREY, tmp_path / "packed", monkeypatch)
    given, seen = counting(GREY)
    if change.keys() & {"names", "labels"}:
        packed(replace(given, **change), tmp_path / "packed")
    else:
        packed(given, tmp_path / "packed", **change)
    assert len(seen) == 10


def test_other_source_files_start_over(tmp_path, monkeypatch):
    stopped(GREY, tmp_path / "packed", monkeypatch)
    (tmp_path / "raw" / "part").mkdir(parents=True)
    (tmp_path / "raw" / "part" / "archive.zip").write_bytes(b"other")
    given, seen = counting(GREY)
    packed(given, tmp_path / "packed")
    assert len(seen) == 10


@pytest.mark.parametrize("change", [{"workers": 5}, {"damaged": 3}])
def test_what_does_not_decide_the_bytes_does_not_start_over(tmp_path, monkeypatch, change):
    stopped(GREY, tmp_path / "packed", monkeypatch)
    given, seen = counting(GREY)
    packed(given, tmp_path / "packed", **change)
    assert len(seen) == 5


CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path

from heated.preprocessing import packing
from heated.datasets.image_folder import in_directories
from heated.datasets.splits import split

folder, hangs = Path(sys.argv[1]), sys.argv[2] == "hangs"
packing.KEPT_EVERY, packing.PIECE = 10, 1
given = in_directories(folder / "raw" / "images.zip", str)
read = 0

def contents(skip):
    global read
    for number, content in given.contents(skip):
        if hangs and read == 100:
            time.sleep(600)
        read += 1
        yield number, content

packing.pack(
    replace(given, contents=contents), split(given, "halves"), folder / "packed", size=16,
    fit="squash", colour="rgb", filter="bilinear", damaged=0, workers=2, source=folder / "raw",
)
print(read)
"""


def child(folder, *arguments):
    command = [sys.executable, "-c", CHILD, str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_process_is_taken_up_by_the_next_to_the_same_bytes(tmp_path):
    (tmp_path / "raw").mkdir()
    with zipfile.ZipFile(tmp_path / "raw" / "images.zip", "w") as archive:
        for i in range(200):
            archive.writestr(f"class {i % 4}/{i}.png", png(np.roll(COLOUR[i % 10], i, axis=1)))
    progress = tmp_path / ".packed.partial" / "progress.json"
    killed = child(tmp_path, "hangs")
    while not (progress.exists() and read_json(progress)["done"] >= 90):
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "packed").exists()

    told, _ = child(tmp_path, "ends").communicate()
    assert 100 <= int(told) <= 110
    resumed = digest(tmp_path / "packed")
    (tmp_path / "packed" / "images.npy").unlink()
    told, _ = child(tmp_path, "ends").communicate()
    assert int(told) == 200
    assert digest(tmp_path / "packed") == resumed


def test_a_folder_that_another_process_packs_is_left_to_it(tmp_path):
    (tmp_path / ".packed.partial").mkdir()
    with (
        FileLock(tmp_path / ".packed.partial" / "lock"),
        pytest.raises(InputError, match="another process packs .*packed; wait until it has ended"),
    ):
        packed(samples(GREY), tmp_path / "packed")
    packed(samples(GREY), tmp_path / "packed")


def test_damaged_images_stop_the_packing_in_the_end_and_are_named(tmp_path):
    given, seen = counting(with_damage(1, 6))
    with pytest.raises(InputError) as told:
        packed(given, tmp_path / "packed", damaged=1)
    assert len(seen) == 10
    assert "2 of 10 images are damaged; allowed: 1" in str(told.value)
    assert "packing.damaged: 2" in str(told.value)
    assert "dvc repro --force --single-item download@<the data set>\n" in str(told.value)
    assert "\n  1.png: no image, or of an unknown format\n  6.png: " in str(told.value)
    assert not (tmp_path / "packed").exists()


def test_damaged_images_that_are_allowed_are_zeros_and_in_no_part(tmp_path, capsys):
    with pytest.raises(InputError):
        packed(samples(with_damage(1, 6)), tmp_path / "packed")
    given, seen = counting(with_damage(1, 6))
    data = packed(given, tmp_path / "packed", damaged=2)
    assert seen == []  # the larger number is all that was missing
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
    given, seen = counting(GREY)
    with pytest.raises(InputError, match=r"MiB are needed for 10 images and \d+ MiB are free"):
        packed(given, tmp_path / "packed", size=2**24)
    assert seen == []


@pytest.mark.parametrize(
    ("limit", "value", "content"), [("PIECE", 1, GREY[0]), ("FULL", 100, bytes(100))]
)
def test_few_contents_are_in_memory_at_a_time(monkeypatch, limit, value, content):
    monkeypatch.setattr(packing, limit, value)
    read, decoded = 0, 0

    def contents():
        nonlocal read
        for number in range(100):
            read += 1
            assert read - decoded <= 2 * 2 + 2
            yield number, content

    for _ in packing.done(contents(), list, 2):
        decoded += 1
    assert decoded == read == 100


def test_a_piece_ends_by_its_count_or_its_bytes(monkeypatch, subtests):
    sizess = [
        ([1] * 7, [3, 3, 1]),
        ([10, 1, 1, 1], [1, 3]),
        ([4, 6, 1, 12, 5, 4, 3], [2, 2, 3]),
        ([30] * 3, [1, 1, 1]),
        ([], []),
    ]
    for (sizes, expected), kind in product(
        sizess, [bytes, lambda size: np.zeros((size, 1, 3), np.uint8)]
    ):
        with (
            subtests.test(sizes=sizes, expected=expected, kind=kind),
            monkeypatch.context() as patch,
        ):
            patch.setattr(packing, "PIECE", 3)
            patch.setattr(packing, "FULL", 10 if kind is bytes else 30)
            contents = [(number, kind(size)) for number, size in enumerate(sizes)]
            made = list(packing.pieces(contents))
            assert [len(piece) for piece in made] == expected
            assert [number for piece in made for number, _ in piece] == list(range(len(sizes)))


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
