import zipfile
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from heated.common.io import sha256
from heated.datasets import SOURCES
from heated.datasets.download import Cache, Checksum, DownloadError, gather
from heated.datasets.omniglot import reader
from heated.datasets.splits import split

ROOT = Path(__file__).parents[2]


BY_HAND = {"cars196": {"car_ims.tgz", "cars_annos.mat"}, "in-shop": {"img.zip"}}
UNCHECKED = {"img.zip", "list_eval_partition.txt"}  # their publishers give no checksum
BYTES = {"sha256": 32, "md5": 16}


OPTIONS = {"digits": {"turns": 4}}


def image(samples, number):
    """The content of one image."""
    return next(content for i, content in samples.contents() if i == number)


def test_every_file_has_addresses_or_is_told_where_to_fetch_and_a_whole_checksum(subtests):
    for name in [name for name in SOURCES if name != "folder"]:
        with subtests.test(name=name):
            files = SOURCES[name](**OPTIONS.get(name, {})).files
            assert files
            for file in files:
                assert bool(file.addresses) != bool(file.by_hand)
                if file.checksum is None:
                    assert file.name in UNCHECKED
                else:
                    assert (
                        len(bytes.fromhex(file.checksum.digest)) == BYTES[file.checksum.algorithm]
                    )
            by_hand = {file.name for file in files if file.by_hand}
            assert by_hand >= BY_HAND.get(name, set())
            assert bool(by_hand) == (name in BY_HAND)
            assert len({file.name for file in files}) == len(files)


# --- digits ----------------------------------------------------------------------------------


def fetched(folder, files):
    cache = Cache(folder / "cache", 1)
    return gather(files, folder / "raw", mirror=None, subfolder="digits", cache=cache)


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    return fetched(tmp_path_factory.mktemp("digits"), SOURCES["digits"](turns=4).files)


@pytest.fixture(scope="module")
def digits(digits_folder):
    return SOURCES["digits"](turns=4).read(digits_folder)


def test_the_digits_are_those_of_the_checksum_only(tmp_path):
    (file,) = SOURCES["digits"](turns=4).files
    with pytest.raises(DownloadError):
        fetched(tmp_path, [replace(file, checksum=Checksum("sha256", "0" * 64))])
    assert not (tmp_path / "raw").exists()


def test_digits_has_7188_images_of_40_classes(digits):
    assert digits.labels.shape == (7188,)
    assert digits.labels.dtype == np.int64
    assert len(digits.class_names) == len(set(digits.class_names)) == 40
    assert set(digits.labels) == set(range(40))
    assert digits.split is None


def test_digits_are_scikit_learns_in_256_greys(digits):
    expected = load_digits()
    np.testing.assert_array_equal(digits.labels[::4] // 4, expected.target)
    contents = dict(digits.contents())
    for i in range(0, len(expected.images), 37):
        image = contents[4 * i]
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.rint(expected.images[i] * 255 / 16))
    assert max(contents[4 * i].max() for i in range(100)) == 255


def test_the_classes_of_a_digit_are_its_quarter_turns(digits):
    contents = dict(digits.contents())
    for i in range(0, 7188, 97):
        digit, turn = divmod(int(digits.labels[i]), 4)
        first = i - i % 4
        np.testing.assert_array_equal(contents[i], np.rot90(contents[first], turn))
        assert digits.labels[first] == 4 * digit
        assert digits.class_names[digits.labels[i]] == f"{digit} turned {90 * turn}"


def test_upright_digits_are_ten_classes_of_the_unturned_images(digits, digits_folder):
    upright = SOURCES["digits"](turns=1).read(digits_folder)
    np.testing.assert_array_equal(upright.labels, load_digits().target)
    assert upright.class_names[3] == "3 turned 0"
    turned, plain = dict(digits.contents()), dict(upright.contents())
    assert all((plain[i] == turned[4 * i]).all() for i in range(0, 1797, 50))


