"""Every data set from a faulty server, or a user's copy, to packed images."""

import hashlib
import threading
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from server import Answer, served
from test_layouts import SETS

from heated.data import packed_dataset
from heated.datasets import SOURCES, http
from heated.datasets.download import Cache, Checksum, download_all
from heated.datasets.image_folder import find_copy, store_copy
from heated.datasets.splits import split
from heated.preprocessing import packing

OPTIONS = {"size": 16, "fit": "squash", "color_mode": "rgb", "filter": "bilinear"}
FAULTS = {
    "cut": lambda body: Answer(body, cut=len(body) // 2),
    "stalled": lambda body: Answer(body, cut=len(body) // 2, pause=threading.Event()),
    "said to be longer": lambda body: Answer(body, said=len(body) + 7),
    "without ranges": lambda body: Answer(body, cut=len(body) // 2, ranges=False),
}


def packed(samples, rule, folder, **options):
    masks = split(samples, rule, **options)
    packing.pack(samples, masks, folder, **OPTIONS, max_damaged_images=0, workers=2)
    return packed_dataset.load_packed(folder)


@pytest.mark.usefixtures("waits")
def test_a_data_set_is_complete_after_a_faulty_server(new_folder, monkeypatch, subtests):
    monkeypatch.setattr(http, "TIMEOUT", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    for name, fault in product([name for name in SETS if name in SOURCES], FAULTS):
        with subtests.test(name=name, fault=fault), served() as site:
            folder = new_folder()
            build, source = SETS[name]
            (folder / "made").mkdir()
            classes = build(folder / "made")
            files = []
            for file in source.files:
                body = (folder / "made" / file.name).read_bytes()
                url = site.serve(f"/{file.name}", FAULTS[fault](body), Answer(body))
                digest = hashlib.sha256(body).hexdigest()
                checksum = file.checksum and Checksum("sha256", digest)
                files.append(replace(file, addresses=(url,), checksum=checksum, size=len(body)))
            cache = Cache(folder / "cache", 1)
            raw = download_all(files, folder / "raw", mirror=None, subfolder=name, cache=cache)
            assert all(site.asked.count(f"/{file.name}") >= 2 for file in files)
            data = packed(source.read(raw), "source", folder / "packed")
            assert data.images.shape == (len(classes), 16, 16, 3)
            assert [data.class_names[label] for label in data.labels] == list(classes.values())
            assert len(np.unique(data.images.reshape(len(classes), -1), axis=0)) == len(classes)


PATTERN = {"rule": "pattern"}
REAL = {  # split rule with its options, images and classes of training and test
    "mnist": ({"rule": "source"}, (55000, 10), (10000, 10)),
    "omniglot-small": ({"rule": "source"}, (2720, 136), (2120, 106)),
    "omniglot": ({"rule": "source"}, (19280, 964), (13180, 659)),
    "omniglot.zip": ({**PATTERN, "train": "images_background/"}, (19280, 964), (13180, 659)),
    "cub100-cropped.zip": ({**PATTERN, "train": r"0\d\d|100"}, (3428, 58), (2474, 42)),
    "cars196-train-cropped.zip": ({"rule": "fraction", "train": 0.5}, (4052, 98), (4092, 98)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_set_has_its_counts_once_packed(mirror, tmp_path, name):
    rule, train, test = REAL[name]
    if not any((mirror / f"{name}{end}").exists() for end in ("", ".zip")):
        pytest.skip(f"{name} is not in the mirror")
    is_folder = name.endswith(".zip")
    kind = "folder" if is_folder else name
    options = {"layout": "classes", "path": f"../{name}"} if is_folder else {}
    source, raw = SOURCES[kind](**options), tmp_path / "raw"
    copy = find_copy(source, str(mirror), kind)
    if copy is None:
        cache = Cache(tmp_path / "cache", 1)
        download_all(source.files, raw, mirror=str(mirror), subfolder=kind, cache=cache)
    else:
        raw.mkdir()
        store_copy(copy, raw)
    data = packed(source.read(raw), folder=tmp_path / "packed", **rule)
    for mask, (images, classes) in ((data.split.train, train), (data.split.query, test)):
        assert mask.sum() == images
        assert len(np.unique(data.labels[mask])) == classes
    assert data.images.reshape(len(data.labels), -1).any(axis=1).all()
