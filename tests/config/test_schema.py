"""The schema against DVC's reader, the package's dicts and the project's own files."""

import inspect
import math
import re
from typing import Any, get_args

import pytest
import torch
from conftest import ROOT
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml

from heated import config
from heated.config import base, dataset, method, schema, training
from heated.config.reading import ParamsError, parse
from heated.data.samplers import SAMPLERS
from heated.data.transforms import AUGMENTATIONS, Draws
from heated.datasets import SOURCES
from heated.datasets.splits import SPLITS
from heated.evaluation.clustering import KMEANS
from heated.losses.adaptive_scale import ADAPTATIONS
from heated.losses.embedding_norm import NORMALISATIONS
from heated.losses.heated_softmax import BIASES, DENOMINATORS
from heated.models.backbones import BACKBONES
from heated.models.pretrained import SUFFIXES, identity
from heated.preprocessing.decoding import CHANNELS
from heated.training.init_stages import INITIALIZERS
from heated.training.schedules import SCHEDULES, schedule_values
from heated.training.train_state import OPTIMIZERS

PARAMS = config.load(ROOT)
RAW = {file: parse(ROOT / file) for file in config.FILES}
TEXTS = {file: (ROOT / file).read_text(encoding="utf-8") for file in config.FILES}

# Each kind of choice: the section and key that hold it, and the package's dict.
KINDS: dict[str, tuple[type[base.Section], str, dict[str, Any]]] = {
    "lr_factor": (method.HeatedSoftmax, "lr_factor", SCHEDULES),
    "normalise": (method.HeatedSoftmax, "normalise", NORMALISATIONS),
    "sampler": (method.LibraryLoss, "sampler", SAMPLERS),
    "backbone": (training.Training, "backbone", BACKBONES),
    "augment": (training.Training, "augment", AUGMENTATIONS),
    "optimiser": (training.Training, "optimiser", OPTIMIZERS),
    "kmeans": (dataset.Evaluation, "kmeans", KMEANS),
    "source": (schema.Dataset, "source", SOURCES),
    "split": (dataset.Packing, "split", SPLITS),
}


def choices(annotation: Any) -> dict[str, type[base.Choice]]:
    """The choice classes in a type, by each name that they may have."""
    if isinstance(annotation, type) and issubclass(annotation, base.Choice):
        return dict.fromkeys(get_args(annotation.model_fields["name"].annotation), annotation)
    return {n: c for part in get_args(annotation) for n, c in choices(part).items()}


