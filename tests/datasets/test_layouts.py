"""The readers of the paper's data sets on small archives in their layouts."""

import gzip
import os
import shutil
import tarfile
import unicodedata
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import PurePosixPath

import layouts
import numpy as np
import pytest

from heated.common.errors import InputError
from heated.common.io import atomic_write
from heated.common.samples import SEEN
from heated.datasets import SOURCES, handwriting
from heated.datasets.file_names import SUFFIXES, describe_left_out, list_files
from heated.datasets.http import DownloadFailed
from heated.datasets.image_folder import find_copy, store_copy
from heated.datasets.splits import split
from heated.preprocessing.decoding import decode


def small(name, **options):
    """A data set with the counts of its small archive."""
    counts = {"train": (6, 2), "query": (6, 2)}
    return replace(SOURCES[name](), **{"counts": counts, **options})


OPTIONS = {
    "in-shop": {"counts": {"train": (4, 2), "query": (2, 2), "gallery": (4, 2)}},
    "mnist": {
        "counts": {"train": (20, 10), "query": (20, 10)},
        "reader": partial(handwriting.read_mnist, skip=5),
    },
}
SETS = {  # by name: the builder of the files, and the data set
    name: (getattr(layouts, name.replace("-", "_")), small(name, **OPTIONS.get(name, {})))
    for name in ("cub200", "cars196", "sop", "in-shop", "mnist", "omniglot")
}
SETS["omniglot, as a copy"] = (partial(layouts.omniglot, together=True), small("omniglot"))


def stored(copy, raw):
    """The folder `raw` with a user's copy."""
    raw.mkdir()
    store_copy(copy, raw)
    return raw


def pictures(names):
    """An image per name, all different."""
    return {name: layouts.random_image(seed) for seed, name in enumerate(names)}


def member_ends(names, ends):
    return [next((end for end in ends if name.endswith(end)), name) for name in names]


def classes_of(samples, mask=slice(None)):
    return [samples.class_names[label] for label in samples.labels[mask]]


def test_every_set_is_read_in_its_layout_and_with_its_own_split(new_folder, subtests):
    options = {"size": 20, "fit": "squash", "color_mode": "rgb", "filter": "bilinear"}
    for name, (build, source) in SETS.items():
        with subtests.test(name=name):
            expected = build(folder := new_folder())
            samples = source.read(folder)
            # every image has its class, in the order of the classes
            pairs = zip(member_ends(samples.names, expected), classes_of(samples), strict=True)
            assert list(pairs) == list(expected.items())
            # it is read once, and no two have the same pixels
            contents = list(samples.contents())
            assert sorted(i for i, _ in contents) == list(range(len(samples.labels)))
            assert len({decode(c, **options).tobytes() for _, c in contents}) == len(contents)
            masks = split(samples, "source")
            assert not (masks.train & (masks.query | masks.gallery)).any()
            assert (masks.query & ~masks.gallery).any() == (name == "in-shop")
            trained = set(classes_of(samples, masks.train))
            if name == "cub200":
                assert trained == {"099.Ovenbird", "100.Brown_Pelican"}  # up to species 100
            if name == "cars196":
                assert trained == {*layouts.CARS[96:98]}  # whatever their official part
            # the whole set's reader expects the whole set
            with pytest.raises(InputError, match=r"train: got \d+ images of \d+ .*, expected \d+"):
                SOURCES[name.partition(",")[0]]().read(folder)


def test_a_copy_of_the_cars_with_a_directory_per_class_gives_the_same_classes(tmp_path):
    names = [f"car_data/{part}/{car}/1.jpg" for part in ("train", "test") for car in layouts.CARS]
    layouts.write_zip(tmp_path / "cars196.zip", pictures(names))
    samples = small("cars196", counts={"train": (196, 98), "query": (196, 98)}).read(tmp_path)
    assert list(samples.class_names) == layouts.CARS
    assert [PurePosixPath(name).parent.name for name in samples.names] == classes_of(samples)


