"""The readers of the paper's data sets on small archives in their layouts."""

import gzip
import os
import shutil
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath

import layouts
import numpy as np
import pytest

from heated.common.errors import InputError
from heated.common.samples import SEEN
from heated.datasets import SOURCES, handwriting
from heated.datasets.download import Cache, download_all
from heated.datasets.http import DownloadFailed
from heated.datasets.local_copy import find_copy, store_copy
from heated.datasets.splits import split
from heated.preprocessing.decoding import decode


def small(name, **options):
    """A data set with the counts of its small archive."""
    counts = {"train": (6, 2), "query": (6, 2)}
    return replace(SOURCES[name](), **{"counts": counts, **options})


# By name: the builder of the files, and the data set.
SETS = {
    "cub200": (layouts.cub200, small("cub200")),
    "cars196": (layouts.cars196, small("cars196")),
    "sop": (layouts.sop, small("sop")),
    "in-shop": (
        layouts.in_shop,
        small("in-shop", counts={"train": (4, 2), "query": (2, 2), "gallery": (4, 2)}),
    ),
    "mnist": (
        layouts.mnist,
        small(
            "mnist",
            counts={"train": (20, 10), "query": (20, 10)},
            reader=partial(handwriting.read_mnist, skip=5),
        ),
    ),
    "omniglot": (layouts.omniglot, small("omniglot")),
    "omniglot, as a copy": (partial(layouts.omniglot, together=True), small("omniglot")),
}


def ends(names, endings):
    return [next((end for end in endings if name.endswith(end)), name) for name in names]


def classes_of(samples):
    return [samples.class_names[label] for label in samples.labels]


def test_every_set_is_read_in_its_layout_and_with_its_own_split(new_folder, subtests):
    options = {"size": 20, "fit": "squash", "color_mode": "rgb", "filter": "bilinear"}
    for name, (build, source) in SETS.items():
        with subtests.test(name=name):
            expected = build(folder := new_folder())
            samples = source.read(folder)
            # every image has its class, in the order of the classes
            found = zip(ends(samples.names, expected), classes_of(samples), strict=True)
            assert list(found) == list(expected.items())
            # it is read once, and no two have the same pixels
            contents = dict(samples.contents())
            assert sorted(contents) == list(range(len(samples.labels)))
            assert len(list(samples.contents())) == len(samples.labels)
            pixels = {decode(content, **options).tobytes() for content in contents.values()}
            assert len(pixels) == len(samples.labels)
            masks = split(samples, "source")
            assert not (masks.train & (masks.query | masks.gallery)).any()
            apart = (masks.query & ~masks.gallery).any()
            assert apart == (name == "in-shop")
            # the whole set's reader expects the whole set
            with pytest.raises(InputError, match=r"train: got \d+ images of \d+ .*, expected \d+"):
                SOURCES[name.partition(",")[0]]().read(folder)


