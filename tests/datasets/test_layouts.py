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
from heated.datasets import SOURCES, cars196, cub200, in_shop, local_copy, mnist, omniglot, sop
from heated.datasets.base import Source
from heated.datasets.download import Cache, DownloadError, gather
from heated.datasets.splits import split
from heated.preprocessing.decoding import decode

# By name: what writes the files, the reader with the counts of those files, images a part.
SETS = {
    "cub200": (layouts.cub200, cub200.reader(train=(6, 2), query=(6, 2)), (6, 6, 6)),
    "cars196": (layouts.cars196, cars196.reader(train=(6, 2), query=(6, 2)), (6, 6, 6)),
    "sop": (layouts.sop, sop.reader(train=(6, 2), query=(6, 2)), (6, 6, 6)),
    "in-shop": (
        layouts.in_shop,
        in_shop.reader(train=(4, 2), query=(2, 2), gallery=(4, 2)),
        (4, 2, 4),
    ),
    "mnist": (layouts.mnist, mnist.reader(5, train=(20, 10), query=(20, 10)), (20, 20, 20)),
    "omniglot": (
        layouts.omniglot,
        omniglot.reader("images_background", "images_evaluation", train=(6, 2), query=(6, 2)),
        (6, 6, 6),
    ),
    "omniglot, as a copy": (
        partial(layouts.omniglot, together=True),
        omniglot.reader("images_background", "images_evaluation", train=(6, 2), query=(6, 2)),
        (6, 6, 6),
    ),
}


def ends(names, endings):
    return [next((end for end in endings if name.endswith(end)), name) for name in names]


def test_every_set_is_read_as_it_is_and_with_its_own_split(new_folder, subtests):
    options = {"size": 20, "fit": "squash", "colour": "rgb", "filter": "bilinear"}
    for name, (build, read, counts) in SETS.items():
        with subtests.test(name=name):
            expected = build(folder := new_folder())
            samples = read(folder)
            # every image has its class, in the order of the classes
            told = [samples.class_names[label] for label in samples.labels]
            found = zip(ends(samples.names, expected), told, strict=True)
            assert list(found) == list(expected.items())
            # it is read once, and no two have the same pixels
            contents = dict(samples.contents())
            assert sorted(contents) == list(range(len(samples.labels)))
            assert len(list(samples.contents())) == len(samples.labels)
            seen = {decode(content, **options).tobytes() for content in contents.values()}
            assert len(seen) == len(samples.labels)
            # the split
            parted = split(samples, "source")
            assert tuple(mask.sum() for mask in parted.masks().values()) == counts
            assert not (parted.train & (parted.query | parted.gallery)).any()
            # the whole set's reader wants the whole set
            with pytest.raises(
                InputError, match=r"train: came \d+ images of \d+ classes; .* has \d+ of"
            ):
                SOURCES[name.partition(",")[0]]().read(folder)


