"""Classes of two-dimensional embeddings are narrow at small alpha and wide at large alpha."""

import numpy as np
import pytest
import torch
from conftest import ROOT

from heated import config
from heated.data.packed_dataset import MemmapImages, load_packed
from heated.datasets import SOURCES
from heated.datasets.download import Cache, download_all
from heated.datasets.splits import split
from heated.models.embedding_model import embed, load_model
from heated.preprocessing import packing
from heated.reporting.figures.embeddings_2d import Embedding2D, normalize_rows
from heated.training.recipe import Recipe
from heated.training.training_run import TrainingRun

PARAMS = config.load_params(ROOT)
CPU = torch.device("cpu")


def median_angle(model, data, mask):
    indices = np.flatnonzero(mask)
    embeddings = embed(model, MemmapImages(data.images, indices, CPU), quiet=True).numpy()
    return Embedding2D(None, normalize_rows(embeddings), data.labels[indices]).median_angle()


@pytest.mark.slow
def test_classes_spread_as_alpha_grows(tmp_path):
    name, spreads = "digits-upright", {}
    settings = PARAMS.datasets[name]
    source, rule = SOURCES["digits"](**settings.source.options), settings.packing.split
    options = {"mirror": None, "subfolder": "digits", "cache": Cache(tmp_path / "cache", 1)}
    samples = source.read(download_all(source.files, tmp_path / "raw", **options))
    packing_options = settings.packing.model_dump(exclude={"split", "validation"}) | {"workers": 1}
    parts = split(samples, rule.name, **rule.options)
    packing.pack(samples, parts, tmp_path / "packed", **packing_options)
    data = load_packed(tmp_path / "packed")
    for method in ("ln-4", "ln-64"):
        recipe = Recipe.from_settings(PARAMS.settings(name, method) | {"precision": "float32"})
        path = tmp_path / f"{method}.safetensors"
        run = TrainingRun(recipe, data, name, CPU, tmp_path / "checkpoints")
        (*_, last) = run.train_seed(0, path, lambda row: None)["history"]
        assert last["accuracy"] > 0.5
        masks = (data.split.train, data.split.query)
        spreads[method] = [median_angle(load_model(path, CPU), data, mask) for mask in masks]
    assert all(np.greater(spreads["ln-64"], spreads["ln-4"]))


def test_the_study_has_two_dimensions_and_trained_classes():
    for settings in (PARAMS.datasets[name] for name in PARAMS.studies.embeddings_2d.datasets):
        assert settings.training.embedding_dim == 2
        assert settings.packing.split.name in ("images", "source")
