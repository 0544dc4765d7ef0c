from collections import Counter
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from heated.common.io import sha256
from heated.datasets import SOURCES
from heated.datasets.download import Cache, Checksum, download_all
from heated.datasets.handwriting import read_omniglot
from heated.datasets.http import DownloadFailed
from heated.datasets.splits import split

BY_HAND = {"cars196": {"car_ims.tgz", "cars_annos.mat"}, "in-shop": {"img.zip"}}
UNCHECKED = {"img.zip", "list_eval_partition.txt"}  # their publishers give no checksum
BYTES = {"sha256": 32, "md5": 16}


def test_every_file_has_addresses_or_instructions_and_a_full_checksum(subtests):
    for name in SOURCES.keys() - {"folder"}:
        with subtests.test(name=name):
            files = SOURCES[name](**({"rotations": 4} if name == "digits" else {})).files
            for file in files:
                assert bool(file.addresses) != bool(file.by_hand)
                if file.checksum is None:
                    assert file.name in UNCHECKED
                else:
                    algorithm, digest = file.checksum.algorithm, file.checksum.digest
                    assert len(bytes.fromhex(digest)) == BYTES[algorithm]
            by_hand = {file.name for file in files if file.by_hand}
            assert by_hand >= BY_HAND.get(name, set())
            assert bool(by_hand) == (name in BY_HAND)
            assert len({file.name for file in files}) == len(files) > 0


# --- digits ----------------------------------------------------------------------------------


def download_digits(folder, files):
    cache = Cache(folder / "cache", 1)
    return download_all(files, folder / "raw", mirror=None, subfolder="digits", cache=cache)


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    return download_digits(tmp_path_factory.mktemp("digits"), SOURCES["digits"](rotations=4).files)


@pytest.fixture(scope="module")
def digits(digits_folder):
    return SOURCES["digits"](rotations=4).read(digits_folder)


def test_the_digits_need_the_right_checksum(tmp_path):
    (file,) = SOURCES["digits"](rotations=4).files
    with pytest.raises(DownloadFailed):
        download_digits(tmp_path, [replace(file, checksum=Checksum("sha256", "0" * 64))])
    assert not (tmp_path / "raw").exists()


def test_digits_are_scikit_learns_and_the_classes_of_a_digit_its_quarter_turns(digits):
    expected, contents = load_digits(), dict(digits.contents())
    assert digits.labels.shape == (7188,)
    assert digits.labels.dtype == np.int64
    assert len(digits.class_names) == len(set(digits.class_names)) == 40
    assert digits.split is None
    np.testing.assert_array_equal(digits.labels[::4] // 4, expected.target)
    for i in range(0, 7188, 97):
        first, turn = i - i % 4, i % 4
        upright = np.rint(expected.images[i // 4] * 255 / 16)
        np.testing.assert_array_equal(contents[i], np.rot90(upright, turn))
        assert contents[i].dtype == np.uint8
        assert digits.labels[i] == digits.labels[first] + turn
        assert (
            digits.class_names[digits.labels[i]] == f"{expected.target[i // 4]} turned {90 * turn}"
        )
    assert max(contents[4 * i].max() for i in range(100)) == 255
    halves = split(digits, "halves")
    assert set(digits.labels[halves.train] // 4) == {0, 1, 2, 3, 4}


def test_upright_digits_are_ten_classes_of_the_same_images(digits, digits_folder):
    upright = SOURCES["digits"](rotations=1).read(digits_folder)
    np.testing.assert_array_equal(upright.labels, load_digits().target)
    assert upright.class_names[3] == "3 turned 0"
    turned, plain = dict(digits.contents()), dict(upright.contents())
    assert all((plain[i] == turned[4 * i]).all() for i in range(0, 1797, 50))


# --- omniglot-small --------------------------------------------------------------------------

ALPHABETS = {
    "images_background_small1": {"Balinese": 2, "Greek": 1, "Latin": 1},
    "images_background_small2": {"Greek": 2, "Japanese_(katakana)": 2, "Latin": 1, "Tagalog": 1},
}


def test_greek_and_latin_are_for_training_only_and_each_character_is_a_class(tmp_path):
    drawings = {}
    for part, alphabets in ALPHABETS.items():
        names = [
            f"{part}/{alphabet}/character{character:02}/{character:04}_{n:02}.png"
            for alphabet, characters in alphabets.items()
            for character in range(1, characters + 1)
            for n in (1, 2, 3)
        ]
        start = len(drawings)
        files = {
            name: layouts.random_image(start + i, mode="1", form="PNG")
            for i, name in enumerate(names)
        }
        drawings |= files
        layouts.write_zip(tmp_path / f"{part}.zip", dict(reversed(files.items())))
    train, test = ALPHABETS
    reader = partial(read_omniglot, train=train, test=test, excluded=("Greek", "Latin"))
    counts = {"train": (12, 4), "query": (9, 3)}
    samples = replace(SOURCES["omniglot-small"](), reader=reader, counts=counts).read(tmp_path)

    excluded = (f"{test}/Greek", f"{test}/Latin")
    expected = [name for name in sorted(drawings) if not name.startswith(excluded)]
    assert list(samples.names) == expected
    assert list(samples.class_names) == sorted({str(Path(name).parent) for name in expected})
    assert samples.labels.tolist() == [c for c in range(7) for _ in range(3)]
    assert samples.split.train.tolist() == [name.startswith(train) for name in expected]
    assert dict(samples.contents()) == {i: drawings[name] for i, name in enumerate(expected)}


@pytest.fixture(scope="module")
def official(mirror):
    """The folder with the official archives, if this machine has them."""
    for folder in (mirror / "omniglot-small", mirror):
        if all((folder / file.name).exists() for file in SOURCES["omniglot-small"]().files):
            return folder
    pytest.skip("the official Omniglot archives are not in the mirror")


def test_the_official_archives_have_the_checksums_and_136_and_106_classes(official):
    source = SOURCES["omniglot-small"]()
    for file in source.files:
        assert sha256(official / file.name) == file.checksum.digest
    samples = source.read(official)
    masks = split(samples, "source")
    assert masks.train.sum() == 2720
    assert masks.query.sum() == masks.gallery.sum() == 2120
    assert set(Counter(samples.labels.tolist()).values()) == {20}
    assert Counter(name.split("/")[1] for name in samples.class_names) == {
        "Balinese": 24,
        "Early_Aramaic": 22,
        "Greek": 24,
        "Korean": 40,
        "Latin": 26,
        "Japanese_(katakana)": 47,
        "Sanskrit": 42,
        "Tagalog": 17,
    }
    for i, content in samples.contents():
        if i % 1500 == 0:  # a little ink on much paper
            drawing = np.asarray(Image.open(BytesIO(content)))
            assert drawing.shape == (105, 105)
            assert drawing.dtype == bool
            assert 0 < (~drawing).mean() < 0.25