def test_the_counts_of_the_data_sets_are_the_papers():
    counts = {
        "omniglot-small": {"train": (2720, 136), "query": (2120, 106)},
        "omniglot": {"train": (19280, 964), "query": (13180, 659)},
        "mnist": {"train": (55000, 10), "query": (10000, 10)},
        "cub200": {"train": (5864, 100), "query": (5924, 100)},
        "cars196": {"train": (8054, 98), "query": (8131, 98)},
        "sop": {"train": (59551, 11318), "query": (60502, 11316)},
        "in-shop": {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
    }
    names = SOURCES.keys() - {"digits", "folder"}
    assert {name: SOURCES[name]().counts for name in names} == counts


# --- single sets -----------------------------------------------------------------------------


def test_birds_train_up_to_species_100_and_cars_up_to_class_98(new_folder):
    for name, expected in [
        ("cub200", {"099.Ovenbird", "100.Brown_Pelican"}),
        ("cars196", {layouts.CARS[96], layouts.CARS[97]}),  # whatever their official part
    ]:
        build, source = SETS[name]
        build(folder := new_folder())
        samples = source.read(folder)
        assert {samples.class_names[i] for i in samples.labels[samples.split.train]} == expected


def test_a_copy_of_the_cars_with_a_directory_per_class_gives_the_same_classes(tmp_path):
    layouts.write_zip(tmp_path / "cars196.zip", layouts.cars196_by_class())
    samples = small("cars196", counts={"train": (196, 98), "query": (196, 98)}).read(tmp_path)
    assert list(samples.class_names) == layouts.CARS
    assert [PurePosixPath(name).parent.name for name in samples.names] == classes_of(samples)


def test_the_message_for_the_cars_says_where_to_put_a_copy(tmp_path):
    files, cache = SOURCES["cars196"]().files, Cache(tmp_path / "cache", 1)
    with pytest.raises(DownloadFailed) as caught:
        download_all(files, tmp_path / "raw", mirror="mirror", subfolder="cars196", cache=cache)
    for name in ("car_ims.tgz", "cars_annos.mat"):
        assert (
            "Get it by hand from a copy of the original site, and put it at "
            f"mirror/cars196/{name}, where HEATED_MIRROR or download.mirror is mirror. Or put a "
            "copy with one directory per class (a folder, .zip or .tar) at mirror/cars196, in "
            "place of all the set's files."
        ) in str(caught.value)


def test_an_unknown_part_of_in_shop_is_an_error(tmp_path):
    layouts.in_shop(tmp_path)
    path = tmp_path / "list_eval_partition.txt"
    path.write_bytes(path.read_bytes().replace(b"gallery", b"garden", 1))
    with pytest.raises(InputError, match="got the parts garden, expected train, query, gallery"):
        SETS["in-shop"][1].read(tmp_path)


def test_mnist_skips_the_first_images_and_keeps_the_bytes_of_the_others(tmp_path):
    layouts.mnist(tmp_path)
    train, test = (
        gzip.decompress((tmp_path / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        for part in ("train", "t10k")
    )
    contents = [content.tobytes() for _, content in SETS["mnist"][1].read(tmp_path).contents()]
    assert b"".join(contents) == train[5 * 28 * 28 :] + test


IN_SHOP_LIST = "list_eval_partition.txt"
DAMAGED = [  # set, damaged file, its content, error; None: the first 9,000 bytes
    ("cub200", "images.txt", b"one 099.Ovenbird/1.jpg\n", "ValueError"),
    ("cub200", "images.txt", b"\xff\xfe\0", "UnicodeDecodeError"),
    ("cub200", "image_class_labels.txt", b"99 1\n", "KeyError"),
    ("cars196", "cars_annos.mat", b"<html>not found</html>" * 20, "ValueError"),
    ("cars196", "cars_annos.mat", b"", "MatReadError"),
    ("cars196", "cars_annos.mat", None, "OSError"),
    ("in-shop", IN_SHOP_LIST, b"1\nhead\nimg/1.jpg 1\n", "ValueError"),
    ("in-shop", IN_SHOP_LIST, b"\xff\xfe\0", "UnicodeDecodeError"),
    ("sop", "Ebay_train.txt", b"head\n1 1 1\n", "ValueError"),
    ("sop", "Ebay_test.txt", b"head\n1 x 1 a.jpg\n", "ValueError"),
    ("sop", "Ebay_test.txt", b"\xff\xfe\0", "UnicodeDecodeError"),
]


def unpacked(name, folder):
    """Write a set's files, unpacked, into the folder; return the class of each image."""
    made = folder / "made"
    made.mkdir(parents=True)
    classes = SETS[name][0](made)
    for path in sorted(made.iterdir()):
        if path.suffix in (".zip", ".tgz"):
            shutil.unpack_archive(path, folder, "zip" if path.suffix == ".zip" else "gztar")
        else:
            path.replace(folder / path.name)
    shutil.rmtree(made)
    return classes


def stored(copy, raw):
    """The folder `raw` with a user's copy."""
    raw.mkdir()
    store_copy(copy, raw)
    return raw


def test_a_damaged_table_is_named(new_folder, subtests):
    for name, table, content, error in DAMAGED:
        with subtests.test(name=name, content=content):
            unpacked(name, (folder := new_folder()) / "set")
            (path,) = (folder / "set").rglob(table)
            path.write_bytes(path.read_bytes()[:9000] if content is None else content)
            copy = path.parent if name in ("cub200", "sop") else folder / "set"
            with pytest.raises(
                InputError, match=rf"{table}.* is damaged \({error}: .*Fetch it again"
            ):
                SETS[name][1].read(stored(copy, folder / "raw"))


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    files, _ = layouts.cub200_files()
    lost = "CUB_200_2011/images/101.White_Pelican/White_Pelican_0001_1.jpg"
    layouts.write_tar(tmp_path / "a.tgz", {n: content for n, content in files.items() if n != lost})
    with pytest.raises(InputError, match=rf"a\.tgz: 1 images .* are missing, such as {lost}"):
        SETS["cub200"][1].read(tmp_path)


def test_a_file_that_is_no_idx_file_is_an_error(tmp_path):
    layouts.mnist(tmp_path)
    whole = layouts.idx(np.zeros((3, 2)))
    short = gzip.compress(gzip.decompress(whole)[:-1])
    for content, match in ((short, "expected an idx file"), (whole[:-9], "is damaged")):
        (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(InputError, match=match):
            SETS["mnist"][1].read(tmp_path)


# --- copies ----------------------------------------------------------------------------------


def test_an_unpacked_copy_gives_the_same_samples(new_folder, subtests):
    for name, subfolder in product(["cub200", "cars196", "in-shop"], ["", "subfolder"]):
        with subtests.test(name=name, subfolder=subfolder):
            root = new_folder()
            folder = root / "mirror" / subfolder
            place = folder / "CUB_200_2011" if name == "cub200" else folder / name
            expected = unpacked(name, folder if name == "cub200" else place)
            source = SETS[name][1]
            copy = find_copy(source, str(root / "mirror"), subfolder or name)
            assert copy == place
            samples = source.read(stored(copy, root / "raw"))
            assert ends(samples.names, expected) == list(expected)
            assert classes_of(samples) == list(expected.values())
            for i, content in samples.contents():
                (path,) = folder.rglob(f"*/{samples.names[i].partition('/')[2]}")
                assert path.read_bytes() == content


def test_a_folder_with_some_of_the_sets_archives_is_no_copy(new_folder):
    for name in ["cars196", "omniglot", "in-shop"]:  # what is missing is downloaded
        folder = new_folder()
        (folder / name).mkdir()
        build, source = SETS[name]
        build(folder / name)
        (folder / name / source.files[1].name).unlink()
        assert find_copy(source, str(folder), name) is None


def test_the_same_folder_gives_the_same_bytes(new_folder):
    files, _ = layouts.cub200_files()
    zips = []
    for ordered in (files, dict(reversed(files.items()))):
        layouts.write_files(folder := new_folder(), ordered)
        (path,) = stored(folder / "CUB_200_2011", folder / "raw").iterdir()
        zips.append(path.read_bytes())
    assert zips[0] == zips[1]


def test_without_a_copy_the_sets_own_files_are_downloaded(tmp_path):
    source = SOURCES["cub200"]()
    for mirror in (None, "https://example.org/mirror", str(tmp_path)):
        assert find_copy(source, mirror, "cub200") is None
    layouts.write_files(tmp_path, layouts.cub200_files()[0])
    assert find_copy(source, str(tmp_path), "cub200") is not None
    layouts.cub200(tmp_path)  # the set's own files are preferred to a copy
    assert find_copy(source, str(tmp_path), "cub200") is None


def test_a_linked_directory_and_a_name_that_no_zip_can_store_are_errors(tmp_path):
    layouts.write_files(tmp_path, layouts.cub200_files()[0])
    folder = tmp_path / "CUB_200_2011"
    (folder / "cycle").symlink_to(tmp_path)
    with pytest.raises(InputError, match="got a link to a directory"):
        stored(folder, tmp_path / "raw")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    with pytest.raises(InputError, match=r"CUB_200_2011: the name 'caf\\udce9\.txt' is not UTF-8"):
        stored(folder, tmp_path / "raw2")


def test_free_space_is_checked_before_a_copy_is_made(new_folder, monkeypatch):
    files, _ = layouts.cub200_files()
    for kind in ("folder", "zip"):
        folder = new_folder()
        copy = folder / ("CUB_200_2011" if kind == "folder" else "birds.zip")
        if kind == "folder":
            layouts.write_files(folder, files)
        else:
            layouts.write_zip(copy, files)
        paths = [path for path in (copy, *copy.rglob("*")) if path.is_file()]
        total = sum(path.stat().st_size for path in paths)
        usage = shutil.disk_usage(folder)._replace(free=total - 1)
        match = rf"{folder}: cannot copy {copy}: .* {total - 1:,} bytes .* expected {total:,}"
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            with pytest.raises(DownloadFailed, match=match):
                stored(copy, folder / "raw")
        assert list((folder / "raw").iterdir()) == []


def test_a_disk_that_fills_up_is_named_with_the_copy(tmp_path):
    layouts.write_files(tmp_path, layouts.cub200_files()[0])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "CUB_200_2011.zip").symlink_to("/dev/full")
    with pytest.raises(DownloadFailed, match=r"cannot copy .*/CUB_200_2011: .*No space left"):
        store_copy(tmp_path / "CUB_200_2011", tmp_path / "raw")


# --- a folder --------------------------------------------------------------------------------

ZOO = [f"zoo/{name}/{i}.png" for i, name in enumerate(["ape", "ape", "bee", "bee", "cat"] * 2)]
SHOP = {"train": "ab", "query": "cd", "gallery": "cd"}


def pictures(names):
    """An image per name, all different."""
    return {name: layouts.random_image(seed) for seed, name in enumerate(names)}


def in_parts(parts):
    """Images 1 and 2 of each class of each part."""
    return pictures(f"{part}/{c}/{n}.jpg" for part, cs in parts.items() for c in cs for n in (1, 2))


def read_folder(folder: Path, files, layout="classes", kind="folder"):
    """Samples of a user's files, stored unpacked, as a zip or as a tar."""
    suffix = {"folder": "", "zip": ".zip", "tar": ".tar.gz"}[kind]
    write = {"folder": layouts.write_files, "zip": layouts.write_zip, "tar": layouts.write_tar}[
        kind
    ]
    write(path := folder / f"images{suffix}", files)
    source = SOURCES["folder"](path=str(path), layout=layout)
    return source.read(stored(find_copy(source, None, "folder"), folder / "raw"))


def test_a_class_is_a_directory_in_every_kind_of_storage(new_folder, subtests):
    extra = {"zoo/read me.txt": b"", "__MACOSX/zoo/ape/._0.png": b"x", "zoo/ape/._1.png": b"x"}
    for kind in ["folder", "zip", "tar"]:
        with subtests.test(kind=kind):
            samples = read_folder(new_folder(), pictures(ZOO) | extra, kind=kind)
            assert samples.class_names == ("ape", "bee", "cat")
            assert np.bincount(samples.labels).tolist() == [4, 4, 2]
            assert samples.split is None
    deep = pictures(["x/Greek/alpha/1.png", "x/Greek/beta/1.png", "x/Latin/a/1.png"])
    assert read_folder(new_folder(), deep).class_names == ("Greek/alpha", "Greek/beta", "Latin/a")


def test_parts_are_the_split_and_share_their_classes_names(new_folder):
    samples = read_folder(new_folder(), in_parts(SHOP), "parts", "zip")
    assert samples.class_names == tuple("abcd")
    for part, mask in split(samples, "source").masks().items():
        assert {samples.class_names[label] for label in samples.labels[mask]} == set(SHOP[part])
        assert all(n.startswith(f"{part}/") for n, m in zip(samples.names, mask, strict=True) if m)
    masks = read_folder(new_folder(), in_parts({"train": "ab", "test": "cd"}), "parts").split
    np.testing.assert_array_equal(masks.query, masks.gallery)
    assert masks.query.sum() == masks.train.sum() == 4


def test_test_classes_train_all_or_none(new_folder, subtests):
    for parts in (
        {"train": "ab", "test": "ab"},
        {"train": "abc", "test": "ab"},
        {"train": "ab", "query": "ab", "gallery": "abc"},
    ):
        with subtests.test(parts=parts):
            samples = read_folder(new_folder(), in_parts(parts), "parts")
            assert split(samples, "source").tested == SEEN
    for parts, match in [
        ({"train": "abx", "test": "abcy"}, "2 of 4 test classes in train, such as a, b,"),
        ({"train": "abcdef", "test": "abcdg"}, "4 of 5 test classes in train, such as a, b, c,"),
        ({"train": "ab", "query": "bc", "gallery": "bc"}, "1 of 2 test classes in train"),
    ]:
        with (
            subtests.test(parts=parts),
            pytest.raises(InputError, match=f"layout parts: got {match}"),
        ):
            read_folder(new_folder(), in_parts(parts), "parts")


def test_images_outside_the_layout_are_errors(new_folder, subtests):
    loose = [*in_parts({"train": "ab", "test": "cd"}), "train/1.jpg"]
    for names, layout, match in [
        (loose, "parts", r"train/1\.jpg is in no class directory, expected <part>/<class>/<image>"),
        (ZOO, "parts", "layout parts: got the directories ape, bee, cat, expected train"),
        (["ape/1.png", "Ape/1.png"], "classes", "'Ape' and 'ape' differ only in case"),
        (["1.png", "ape/2.png"], "classes", r"the image (images/)?1\.png is in no class directory"),
        ([], "classes", "got no images"),
    ]:
        with subtests.test(match=match), pytest.raises(InputError, match=match):
            read_folder(new_folder(), pictures(names) | {"ape/notes.txt": b"none"}, layout, "zip")


def test_a_relative_path_is_looked_up_in_the_project_and_then_in_the_mirror(
    new_folder, monkeypatch, subtests
):
    paths = ["../zoo", "../zoo.zip", "zoo", "./more/../zoo.zip"]
    for path, subfolder in product(paths, ["", "folder"]):
        with subtests.test(path=path, subfolder=subfolder), monkeypatch.context() as patch:
            root = new_folder()
            patch.setenv("DVC_ROOT", str(root / "project"))
            mirror = root / "mirror"
            (mirror / subfolder).mkdir(parents=True)
            layouts.write_zip(mirror / subfolder / "zoo.zip", pictures(ZOO[:3]))
            source = SOURCES["folder"](path=path, layout="classes")
            assert find_copy(source, str(mirror), "folder") == mirror / subfolder / "zoo.zip"
            if path == "zoo":
                layouts.write_files(root / "project/zoo", pictures(ZOO[:3]))
                assert find_copy(source, str(mirror), "folder") == root / "project/zoo"


def test_a_path_that_does_not_exist_is_an_error_with_all_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    layouts.write_files(tmp_path / "mirror" / "other", pictures(ZOO[:1]))
    relative = ["project/../zoo", "mirror/folder/zoo", "mirror/zoo"]
    for path, mirror, places in [
        ("../zoo", str(tmp_path / "mirror"), relative),
        (tmp_path / "no", None, ["no"]),
        (tmp_path / "other", str(tmp_path / "mirror"), ["other"]),  # absolute: only there
    ]:
        tried = " or ".join(str(tmp_path / place) for place in places)
        with pytest.raises(InputError, match=f"source.path: found nothing at {tried},"):
            find_copy(SOURCES["folder"](path=str(path), layout="classes"), mirror, "folder")
