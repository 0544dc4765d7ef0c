import hashlib
from dataclasses import replace
from itertools import product
from pathlib import Path

import layouts
import numpy as np
from sklearn.datasets import load_digits

from heated.datasets import SOURCES
from heated.datasets.download import Cache, download_all
from heated.datasets.splits import split

BY_HAND = {
    "cars196": {"car_ims.tgz", "cars_annos.mat"},
    "in-shop": {"img.zip", "list_eval_partition.txt"},
}


def test_every_file_has_addresses_or_instructions_and_a_full_checksum(subtests):
    for name in SOURCES.keys() - {"folder"}:
        with subtests.test(name=name):
            files = SOURCES[name](**({"rotations": 4} if name == "digits" else {})).files
            assert len({file.name for file in files}) == len(files) > 0
            by_hand = {file.name for file in files if file.by_hand}
            assert by_hand == BY_HAND.get(name, set())
            for file in files:
                assert bool(file.addresses) != (file.name in by_hand)
                if file.name in BY_HAND["in-shop"]:  # their publishers give no checksum
                    assert file.checksum is None
                else:
                    algorithm, digest = file.checksum.algorithm, file.checksum.digest
                    assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size


def test_the_data_sets_have_as_many_images_as_the_papers():
    images = {"omniglot-small": 4840, "omniglot": 32460, "mnist": 65000}
    images |= {"cub200": 11788, "cars196": 16185, "sop": 120053, "in-shop": 52712}
    assert SOURCES.keys() == {*images, "digits", "folder"}
    for name, count in images.items():
        assert sum(number for number, _ in SOURCES[name]().counts.values()) == count


def test_digits_are_scikit_learns_and_the_classes_of_a_digit_its_quarter_turns(tmp_path):
    source = SOURCES["digits"](rotations=4)
    raw, cache = tmp_path / "raw", Cache(tmp_path, 1)
    download_all(source.files, raw, mirror=None, subfolder="digits", cache=cache)
    digits, expected = source.read(raw), load_digits()
    contents = dict(digits.contents())
    assert digits.labels.shape == (7188,)
    assert digits.labels.dtype == np.int64
    assert len(digits.class_names) == len(set(digits.class_names)) == 40
    assert digits.split is None
    np.testing.assert_array_equal(digits.labels[::4] // 4, expected.target)
    for i in range(0, 7188, 97):
        image, turn = divmod(i, 4)
        gray = np.rint(expected.images[image] * 255 / 16)
        np.testing.assert_array_equal(contents[i], np.rot90(gray, turn))
        assert contents[i].dtype == np.uint8
        assert digits.labels[i] == 4 * expected.target[image] + turn
        name = f"{expected.target[image]} turned {90 * turn}"
        assert digits.class_names[digits.labels[i]] == name
    assert max(contents[4 * i].max() for i in range(100)) == 255
    halves = split(digits, "halves")
    assert set(digits.labels[halves.train] // 4) == {0, 1, 2, 3, 4}
    upright = SOURCES["digits"](rotations=1).read(raw)
    np.testing.assert_array_equal(upright.labels, expected.target)
    assert upright.class_names[3] == "3 turned 0"
    for i, content in upright.contents():
        np.testing.assert_array_equal(content, contents[4 * i])


def test_greek_and_latin_are_for_training_only_and_each_character_is_a_class(tmp_path):
    drawings, (train, test) = {}, ("images_background_small1", "images_background_small2")
    for seed, part in enumerate((train, test)):
        names = [
            f"{part}/{alphabet}/character{character:02}/{character:04}_{n:02}.png"
            for alphabet, character, n in product(["Greek", "Latin", "Korean"], [1, 2], [1, 2, 3])
        ]
        seeds = enumerate(names, 100 * seed)
        files = {n: layouts.random_image(i, mode="1", form="PNG") for i, n in seeds}
        drawings |= files
        layouts.write_zip(tmp_path / f"{part}.zip", dict(reversed(files.items())))
    counts = {"train": (18, 6), "query": (6, 2)}
    samples = replace(SOURCES["omniglot-small"](), counts=counts).read(tmp_path)
    excluded = (f"{test}/Greek", f"{test}/Latin")
    expected = [name for name in sorted(drawings) if not name.startswith(excluded)]
    assert list(samples.names) == expected
    assert list(samples.class_names) == sorted({str(Path(name).parent) for name in expected})
    assert samples.labels.tolist() == [c for c in range(8) for _ in range(3)]
    assert samples.split.train.tolist() == [name.startswith(train) for name in expected]
    assert dict(samples.contents()) == {i: drawings[name] for i, name in enumerate(expected)}
