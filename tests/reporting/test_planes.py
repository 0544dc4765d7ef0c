"""The paper's pictures in two dimensions: classes are spots at a small alpha and arcs at a large
one, by the recipes of params.yaml."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT

from heated import config
from heated.data import packed_dataset
from heated.data.batches import Mapped
from heated.datasets import SOURCES
from heated.datasets.download import Cache, gather
from heated.datasets.splits import split
from heated.models.embedding import embed
from heated.models.embedding_model import load
from heated.preprocessing import packing
from heated.training.recipe import Recipe
from heated.training.training_run import TrainingRun

PARAMS = config.load(ROOT)
CPU = torch.device("cpu")


def packed(name, folder, mirror):
    """A data set of params.yaml, packed as it says."""
    settings = PARAMS.datasets[name]
    source = SOURCES[settings.source.name](**settings.source.options)
    raw = gather(
        source.files,
        folder / "raw",
        mirror=mirror,
        subfolder=settings.source.name,
        cache=Cache(folder / "cache", 1),
    )
    samples, rule = source.read(raw), settings.packing.split
    images = settings.packing.model_dump(exclude={"split", "validation"})
    parted = split(samples, rule.name, **rule.options)
    packing.pack(samples, parted, folder / "packed", **images, workers=1)
    return packed_dataset.unpack(folder / "packed")


def trained(name, method, data, folder, **changes):
    """The model of seed 0, as params.yaml trains it but for the changes."""
    settings = PARAMS.settings(name, method) | {"precision": "float32"} | changes
    run = TrainingRun(Recipe.from_settings(settings), data, name, CPU, folder / "checkpoints")
    path = folder / f"{method}.safetensors"
    (*_, last) = run.train_seed(0, path, lambda row: None)["history"]
    assert last["accuracy"] > 0.5
    return load(path, CPU)


def angular_spread(model, data, mask):
    """Mean over classes of the median angle, in degrees, between an image and its class's mean."""
    numbers = np.flatnonzero(mask)
    embeddings = embed(model, Mapped(data.images, numbers, CPU), quiet=True).double().numpy()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    medians = []
    for label in np.unique(data.labels[numbers]):
        own = unit[data.labels[numbers] == label]
        mean = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        medians.append(np.median(np.degrees(np.arccos((own @ mean).clip(-1, 1)))))
    return np.mean(medians)


def first(count, mask):
    """The mask of the first so many of another."""
    return mask & (np.cumsum(mask) <= count)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-upright", "mnist"])
def test_classes_spread_as_alpha_grows(name, tmp_path, request):
    short = {}
    if name == "mnist":
        data = packed(name, tmp_path, str(request.getfixturevalue("mirror")))
        few = {"train": first(2000, data.split.train), "query": first(1000, data.split.query)}
        data = replace(data, split=replace(data.split, **few))
        short = {"epochs": 6, "watch_every": 6, "batch_size": 32}
    else:
        data = packed(name, tmp_path, None)
    hot, cold = (trained(name, method, data, tmp_path, **short) for method in ("ln-4", "ln-64"))
    for mask in (data.split.train, data.split.query):
        assert angular_spread(cold, data, mask) > angular_spread(hot, data, mask)


def test_planes_have_two_dimensions_and_classes_that_were_trained():
    for settings in (PARAMS.datasets[name] for name in PARAMS.studies.planes.datasets):
        assert settings.training.embedding_dim == 2
        assert settings.packing.split.name in ("images", "source")