def test_halves_of_the_digits_are_five_digits_each(digits):
    halves = split(digits, "halves")
    assert set(digits.labels[halves.train] // 4) == {0, 1, 2, 3, 4}
    assert set(digits.labels[halves.query] // 4) == {5, 6, 7, 8, 9}


# --- omniglot-small --------------------------------------------------------------------------

ALPHABETS = {
    "images_background_small1": {"Balinese": 2, "Greek": 1, "Latin": 1},
    "images_background_small2": {"Greek": 2, "Japanese_(katakana)": 2, "Latin": 1, "Tagalog": 1},
}
DRAWINGS = 3


def drawing(seed):
    """(105, 105) bool, False where there is ink."""
    return np.random.default_rng(seed).random((105, 105)) > 0.1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Archives in the official layout, members in no order, and each member's drawing."""
    folder, drawings = tmp_path_factory.mktemp("omniglot"), {}
    for part, alphabets in ALPHABETS.items():
        names = [
            f"{part}/{alphabet}/character{character:02}/{character:04}_{n:02}.png"
            for alphabet, characters in alphabets.items()
            for character in range(1, characters + 1)
            for n in range(1, DRAWINGS + 1)
        ]
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for alphabet in alphabets:
                archive.mkdir(f"{part}/{alphabet}")
            for name in reversed(names):
                drawings[name] = drawing(len(drawings))
                with archive.open(name, "w") as file:
                    Image.fromarray(drawings[name]).save(file, "PNG")
    first, second = ALPHABETS
    read = reader(first, second, left_out=("Greek", "Latin"), train=(12, 4), query=(9, 3))
    return read(folder), drawings


def test_greek_and_latin_leave_the_test_side_only(small):
    samples, _ = small
    sides = {True: set(), False: set()}
    for label, train in zip(samples.labels, samples.split.train, strict=True):
        sides[bool(train)].add(tuple(samples.class_names[label].split("/")[:2]))
    first, second = ALPHABETS
    assert sides[True] == {(first, alphabet) for alphabet in ("Balinese", "Greek", "Latin")}
    assert sides[False] == {(second, "Japanese_(katakana)"), (second, "Tagalog")}


def test_a_class_is_a_character_with_all_its_drawings_whatever_the_archives_order(small):
    samples, _ = small
    assert len(samples.class_names) == len(set(samples.class_names)) == 4 + 3
    assert list(samples.class_names) == sorted(samples.class_names)
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == [c for c in range(7) for _ in range(DRAWINGS)]


def test_every_drawing_stands_under_its_own_label(small):
    samples, drawings = small
    by_class = {name: [] for name in samples.class_names}
    for path in sorted(drawings):
        if str(Path(path).parent) in by_class:
            by_class[str(Path(path).parent)].append(drawings[path])
    expected = [(name, ink) for name, inks in by_class.items() for ink in inks]
    assert len(expected) == len(samples.labels)
    contents = dict(samples.contents())
    for i, (name, paper) in enumerate(expected):
        assert samples.class_names[samples.labels[i]] == name
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(contents[i]))), paper)


@pytest.fixture(scope="module")
def official(mirror):
    """The folder with the official archives, where this machine has them."""
    for folder in (mirror / "omniglot-small", mirror):
        if all((folder / file.name).exists() for file in SOURCES["omniglot-small"]().files):
            return folder
    pytest.skip("the official Omniglot archives are not in the mirror")


def test_the_official_archives_have_the_checksums_and_hold_136_and_106_classes(official):
    for file in SOURCES["omniglot-small"]().files:
        assert sha256(official / file.name) == file.checksum.digest
    samples = SOURCES["omniglot-small"]().read(official)
    masks = split(samples, "source")
    assert masks.train.sum() == 2720
    assert masks.query.sum() == masks.gallery.sum() == 2120
    assert set(Counter(samples.labels.tolist()).values()) == {20}
    alphabets = Counter(name.split("/")[1] for name in samples.class_names)
    assert alphabets == {
        "Balinese": 24,
        "Early_Aramaic": 22,
        "Greek": 24,
        "Korean": 40,
        "Latin": 26,
        "Japanese_(katakana)": 47,
        "Sanskrit": 42,
        "Tagalog": 17,
    }


def test_an_official_image_is_a_little_ink_on_much_paper(official):
    samples = SOURCES["omniglot-small"]().read(official)
    for i in range(0, len(samples.labels), 1500):
        drawn = np.asarray(Image.open(BytesIO(image(samples, i))))
        assert drawn.shape == (105, 105)
        assert drawn.dtype == bool
        assert 0 < (~drawn).mean() < 0.25