def typed(value: Any) -> Any:
    """A value with its type, and NaN equal to itself."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return type(value), "nan" if isinstance(value, float) and math.isnan(value) else value


# --- what we read is what DVC reads ----------------------------------------------------------


def test_files_are_read_as_dvc_reads_them(tmp_path):
    path = tmp_path / "params.yaml"
    scalars = "1e-4 1E5 1.e3 .5 1. 00.5 010 0o17 1_000 0x1f 60:30 yes no y true ~ nULL .inf .nan"
    lines = [f"k{i}: [a, {scalar}]\nl{i}: {scalar}" for i, scalar in enumerate(scalars.split())]
    structures = ["a:\nb: 1\n", "a: |\n  no\n  1\n", "1: a\n", "\n".join(lines)]
    for text in [*TEXTS.values(), *structures]:
        path.write_text(text, encoding="utf-8")
        assert typed(parse(path)) == typed(load_yaml(str(path))), text
    assert typed(parse(path)["l0"]) == typed(0.0001)
    for text in ("a: 1\na: 2\n", "a: [1\n", "a: b: c\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(YAMLFileCorruptedError):
            load_yaml(str(path))
        with pytest.raises(ParamsError):
            parse(path)


def test_dvcs_set_param_changes_one_line(tmp_path):
    path = tmp_path / "params.yaml"
    for key, value, changed in (
        ("methods.hbn.alpha.start", 32, 1),
        ("methods.ln.alpha.value", 8, 1),
        ("run.seeds", [0, 1, 2], 0),
        ("tracking.enabled", False, 1),
    ):
        before = TEXTS["params.yaml"]
        path.write_text(before, encoding="utf-8")
        apply_overrides(path, [f"{key}={str(value).lower()}"])
        after = path.read_text(encoding="utf-8")
        lines = zip(before.splitlines(), after.splitlines(), strict=True)
        assert sum(a != b for a, b in lines) == changed
        section = parse(path)
        for name in key.split("."):
            section = section[name]
        assert section == value


def test_a_file_written_by_dvc_keeps_its_values_and_comments(tmp_path):
    for file, text in TEXTS.items():
        copy = tmp_path / file
        copy.write_text(text, encoding="utf-8")
        apply_overrides(copy, ["++note=1"])
        assert parse(copy) == RAW[file] | {"note": 1}
        assert re.findall("#.*", text) == re.findall("#.*", copy.read_text(encoding="utf-8"))


# --- names are keys, options are parameters --------------------------------------------------


def test_names_are_the_keys_of_the_packages_dicts_and_options_the_functions_parameters(subtests):
    for kind, (section, key, functions) in KINDS.items():
        configured = choices(section.model_fields[key].annotation)
        assert set(configured) == set(functions), kind
        for name, choice in configured.items():
            with subtests.test(kind=kind, name=name):
                options = set(choice.model_fields) - {"name"}
                parameters = inspect.signature(functions[name]).parameters.values()
                if kind == "optimiser":  # torch's own: it has more, with defaults
                    assert options <= {parameter.name for parameter in parameters}
                else:
                    given = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
                    assert options == given - {"seed"}  # seeds stand beside a choice, as a list


def test_words_are_those_of_the_package():
    fields, settings = method.HeatedSoftmax.model_fields, training.Training.model_fields
    assert get_args(fields["bias"].annotation) == BIASES
    assert get_args(fields["denominator"].annotation) == DENOMINATORS
    assert set(choices(fields["alpha"].annotation)) == {*SCHEDULES, *ADAPTATIONS} - {"none"}
    assert get_args(settings["warm_up"].annotation) == tuple(INITIALIZERS)


# --- what the files say can be done ----------------------------------------------------------


def test_every_schedule_is_positive_and_finite_and_heated_methods_are_heated():
    for epochs in {section.training.epochs for section in PARAMS.datasets.values()}:
        for name, each in PARAMS.methods.items():
            alpha = getattr(each, "alpha", None)
            for schedule in (alpha, each.lr_factor):
                if schedule is None or schedule.name in ADAPTATIONS:
                    continue
                series = schedule_values(schedule.name, schedule.options, epochs=epochs)
                assert len(series) == epochs, name
                assert all(math.isfinite(value) and value > 0 for value in series), name
                if schedule is alpha and name.startswith("h"):
                    assert series[-1] < series[0], (name, epochs)


def test_every_normalisation_binds():
    for each in PARAMS.methods.values():
        if isinstance(each, method.HeatedSoftmax):
            module = NORMALISATIONS[each.normalise.name](4, **each.normalise.options)
            assert module(torch.randn(3, 4)).shape == (3, 4)


def test_every_network_and_augmentation_and_optimiser_binds(subtests):
    """On torch's meta device, which computes shapes alone."""
    seen = set()
    for name, section in PARAMS.datasets.items():
        training, packing = section.training, section.packing
        key = training.model_dump_json(exclude={"epochs", "lr", "watch_every", "batch_size"})
        if (key, packing.size, packing.colour) in seen:
            continue
        seen.add((key, packing.size, packing.colour))
        with subtests.test(dataset=name):
            images = torch.rand(2, CHANNELS[packing.colour], packing.size, packing.size)
            for choice in training.augment:
                draws = Draws(torch.Generator(), len(images), slice(None))
                images = AUGMENTATIONS[choice.name](images, draws, **choice.options)
            backbone, dim = training.backbone, training.embedding_dim
            with torch.device("meta"):
                network = BACKBONES[backbone.name](images.shape[1:], dim, **backbone.options)
            assert network(images.to("meta")).shape == (2, dim)
            if not training.weights.endswith(SUFFIXES):  # a user's own file
                identity(training.weights, backbone.name)
            optimiser = OPTIMIZERS[training.optimiser.name]
            stepper = optimiser(network.parameters(), lr=training.lr, **training.optimiser.options)
            assert stepper.param_groups[0]["lr"] == training.lr


def test_every_source_and_split_and_clustering_binds(subtests):
    for name, section in PARAMS.datasets.items():
        with subtests.test(dataset=name):
            source = SOURCES[section.source.name](**section.source.options)
            assert source.files or source.copies
            rule, kmeans = section.packing.split, section.evaluation.kmeans
            inspect.signature(SPLITS[rule.name]).bind(None, **rule.options)
            inspect.signature(KMEANS[kmeans.name]).bind(None, 2, seed=0, **kmeans.options)