def test_mnist_skips_the_first_images_and_its_other_files_must_be_complete(tmp_path):
    layouts.mnist(tmp_path)
    train, test = (
        gzip.decompress((tmp_path / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        for part in ("train", "t10k")
    )
    contents = [content.tobytes() for _, content in SETS["mnist"][1].read(tmp_path).contents()]
    assert b"".join(contents) == train[5 * 28 * 28 :] + test
    whole = layouts.idx(np.zeros((3, 2)))
    short = gzip.compress(gzip.decompress(whole)[:-1])
    for content, match in ((short, "expected an idx file"), (whole[:-9], "is damaged")):
        (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(InputError, match=match):
            SETS["mnist"][1].read(tmp_path)


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
    ("in-shop", IN_SHOP_LIST, b"1\nhead\na 1 garden\n", "the parts garden, expected train, query"),
    ("sop", "Ebay_train.txt", b"head\n1 1 1\n", "ValueError"),
    ("sop", "Ebay_test.txt", b"head\n1 x 1 a.jpg\n", "ValueError"),
    ("sop", "Ebay_test.txt", b"\xff\xfe\0", "UnicodeDecodeError"),
]


def unpack(name, folder):
    """Write a set's files, unpacked, into the folder; return the class of each image."""
    archives = folder.parent / "archives"
    for path in (archives, folder):
        path.mkdir(parents=True, exist_ok=True)
    classes = SETS[name][0](archives)
    for path in archives.iterdir():
        if path.suffix in (".zip", ".tgz"):
            shutil.unpack_archive(path, folder, "zip" if path.suffix == ".zip" else "gztar")
        else:
            shutil.copy(path, folder)
    return classes


def test_a_damaged_table_is_named(new_folder, subtests):
    for name, table, content, error in DAMAGED:
        with subtests.test(name=name, content=content):
            unpack(name, (folder := new_folder()) / "set")
            (path,) = (folder / "set").rglob(table)
            path.write_bytes(path.read_bytes()[:9000] if content is None else content)
            copy = path.parent if name in ("cub200", "sop") else folder / "set"
            damaged = rf"{table}.* is damaged \({error}: .*Fetch it again"
            with pytest.raises(InputError, match=error if " " in error else damaged):
                SETS[name][1].read(stored(copy, folder / "raw"))


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    files, _ = layouts.cub200_files()
    lost = "CUB_200_2011/images/101.White_Pelican/White_Pelican_0001_1.jpg"
    layouts.write_tar(tmp_path / "a.tgz", {n: content for n, content in files.items() if n != lost})
    with pytest.raises(InputError, match=rf"a\.tgz: 1 images .* are missing, such as {lost}"):
        SETS["cub200"][1].read(tmp_path)


def test_an_unpacked_copy_gives_the_same_samples(new_folder, subtests):
    for name, subfolder in product(["cub200", "cars196", "in-shop"], ["", "subfolder"]):
        with subtests.test(name=name, subfolder=subfolder):
            root = new_folder()
            folder = root / "mirror" / subfolder
            place = folder / ("CUB_200_2011" if name == "cub200" else name)
            expected = unpack(name, folder if name == "cub200" else place)
            source = SETS[name][1]
            assert find_copy(source, str(root / "mirror"), subfolder or name) == place
            samples = source.read(stored(place, root / "raw"))
            assert member_ends(samples.names, expected) == list(expected)
            assert classes_of(samples) == list(expected.values())
            for i, content in samples.contents():
                (path,) = place.rglob(samples.names[i])
                assert path.read_bytes() == content


def test_the_same_folder_gives_the_same_bytes(new_folder):
    files, _ = layouts.cub200_files()
    zips = []
    for ordered in (files, dict(reversed(files.items()))):
        layouts.write_files(folder := new_folder(), ordered)
        (path,) = stored(folder / "CUB_200_2011", folder / "raw").iterdir()
        zips.append(path.read_bytes())
    assert zips[0] == zips[1]


def test_without_a_complete_copy_the_sets_own_files_are_downloaded(new_folder, tmp_path):
    for name in ["cars196", "omniglot", "in-shop"]:  # without one of the set's archives
        build, source = SETS[name]
        (part := (folder := new_folder()) / name).mkdir()
        build(part)
        (part / source.files[1].name).unlink()
        assert find_copy(source, str(folder), name) is None
    source = SOURCES["cub200"]()
    for mirror in (None, "https://example.org/mirror", str(tmp_path)):
        assert find_copy(source, mirror, "cub200") is None
    layouts.write_files(tmp_path, layouts.cub200_files()[0])
    assert find_copy(source, str(tmp_path), "cub200") == tmp_path / "CUB_200_2011"
    layouts.cub200(tmp_path)  # the set's own files are preferred to a copy
    assert find_copy(source, str(tmp_path), "cub200") is None


def test_a_linked_directory_a_name_that_no_zip_can_store_and_a_full_disk_are_errors(tmp_path):
    layouts.write_files(tmp_path, layouts.cub200_files()[0])
    folder, raw = tmp_path / "CUB_200_2011", tmp_path / "raw"
    raw.mkdir()
    (raw / f"{folder.name}.zip").symlink_to("/dev/full")
    with pytest.raises(DownloadFailed, match=r"cannot copy .*/CUB_200_2011: .*No space left"):
        store_copy(folder, raw)
    (folder / "cycle").symlink_to(tmp_path)
    with pytest.raises(InputError, match="got a link to a directory"):
        store_copy(folder, raw)
    (folder / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    with pytest.raises(InputError, match=r"the name '.*CUB_200_2011/caf\\udce9\.txt' is not UTF-8"):
        store_copy(folder, raw)


def test_free_space_is_checked_before_a_copy_is_made(tmp_path, monkeypatch):
    files, _ = layouts.cub200_files()
    layouts.write_files(tmp_path, files)
    layouts.write_zip(tmp_path / "birds.zip", files)
    usage = shutil.disk_usage(tmp_path)
    for name in ("CUB_200_2011", "birds.zip"):
        copy, raw = tmp_path / name, tmp_path / f"raw of {name}"
        size = sum(path.stat().st_size for path in (copy, *copy.rglob("*")) if path.is_file())
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=size: usage._replace(free=n - 1))
        match = rf"{tmp_path}: cannot copy {copy}: .* {size - 1:,} bytes .* expected {size:,}"
        with pytest.raises(DownloadFailed, match=match):
            stored(copy, raw)
        assert list(raw.iterdir()) == []


ZOO = [f"zoo/{name}/{i}.png" for i, name in enumerate(["ape", "ape", "bee", "bee", "cat"] * 2)]


def in_parts(parts):
    """Images 1 and 2 of each class of each part."""
    return pictures(f"{part}/{c}/{n}.jpg" for part, cs in parts.items() for c in cs for n in (1, 2))


WRITERS = {"": layouts.write_files, ".zip": layouts.write_zip, ".tar.gz": layouts.write_tar}


def read_folder(folder, files, layout="classes", suffix=""):
    """Samples of a user's files, stored as a folder or an archive with the suffix."""
    WRITERS[suffix](path := folder / f"images{suffix}", files)
    source = SOURCES["folder"](path=str(path), layout=layout)
    return source.read(stored(find_copy(source, None, "folder"), folder / "raw"))


def test_a_class_is_a_directory_in_every_kind_of_storage(new_folder, subtests):
    extra = {"zoo/read me.txt": b"", "__MACOSX/zoo/ape/._0.png": b"x", "zoo/ape/._1.png": b"x"}
    for suffix in WRITERS:
        with subtests.test(suffix=suffix):
            samples = read_folder(new_folder(), pictures(ZOO) | extra, suffix=suffix)
            assert samples.class_names == ("ape", "bee", "cat")
            assert np.bincount(samples.labels).tolist() == [4, 4, 2]
            assert samples.split is None
    deep = pictures(["x/Greek/alpha/1.png", "x/Greek/beta/1.png", "x/Latin/a/1.png"])
    assert read_folder(new_folder(), deep).class_names == ("Greek/alpha", "Greek/beta", "Latin/a")


TOOLS = [
    ".ipynb_checkpoints",
    "@eaDir",
    ".Trash-0/files",
    "__MACOSX/zoo",
    "#recycle",
    "$RECYCLE.BIN",
]


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_tools_added_and_what_is_no_image_is_left_out_and_counted(new_folder, capsys, suffix):
    added = [f"{place}/{tool}/0.png" for tool in TOOLS for place in ("zoo", "zoo/cat")]
    files = pictures(ZOO + added) | {"zoo/cat/9.heic": b"x", "zoo/cat/clip.mp4": b"x"}
    samples = read_folder(new_folder(), files, suffix=suffix)
    assert samples.class_names == ("ape", "bee", "cat")
    assert len(samples.labels) == len(ZOO)
    text = capsys.readouterr().err + describe_left_out(samples.left_out)
    for name in (".heic", ".mp4", ".ipynb_checkpoints", "@eaDir", ".Trash-0", "__MACOSX"):
        assert name in text


@pytest.mark.parametrize("ending", SUFFIXES)
def test_every_ending_of_an_image_is_read_in_any_case(new_folder, ending):
    names = [name.replace(".png", end) for name in ZOO for end in (ending, ending.upper())]
    assert len(read_folder(new_folder(), pictures(names)).labels) == len(set(names))


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("name", ["100%25 #1 ?x=y&z [a]*", ".hidden", "~", "@eaDir"])
def test_any_name_of_the_folder_or_the_archive_is_only_a_name(new_folder, name, suffix):
    path = new_folder() / f"{name}{suffix}"
    WRITERS[suffix](path, pictures(ZOO))
    source = SOURCES["folder"](path=str(path), layout="classes")
    with atomic_write(new_folder() / name) as raw:
        raw.mkdir()
        store_copy(find_copy(source, None, "folder"), raw)
        assert source.read(raw).class_names == ("ape", "bee", "cat")


def test_broken_links_and_devices_named_as_images_are_errors(new_folder):
    for make in (os.mkfifo, lambda path: path.symlink_to("gone")):
        layouts.write_files(folder := new_folder(), pictures(ZOO))
        make(folder / "zoo/cat/7.png")
        with pytest.raises(InputError, match=r"cat/7\.png: got a broken link or a device"):
            list_files(folder)


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    layouts.write_files(tmp_path / "my-images", pictures(ZOO))
    source = SOURCES["folder"](path="~/my-images", layout="classes")
    assert find_copy(source, None, "folder") == tmp_path / "my-images"


def test_parts_are_not_taken_for_classes(new_folder, subtests):
    for names in (["train", "val"], ["Train", "Test", "valid"], ["training", "testing"]):
        for pattern in ("{part}/{kind}/{n}.png", "x/{kind}/{part}/{n}.png", "{part}/{n}.png"):
            with subtests.test(names=names, pattern=pattern):
                files = {
                    pattern.format(part=part, kind=kind, n=f"{kind}{n}")
                    for part, kind, n in product(names, ["ape", "bee"], range(2))
                }
                with pytest.raises(InputError, match=r"are parts of a .*Use `layout: parts`"):
                    read_folder(new_folder(), pictures(sorted(files)))
    one = [f"{kind}/{n}.png" for kind in ("train", "bus", "car") for n in range(2)]
    assert read_folder(new_folder(), pictures(one)).class_names == ("bus", "car", "train")


def test_names_that_no_later_stage_can_write_or_that_look_alike_are_errors(new_folder):
    latin = new_folder() / "a.tar"
    with tarfile.open(latin, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("ape/1.png", "café/1.png"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match=r"the name 'caf\\udce9/1\.png' is not UTF-8"):
        SOURCES["folder"](path=str(latin), layout="classes").read(latin.parent)
    twice = [unicodedata.normalize(form, "café/1.png") for form in ("NFC", "NFD")]
    samples = read_folder(new_folder(), pictures(["ape/1.png", *twice]), suffix=".zip")
    with pytest.raises(InputError, match=r"got 'café/1\.png' twice"):
        list(samples.contents())


def test_a_file_that_is_no_archive_is_named_with_the_users_path(tmp_path):
    for name in ("mine.zip", "mine.7z", "mine"):
        (tmp_path / name).write_bytes(b"<html>Sign in</html>")
        with pytest.raises(InputError, match=rf"{tmp_path / name}: got .*expected a \.zip, \.tar"):
            stored(tmp_path / name, tmp_path / f"raw of {name}")


@pytest.mark.parametrize("depth", ["", "set/", "set/img/", "__MACOSX/first/"])
@pytest.mark.parametrize("name", ["cub200", "sop", "cars196", "in-shop"])
def test_a_complete_copy_is_read_wherever_it_lies_below_its_folder(new_folder, name, depth):
    expected = unpack(name, (folder := new_folder()) / "set")
    files = {
        path.relative_to(folder / "set").as_posix(): path.read_bytes()
        for path in sorted((folder / "set").rglob("*"))
        if path.is_file()
    }
    hidden = {f"__MACOSX/img/._{n}": b"x" for n in files} if depth.startswith("__") else {}
    place = "" if hidden else depth
    copy = new_folder() / "copy"
    layouts.write_files(copy, hidden | {f"{place}{n}": content for n, content in files.items()})
    samples = SETS[name][1].read(stored(copy, new_folder() / "raw"))
    assert member_ends(samples.names, expected) == list(expected)


def test_parts_are_the_split_and_share_their_classes_names(new_folder):
    shop = {"train": "ab", "query": "cd", "gallery": "cd"}
    samples = read_folder(new_folder(), in_parts(shop), "parts", ".zip")
    assert samples.class_names == tuple("abcd")
    for part, mask in split(samples, "source").masks().items():
        assert set(classes_of(samples, mask)) == set(shop[part])
        assert all(samples.names[i].startswith(f"{part}/") for i in np.flatnonzero(mask))
    masks = read_folder(new_folder(), in_parts({"train": "ab", "test": "cd"}), "parts").split
    np.testing.assert_array_equal(masks.query, masks.gallery)
    assert masks.query.sum() == masks.train.sum() == 4


def test_test_classes_train_all_or_none(new_folder, subtests):
    for parts, match in [
        ({"train": "ab", "test": "ab"}, None),
        ({"train": "abc", "test": "ab"}, None),
        ({"train": "ab", "query": "ab", "gallery": "abc"}, None),
        ({"train": "abx", "test": "abcy"}, "2 of 4 test classes in train, such as a, b,"),
        ({"train": "abcdef", "test": "abcdg"}, "4 of 5 test classes in train, such as a, b, c,"),
        ({"train": "ab", "query": "bc", "gallery": "bc"}, "1 of 2 test classes in train"),
    ]:
        with subtests.test(parts=parts):
            if match is None:
                samples = read_folder(new_folder(), in_parts(parts), "parts")
                assert split(samples, "source").tested == SEEN
            else:
                with pytest.raises(InputError, match=f"layout parts: got {match}"):
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
        files = pictures(names) | {"ape/notes.txt": b"none"}
        with subtests.test(match=match), pytest.raises(InputError, match=match):
            read_folder(new_folder(), files, layout, ".zip")


def test_a_relative_path_is_of_the_project_and_then_of_the_mirror(new_folder, monkeypatch):
    paths = ["../zoo", "../zoo.zip", "zoo", "./more/../zoo.zip"]
    for path, subfolder in product(paths, ["", "folder"]):
        monkeypatch.setenv("DVC_ROOT", str((root := new_folder()) / "project"))
        copy = root / "mirror" / subfolder / "zoo.zip"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(b"")
        source = SOURCES["folder"](path=path, layout="classes")
        assert find_copy(source, str(root / "mirror"), "folder") == copy
        if path == "zoo":
            (root / "project/zoo").mkdir(parents=True)
            assert find_copy(source, str(root / "mirror"), "folder") == root / "project/zoo"


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