def test_the_counts_of_the_data_sets_are_the_papers(subtests):
    counts = {
        "omniglot-small": {"train": (2720, 136), "query": (2120, 106)},
        "omniglot": {"train": (19280, 964), "query": (13180, 659)},
        "mnist": {"train": (55000, 10), "query": (10000, 10)},
        "cub200": {"train": (5864, 100), "query": (5924, 100)},
        "cars196": {"train": (8054, 98), "query": (8131, 98)},
        "sop": {"train": (59551, 11318), "query": (60502, 11316)},
        "in-shop": {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
    }
    assert counts.keys() == SOURCES.keys() - {"digits", "folder"}
    for name, expected in counts.items():
        with subtests.test(name=name):
            read = SOURCES[name]().read
            held = dict(zip(read.__code__.co_freevars, read.__closure__, strict=True))
            assert held["counts"].cell_contents == expected


# --- single sets -----------------------------------------------------------------------------


def test_birds_train_up_to_species_100_and_cars_up_to_class_98(new_folder):
    for name, expected in [
        ("cub200", {"099.Ovenbird", "100.Brown_Pelican"}),
        ("cars196", {layouts.CARS[96], layouts.CARS[97]}),  # whatever their official part
    ]:
        SETS[name][0](folder := new_folder())
        samples = SETS[name][1](folder)
        trained = {samples.class_names[label] for label in samples.labels[samples.split.train]}
        assert trained == expected


def test_a_copy_of_the_cars_with_a_directory_a_class_gives_the_same_classes(tmp_path):
    layouts.zipped(tmp_path / "cars196.zip", layouts.cars196_by_class())
    samples = cars196.reader(train=(102, 98), query=(102, 98))(tmp_path)
    assert list(samples.class_names) == layouts.CARS
    for name, label in zip(samples.names, samples.labels, strict=True):
        assert PurePosixPath(name).parent.name == samples.class_names[label]


def test_for_the_cars_it_is_told_where_a_copy_with_a_directory_a_class_is_put(tmp_path):
    files, cache = SOURCES["cars196"]().files, Cache(tmp_path / "cache", 1)
    with pytest.raises(DownloadError) as told:
        gather(files, tmp_path / "raw", mirror="mirror", subfolder="cars196", cache=cache)
    for name in ("car_ims.tgz", "cars_annos.mat"):
        assert (
            "Fetch it by hand from a copy of the original site, and put it at "
            f"mirror/cars196/{name}, where HEATED_MIRROR or download.mirror names mirror. Or put a "
            "copy with a directory a class (a folder, .zip or .tar) at mirror/cars196, in place of "
            "all the set's files."
        ) in str(told.value)


def test_an_unpacked_copy_of_the_cars_with_annotations_inside_is_read(tmp_path):
    images = layouts.cars196_images()
    files = {f"cars/car_ims/{name}": content for name, (_, content) in images.items()}
    layouts.zipped(
        tmp_path / "cars.zip", {**files, "cars/cars_annos.mat": layouts.cars196_annotations()}
    )
    samples = SETS["cars196"][1](tmp_path)
    assert len(samples.labels) == 12
    assert samples.class_names[0] == layouts.CARS[96]


def test_in_shop_has_queries_and_gallery_apart_and_no_other_part(tmp_path):
    layouts.in_shop(tmp_path)
    masks = SETS["in-shop"][1](tmp_path).split
    assert not (masks.query & masks.gallery).any()
    text = layouts.in_shop_partition().replace(b"gallery", b"garden", 1)
    (tmp_path / "list_eval_partition.txt").write_bytes(text)
    with pytest.raises(InputError, match="came the parts garden; allowed: train, query, gallery"):
        SETS["in-shop"][1](tmp_path)


def test_mnist_leaves_out_the_first_images_and_keeps_their_bytes(tmp_path):
    layouts.mnist(tmp_path)
    arrays = layouts.mnist_arrays()
    kept = [*arrays["train-images-idx3-ubyte.gz"][5:], *arrays["t10k-images-idx3-ubyte.gz"]]
    contents = [content for _, content in SETS["mnist"][1](tmp_path).contents()]
    np.testing.assert_array_equal(contents, kept)


IN_SHOP_LIST = "list_eval_partition.txt"
DAMAGED = {  # set, what writes its files, the damaged one, what stands there then, what is told
    "birds, no number": ("cub200", "images.txt", b"one 099.Ovenbird/1.jpg\n", "ValueError"),
    "birds, binary": ("cub200", "images.txt", b"\xff\xfe\0", "UnicodeDecodeError"),
    "birds, an image more": ("cub200", "image_class_labels.txt", b"99 1\n", "KeyError"),
    "cars, no table": ("cars196", "cars_annos.mat", b"<html>not found</html>" * 20, "ValueError"),
    "cars, empty": ("cars196", "cars_annos.mat", b"", "MatReadError"),
    "cars, cut": ("cars196", "cars_annos.mat", layouts.cars196_annotations()[:9000], "OSError"),
    "clothes, a column less": ("in-shop", IN_SHOP_LIST, b"1\nhead\nimg/1.jpg 1\n", "ValueError"),
    "clothes, binary": ("in-shop", IN_SHOP_LIST, b"\xff\xfe\0", "UnicodeDecodeError"),
    "products, a column less": ("sop", "Ebay_train.txt", b"head\n1 1 1\n", "ValueError"),
    "products, no number": ("sop", "Ebay_test.txt", b"head\n1 x 1 a.jpg\n", "ValueError"),
    "products, binary": ("sop", "Ebay_test.txt", b"\xff\xfe\0", "UnicodeDecodeError"),
}


def unpacked(name, folder):
    """The class of each image of a set, whose files lie in the folder then, out of archives."""
    (folder / "made").mkdir(parents=True)
    classes = SETS[name][0](folder / "made")
    for path in sorted((folder / "made").iterdir()):
        if path.suffix in (".zip", ".tgz"):
            shutil.unpack_archive(path, folder, "zip" if path.suffix == ".zip" else "gztar")
        else:
            path.replace(folder / path.name)
    shutil.rmtree(folder / "made")
    return classes


def test_a_damaged_table_is_told_with_its_name(new_folder, subtests):
    for damage in DAMAGED:
        with subtests.test(damage=damage):
            folder = new_folder()
            name, table, content, told = DAMAGED[damage]
            unpacked(name, folder / "set")
            (place,) = (folder / "set").rglob(table)
            place.write_bytes(content)
            (folder / "raw").mkdir()
            local_copy.zip_folder(
                place.parent if name in ("cub200", "sop") else folder / "set",
                folder / "raw/set.zip",
            )
            with pytest.raises(
                InputError, match=rf"{table}.* is damaged \({told}: .*fetch it again"
            ):
                SETS[name][1](folder / "raw")


def test_an_image_that_is_listed_and_not_there_is_told(tmp_path):
    files, _ = layouts.cub200_files()
    lost = "CUB_200_2011/images/101.White_Pelican/White_Pelican_0001_1.jpg"
    layouts.tar(tmp_path / "a.tgz", {n: content for n, content in files.items() if n != lost})
    with pytest.raises(InputError, match=rf"a\.tgz: 1 images .* are not there, such as {lost}"):
        SETS["cub200"][1](tmp_path)


def test_what_is_no_idx_file_is_told(tmp_path):
    layouts.mnist(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = layouts.idx(np.zeros((3, 2)))
    short = gzip.compress(gzip.decompress(whole)[:-1])
    for content, told in ((short, "is no idx file of bytes"), (whole[:-9], "is damaged")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=told):
            SETS["mnist"][1](tmp_path)


# --- copies ----------------------------------------------------------------------------------


def collected(source, mirror, raw):
    raw.mkdir()
    local_copy.collect(local_copy.found(source, str(mirror), "cub200"), raw)
    return source.read(raw)


@pytest.mark.parametrize("subfolder", ["", "cub200"])
def test_an_unpacked_copy_in_the_mirror_gives_the_same_samples(tmp_path, subfolder):
    files, expected = layouts.cub200_files()
    layouts.spread(tmp_path / "mirror" / subfolder, files)
    source = replace(SOURCES["cub200"](), read=SETS["cub200"][1])
    samples = collected(source, tmp_path / "mirror", tmp_path / "raw")
    assert ends(samples.names, expected) == list(expected)
    stored = dict(samples.contents())
    assert all(stored[i] == files[name] for i, name in enumerate(samples.names))


def test_an_unpacked_copy_with_one_of_the_sets_files_is_a_copy(new_folder, subtests):
    for name, subfolder in product(["cars196", "in-shop"], ["", "copy"]):
        with subtests.test(name=name, subfolder=subfolder):
            root = new_folder()
            folder, raw = root / "mirror" / subfolder / name, root / "raw"
            classes = unpacked(name, folder)
            place = local_copy.found(SOURCES[name](), str(root / "mirror"), subfolder or name)
            assert place == folder
            raw.mkdir()
            local_copy.collect(place, raw)
            samples = SETS[name][1](raw)
            assert [samples.class_names[label] for label in samples.labels] == list(
                classes.values()
            )


def test_a_folder_with_some_of_the_sets_archives_is_no_copy(new_folder, subtests):
    """What is missing is fetched, or told."""
    for name in ["cars196", "omniglot", "in-shop"]:
        with subtests.test(name=name):
            folder = new_folder()
            (folder / name).mkdir()
            SETS[name][0](folder / name)
            source = SOURCES[name]()
            (folder / name / source.files[1].name).unlink()
            assert local_copy.found(source, str(folder), name) is None


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    files, _ = layouts.cub200_files()
    packed = []
    for round_ in ("one", "two"):
        layouts.spread(
            tmp_path / round_, files if round_ == "one" else dict(reversed(files.items()))
        )
        local_copy.zip_folder(tmp_path / round_ / "CUB_200_2011", tmp_path / f"{round_}.zip")
        packed.append((tmp_path / f"{round_}.zip").read_bytes())
    assert packed[0] == packed[1]


def test_without_a_copy_the_sets_own_files_are_fetched(tmp_path):
    for mirror in (None, "https://example.org/mirror", str(tmp_path)):
        assert local_copy.found(SOURCES["cub200"](), mirror, "cub200") is None
    layouts.spread(tmp_path, layouts.cub200_files()[0])
    assert local_copy.found(SOURCES["cub200"](), str(tmp_path), "cub200") is not None
    layouts.cub200(tmp_path)  # the set's own go before a copy
    assert local_copy.found(SOURCES["cub200"](), str(tmp_path), "cub200") is None


def test_a_linked_directory_and_a_name_that_no_zip_can_hold_are_refused(tmp_path):
    layouts.spread(tmp_path / "mirror", layouts.cub200_files()[0])
    inside = tmp_path / "mirror" / "CUB_200_2011"
    (inside / "round").symlink_to(tmp_path / "mirror")
    with pytest.raises(InputError, match="is a link to a directory"):
        collected(SOURCES["cub200"](), tmp_path / "mirror", tmp_path / "raw")
    (inside / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    with pytest.raises(
        InputError, match=r"CUB_200_2011: the name 'caf\\udce9\.txt' is not in UTF-8"
    ):
        collected(SOURCES["cub200"](), tmp_path / "mirror", tmp_path / "raw2")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_copy_for_which_there_is_no_room_is_told_before_it_is_made(tmp_path, monkeypatch, kind):
    files, _ = layouts.cub200_files()
    place = tmp_path / ("CUB_200_2011" if kind == "folder" else "birds.zip")
    if kind == "folder":
        layouts.spread(tmp_path, files)
        total = sum(len(content) for name, content in files.items() if "CUB" in name)
    else:
        layouts.zipped(place, files)
        total = place.stat().st_size
    (tmp_path / "raw").mkdir()
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: used._replace(free=total - 1))
    told = rf"of {place} in {tmp_path} cannot be made: {total:,} bytes more are needed in"
    with pytest.raises(DownloadError, match=told):
        local_copy.collect(place, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_disk_that_fills_up_is_told_with_the_copy(tmp_path):
    layouts.spread(tmp_path, layouts.cub200_files()[0])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "CUB_200_2011.zip").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"CUB_200_2011 in .* cannot be made: .*No space left"):
        local_copy.collect(tmp_path / "CUB_200_2011", tmp_path / "raw")


# --- a folder --------------------------------------------------------------------------------

ZOO = {f"zoo/{name}/{i}.png": i for i, name in enumerate(["ape", "ape", "bee", "bee", "cat"] * 2)}
SHOP = {
    f"shop/{part}/{item}/{n}.jpg": 10 * n + i
    for part, items in {"train": "ab", "query": "cd", "gallery": "cd"}.items()
    for i, item in enumerate(items)
    for n in (1, 2)
}


def pictures(names):
    return {name: layouts.picture(seed) for name, seed in names.items()}


def folder(path: Path, layout: str = "classes") -> Source:
    return SOURCES["folder"](path=str(path), layout=layout)


def given(tmp_path: Path, files, layout="classes", kind="folder"):
    """Samples of a user's files, kept unpacked, as a zip or as a tar."""
    place = tmp_path / "images"
    if kind == "folder":
        layouts.spread(place, files)
    elif kind == "zip":
        layouts.zipped(place := tmp_path / "images.zip", files)
    else:
        layouts.tar(place := tmp_path / "images.tar.gz", files)
    source, raw = folder(place, layout), tmp_path / "raw"
    raw.mkdir()
    local_copy.collect(local_copy.found(source, None, "folder"), raw)
    return source.read(raw)


def test_a_class_is_a_directory_wherever_the_images_are_kept(new_folder, subtests):
    for kind in ["folder", "zip", "tar"]:
        with subtests.test(kind=kind):
            folder = new_folder()
            extra = {
                "zoo/read me.txt": b"",
                "__MACOSX/zoo/ape/._0.png": b"x",
                "zoo/ape/._1.png": b"x",
            }
            samples = given(folder, pictures(ZOO) | extra, kind=kind)
            assert samples.class_names == ("ape", "bee", "cat")
            assert np.bincount(samples.labels).tolist() == [4, 4, 2]
            assert samples.split is None


def test_classes_lie_at_any_depth(tmp_path):
    names = {"x/Greek/alpha/1.png": 1, "x/Greek/beta/1.png": 2, "x/Latin/a/1.png": 3}
    assert given(tmp_path, pictures(names)).class_names == ("Greek/alpha", "Greek/beta", "Latin/a")


def test_parts_are_the_split_and_share_their_classes_names(tmp_path):
    samples = given(tmp_path, pictures(SHOP), "parts", "zip")
    assert samples.class_names == tuple("abcd")
    parted = split(samples, "source")
    for part, classes in {"train": "ab", "query": "cd", "gallery": "cd"}.items():
        mask = parted.masks()[part]
        assert {samples.class_names[label] for label in samples.labels[mask]} == set(classes)
        assert all(f"/{part}/" in n for n, m in zip(samples.names, mask, strict=True) if m)


def test_a_test_part_is_query_and_gallery(tmp_path):
    names = {n.replace("query", "test"): s for n, s in SHOP.items() if "gallery" not in n}
    parted = given(tmp_path, pictures(names), "parts").split
    np.testing.assert_array_equal(parted.query, parted.gallery)
    assert parted.query.sum() == parted.train.sum() == 4


PARTLY = {  # by what is tested: the parts with their classes, each with the images 1 and 2
    "of the same classes": {"train": "ab", "test": "ab"},
    "of some of them": {"train": "abc", "test": "ab"},
    "queries of the same classes": {"train": "ab", "query": "ab", "gallery": "abc"},
}


def names_of(parts):
    named = [f"{part}/{c}/{n}.jpg" for part, cs in parts.items() for c in cs for n in (1, 2)]
    return {name: seed for seed, name in enumerate(named)}


def test_parts_whose_tested_classes_all_train_test_other_images_of_them(new_folder, subtests):
    for parts in PARTLY:
        with subtests.test(parts=parts):
            folder = new_folder()
            samples = given(folder, pictures(names_of(PARTLY[parts])), "parts")
            assert split(samples, "source").tested == SEEN


def test_parts_of_which_some_tested_classes_train_are_refused(new_folder, subtests):
    cases = [
        ({"train": "abx", "test": "abcy"}, "2 of 4 tested classes also train, such as a, b;"),
        ({"train": "abcdef", "test": "abcdg"}, "4 of 5 tested classes also train, such as a, b, c"),
        ({"train": "ab", "query": "bc", "gallery": "bc"}, "1 of 2 tested classes also train"),
    ]
    for parts, told in cases:
        with subtests.test(parts=parts, told=told):
            folder = new_folder()
            with pytest.raises(InputError, match=f"layout parts: {told}"):
                given(folder, pictures(names_of(parts)), "parts")


def test_what_is_not_in_the_layout_is_refused(new_folder, subtests):
    loose = names_of({"train": "ab", "test": "cd"}) | {"train/1.jpg": 9}
    cases = [
        (
            loose,
            "parts",
            r"train/1\.jpg lies in no directory of a class; wanted: <part>/<class>/<image>",
        ),
        (ZOO, "parts", "layout parts: came the directories ape, bee, cat; allow"),
        (
            {"ape/1.png": 1, "Ape/1.png": 2, "bee/1.png": 3},
            "classes",
            "'Ape' and 'ape' differ in case alone",
        ),
        (
            {"1.png": 1, "ape/2.png": 2},
            "classes",
            r"the image (images/)?1\.png lies in no directory of a class",
        ),
        ({}, "classes", "no images found"),
    ]
    for named, layout, told in cases:
        with subtests.test(told=told), pytest.raises(InputError, match=told):
            given(new_folder(), pictures(named) | {"ape/notes.txt": b"none"}, layout, "zip")


def test_a_relative_path_is_looked_for_in_the_project_and_then_in_the_mirror(
    new_folder, monkeypatch, subtests
):
    for path, subfolder in product(
        ["../zoo", "../zoo.zip", "zoo", "./more/../zoo.zip"], ["", "folder"]
    ):
        with subtests.test(path=path, subfolder=subfolder), monkeypatch.context() as patch:
            place = new_folder()
            patch.setenv("DVC_ROOT", str(place / "project"))
            mirror = place / "mirror"
            (mirror / subfolder).mkdir(parents=True)
            layouts.zipped(mirror / subfolder / "zoo.zip", pictures(ZOO))
            source = SOURCES["folder"](path=path, layout="classes")
            assert local_copy.found(source, str(mirror), "folder") == mirror / subfolder / "zoo.zip"
            if path == "zoo":
                layouts.spread(own := place / "project/zoo", pictures(ZOO))
                assert local_copy.found(source, str(mirror), "folder") == own


def test_a_path_where_nothing_lies_is_told_with_all_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    layouts.spread(tmp_path / "mirror" / "other", pictures(ZOO))
    relative = ["project/../zoo", "mirror/folder/zoo", "mirror/zoo"]
    for path, mirror, places in [
        ("../zoo", str(tmp_path / "mirror"), relative),
        (tmp_path / "no", None, ["no"]),
        (tmp_path / "other", str(tmp_path / "mirror"), ["other"]),  # absolute: only there
    ]:
        told = " nor at ".join(str(tmp_path / place) for place in places)
        with pytest.raises(InputError, match=f"source.path: nothing lies at {told};"):
            local_copy.found(folder(path), mirror, "folder")
