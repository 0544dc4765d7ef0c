"""The schema against DVC's reader, the package's registries and the project's own files."""

import inspect
import math
import re
from itertools import product
from typing import Any, get_args

import pytest
import torch
from conftest import ROOT
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml

from heated import config
from heated.config import datasets, methods
from heated.config.yaml_files import read_yaml
from heated.data.samplers import SAMPLERS
from heated.data.transforms import AUGMENTATIONS, AugmentationRNG
from heated.datasets import SOURCES
from heated.datasets.splits import SPLITS
from heated.evaluation.clustering import KMEANS
from heated.losses.adaptations import ADAPTATIONS
from heated.losses.embedding_norm import NORMALIZATIONS
from heated.losses.heated_softmax import BIASES, DENOMINATORS
from heated.models.backbones import BACKBONES
from heated.models.pretrained import SUFFIXES, weights_id
from heated.preprocessing.decoding import CHANNELS
from heated.training.initialization import INITIALIZERS
from heated.training.schedules import SCHEDULES, schedule_values
from heated.training.train_state import OPTIMIZERS

PARAMS = config.load_params(ROOT)
TEXTS = {file: (ROOT / file).read_text(encoding="utf-8") for file in config.FILES}
REGISTRIES: list[tuple[dict[str, dict[str, Any]], dict[str, Any]]] = [
    (methods.SCHEDULE_OPTIONS, SCHEDULES),
    (methods.NORMALIZATION_OPTIONS, NORMALIZATIONS),
    (methods.SAMPLER_OPTIONS, SAMPLERS),
    (datasets.BACKBONE_OPTIONS, BACKBONES),
    (datasets.AUGMENTATION_OPTIONS, AUGMENTATIONS),
    (datasets.OPTIMIZER_OPTIONS, OPTIMIZERS),
    ({k: v for k, v in datasets.KMEANS_OPTIONS.items() if k != "auto"}, KMEANS),
    (datasets.SOURCE_OPTIONS, SOURCES),
    (datasets.SPLIT_OPTIONS, SPLITS),
]


def test_files_are_read_as_dvc_reads_them(tmp_path):
    path = tmp_path / "params.yaml"
    scalars = "1e-4 1E5 1.e3 .5 1. 00.5 010 0o17 1_000 0x1f 60:30 yes no y true ~ nULL .inf .nan"
    lines = [f"k{i}: [a, {scalar}]\nl{i}: {scalar}" for i, scalar in enumerate(scalars.split())]
    structures = ["a:\nb: 1\n", "a: |\n  no\n  1\n", "1: a\n", "\n".join(lines)]
    for text in [*TEXTS.values(), *structures]:
        path.write_text(text, encoding="utf-8")
        assert repr(read_yaml(path)) == repr(load_yaml(str(path))), text  # also types, and NaN
    assert repr(read_yaml(path)["l0"]) == "0.0001"
    path.write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(YAMLFileCorruptedError):
        load_yaml(str(path))


def test_dvcs_set_param_changes_one_line_and_keeps_values_and_comments(tmp_path):
    path, before = tmp_path / "params.yaml", TEXTS["params.yaml"]
    changes = {"methods.hbn.alpha.start": 32, "run.seeds": [0, 1, 2], "tracking.enabled": False}
    for key, value in changes.items():
        path.write_text(before, encoding="utf-8")
        apply_overrides(path, [f"{key}={str(value).lower()}"])
        after = path.read_text(encoding="utf-8")
        lines = zip(before.splitlines(), after.splitlines(), strict=True)
        assert sum(a != b for a, b in lines) == (key != "run.seeds")  # these are the same
        section = read_yaml(path)
        for name in key.split("."):
            section = section[name]
        assert section == value
    for file, text in TEXTS.items():
        path.write_text(text, encoding="utf-8")
        apply_overrides(path, ["++note=1"])
        assert read_yaml(path) == read_yaml(ROOT / file) | {"note": 1}
        assert re.findall("#.*", text) == re.findall("#.*", path.read_text(encoding="utf-8"))


def test_names_are_the_keys_of_registries_and_options_the_functions_parameters(subtests):
    for options, functions in REGISTRIES:
        assert set(options) == set(functions)
        for name, types in options.items():
            with subtests.test(name=name):
                parameters = inspect.signature(functions[name]).parameters.values()
                if functions is OPTIMIZERS:  # torch's own: it has more, with defaults
                    assert set(types) <= {parameter.name for parameter in parameters}
                else:
                    required = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
                    assert set(types) == required - {"seed"}  # seeds are a list of their own
    fields, training = methods.HeatedSoftmaxMethod.model_fields, datasets.Training.model_fields
    assert get_args(fields["bias"].annotation) == BIASES
    assert get_args(fields["denominator"].annotation) == DENOMINATORS
    assert set(methods.ALPHA_OPTIONS) == {*SCHEDULES, *ADAPTATIONS} - {"none"}
    assert get_args(training["init"].annotation) == tuple(INITIALIZERS)


def test_every_schedule_is_positive_and_finite_and_heated_methods_are_heated():
    all_epochs = {section.training.epochs for section in PARAMS.datasets.values()}
    for (name, method), epochs in product(PARAMS.methods.items(), all_epochs):
        alpha = getattr(method, "alpha", None)
        for schedule in (alpha, method.lr_schedule):
            if schedule is not None and schedule.name not in ADAPTATIONS:
                series = schedule_values(schedule.name, schedule.options, epochs=epochs)
                assert len(series) == epochs, name
                assert all(math.isfinite(value) and value > 0 for value in series), name
                heats = schedule is alpha and name.startswith("h")
                assert not heats or series[-1] < series[0], (name, epochs)


def test_every_choice_of_methods_and_data_sets_binds(subtests):
    """Networks on torch's meta device, which computes shapes alone."""
    for each in PARAMS.methods.values():
        if isinstance(each, methods.HeatedSoftmaxMethod):
            module = NORMALIZATIONS[each.normalize.name](4, **each.normalize.options)
            assert module(torch.randn(3, 4)).shape == (3, 4)
    seen = set()
    for name, section in PARAMS.datasets.items():
        training, packing, kmeans = section.training, section.packing, section.evaluation.kmeans
        with subtests.test(dataset=name):
            source = SOURCES[section.source.name](**section.source.options)
            assert source.files or source.copies
            inspect.signature(SPLITS[packing.split.name]).bind(None, **packing.split.options)
            inspect.signature(KMEANS[kmeans.name]).bind(None, 2, seed=0, **kmeans.options)
            key = training.model_dump_json(exclude={"epochs", "lr", "eval_every", "batch_size"})
            if (key, packing.size, packing.color_mode) in seen:
                continue
            seen.add((key, packing.size, packing.color_mode))
            images = torch.rand(2, CHANNELS[packing.color_mode], packing.size, packing.size)
            for choice in training.augment:
                draws = AugmentationRNG(torch.Generator(), len(images), slice(None))
                images = AUGMENTATIONS[choice.name](images, draws, **choice.options)
            backbone, dim = training.backbone, training.embedding_dim
            with torch.device("meta"):
                network = BACKBONES[backbone.name](images.shape[1:], dim, **backbone.options)
            assert network(images.to("meta")).shape == (2, dim)
            if not training.weights.endswith(SUFFIXES):  # a user's own file
                weights_id(training.weights, backbone.name)
            optimizer = OPTIMIZERS[training.optimizer.name]
            stepper = optimizer(network.parameters(), lr=training.lr, **training.optimizer.options)
            assert stepper.param_groups[0]["lr"] == training.lr
