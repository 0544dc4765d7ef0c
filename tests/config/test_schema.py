import inspect
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml

from heated import config
from heated.config import base, dataset, evaluation, method, schema, training
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
from heated.training.init_stages import WARM_UPS
from heated.training.optimizers import OPTIMISERS
from heated.training.schedules import SCHEDULES, values

ROOT = Path(__file__).parents[2]
PARAMS = config.load(ROOT)

# Each kind of choice: the section and key that hold it, and the package's dict.
KINDS: dict[str, tuple[type[base.Section], str, dict[str, Any]]] = {
    "lr_factor": (method.HeatedSoftmax, "lr_factor", SCHEDULES),
    "normalise": (method.HeatedSoftmax, "normalise", NORMALISATIONS),
    "sampler": (method.LibraryLoss, "sampler", SAMPLERS),
    "backbone": (training.Training, "backbone", BACKBONES),
    "augment": (training.Training, "augment", AUGMENTATIONS),
    "optimiser": (training.Training, "optimiser", OPTIMISERS),
    "kmeans": (evaluation.Evaluation, "kmeans", KMEANS),
    "source": (schema.Dataset, "source", SOURCES),
    "split": (dataset.Packing, "split", SPLITS),
}

SCALARS = """\
1e-4 1E5 12e03 1e+3 -2e3 1.e3 1.5e-3 -1.5E+10 .5 -.5 1. 0.1 00.5
0 -0 +1 -1 10 010 08 0o 1_000 -1_000 1__0 0x1f 0xFF 0x 60:30 190:20:30.15
yes no on off Yes NO On OFF y n true True TRUE false False FALSE tRUE
~ null Null NULL nULL .inf -.inf +.inf .Inf .nan .NaN nan inf
'1e-4' "1e-4" '010' "no" 'null' "~" '' plain 1,000 1.2.3 1e e5 1e5x
"""


def choices(annotation: Any) -> dict[str, type[base.Choice]]:
    """The choice classes in a type, by the name that each may have."""
    if isinstance(annotation, type) and issubclass(annotation, base.Choice):
        (name,) = get_args(annotation.model_fields["name"].annotation)
        return {name: annotation}
    return {n: c for part in get_args(annotation) for n, c in choices(part).items()}


def configured(kind: str) -> dict[str, type[base.Choice]]:
    section, key, _ = KINDS[kind]
    return choices(section.model_fields[key].annotation)


def typed(value: Any) -> Any:
    """A value with its type, and NaN equal to itself."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return type(value), "nan" if isinstance(value, float) and math.isnan(value) else value


# --- what we read is what DVC reads ----------------------------------------------------------


def test_the_files_are_read_as_dvc_reads_them():
    for file in config.FILES:
        assert typed(parse(ROOT / file)) == typed(load_yaml(str(ROOT / file)))


def test_a_scalar_is_read_as_dvc_reads_it(tmp_path):
    path = tmp_path / "params.yaml"
    lines = [f"k{i}: [a, {scalar}]\nl{i}: {scalar}" for i, scalar in enumerate(SCALARS.split())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    ours, dvcs = parse(path), load_yaml(str(path))
    for key in dvcs:
        assert typed(ours[key]) == typed(dvcs[key]), key


@pytest.mark.parametrize(
    "text",
    ["a:\nb: 1\n", "a: |\n  no\n  1\n", "1: a\n"],
    ids=["nothing", "block", "number as key"],
)
def test_a_structure_is_read_as_dvc_reads_it(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    assert typed(parse(path)) == typed(load_yaml(str(path)))


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [1\n", "a: b: c\n"])
def test_what_dvc_refuses_we_refuse(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(YAMLFileCorruptedError):
        load_yaml(str(path))
    with pytest.raises(ParamsError):
        parse(path)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("params.yaml", "methods.hbn.alpha.start", 32),
        ("params.yaml", "methods.ln.alpha.value", 8),
        ("params.yaml", "run.seeds", [0, 1, 2]),
        ("params.yaml", "tracking.enabled", False),
    ],
)
def test_dvcs_set_param_changes_at_most_one_line(tmp_path, file, path, value):
    copy = tmp_path / file
    before = (ROOT / file).read_text(encoding="utf-8")
    copy.write_text(before, encoding="utf-8")
    apply_overrides(copy, [f"{path}={str(value).lower()}"])
    after = copy.read_text(encoding="utf-8")
    lines = before.splitlines(), after.splitlines()
    assert len(lines[0]) == len(lines[1])
    assert sum(a != b for a, b in zip(*lines, strict=True)) == (value != [0, 1, 2])
    expected = parse(ROOT / file)
    *outer, last = path.split(".")
    section = expected
    for name in outer:
        section = section[name]
    section[last] = value
    assert parse(copy) == expected


def test_a_file_written_by_dvc_keeps_its_values_and_comments(tmp_path):
    for file in config.FILES:
        copy = tmp_path / file
        text = (ROOT / file).read_text(encoding="utf-8")
        copy.write_text(text, encoding="utf-8")
        apply_overrides(copy, ["++note=1"])
        assert {k: v for k, v in parse(copy).items() if k != "note"} == parse(ROOT / file)
        comments = re.findall("#.*", text)
        assert comments == re.findall("#.*", copy.read_text(encoding="utf-8"))


def test_an_exponent_is_a_number_and_no_is_a_word(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: [1e-4, no, 010, 0x1f, 1_000]\n")
    assert typed(parse(path)["a"]) == typed([0.0001, "no", 10, 31, 1000])


# --- names are keys, options are parameters --------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_allowed_are_the_keys_of_the_packages_dict(kind):
    assert set(configured(kind)) == set(KINDS[kind][2])


def test_the_places_of_the_bias_are_those_of_the_classifier():
    assert get_args(method.HeatedSoftmax.model_fields["bias"].annotation) == BIASES


def test_the_denominators_are_those_of_the_classifier():
    field = method.HeatedSoftmax.model_fields["denominator"]
    assert get_args(field.annotation) == DENOMINATORS


def test_alpha_follows_a_schedule_or_adapts():
    alphas = choices(method.HeatedSoftmax.model_fields["alpha"].annotation)
    assert set(alphas) == {*SCHEDULES, *ADAPTATIONS} - {"none"}


def test_the_warm_ups_are_the_keys_of_their_dict():
    assert get_args(training.Training.model_fields["warm_up"].annotation) == tuple(WARM_UPS)


OPTIONS = [(kind, name) for kind in KINDS for name in configured(kind)]


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_the_options_of_a_choice_are_its_functions_parameters(kind, name):
    options = set(configured(kind)[name].model_fields) - {"name"}
    parameters = inspect.signature(KINDS[kind][2][name]).parameters.values()
    if kind == "optimiser":  # torch's own: it has more, with defaults
        assert options <= {parameter.name for parameter in parameters}
    else:
        given = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert options == given - {"seed"}  # seeds stand beside a choice, as a list


# --- what params.yaml says can be done -------------------------------------------------------


HEATED = [m for m in PARAMS.methods if isinstance(PARAMS.methods[m], method.HeatedSoftmax)]


EPOCHS = {section.training.epochs for section in PARAMS.datasets.values()}


@pytest.mark.parametrize("method", PARAMS.methods)
def test_every_schedule_gives_positive_finite_values_in_every_epoch(method):
    alpha = getattr(PARAMS.methods[method], "alpha", None)
    for schedule in (alpha, PARAMS.methods[method].lr_factor):
        if schedule is None or schedule.name in ADAPTATIONS:
            continue
        for epochs in EPOCHS:
            series = values(schedule.name, schedule.options, epochs=epochs)
            assert len(series) == epochs
            assert all(math.isfinite(value) and value > 0 for value in series)


def test_a_heated_method_is_heated_within_the_epochs_of_every_data_set():
    for name in (name for name in HEATED if name.startswith("h")):
        alpha = PARAMS.methods[name].alpha
        for epochs in EPOCHS:
            series = values(alpha.name, alpha.options, epochs=epochs)
            assert series[-1] < series[0], (name, epochs)


def test_every_normalisation_binds():
    for name in HEATED:
        choice = PARAMS.methods[name].normalise
        module = NORMALISATIONS[choice.name](4, **choice.options)
        assert module(torch.randn(3, 4)).shape == (3, 4)


def distinct_trainings():
    """Data sets of which no two have the same network, augmentation, optimizer and images."""
    found = {}
    for name, each in PARAMS.datasets.items():
        key = each.training.model_dump_json(exclude={"epochs", "lr", "watch_every"})
        found.setdefault((key, each.packing.size, each.packing.colour), name)
    return found.values()


@pytest.mark.parametrize("dataset", distinct_trainings())
def test_every_network_and_augmentation_and_optimiser_binds(dataset):
    training, packing = PARAMS.datasets[dataset].training, PARAMS.datasets[dataset].packing
    images = torch.rand(2, CHANNELS[packing.colour], packing.size, packing.size)
    for choice in training.augment:
        draws = Draws(torch.Generator(), len(images), slice(None))
        images = AUGMENTATIONS[choice.name](images, draws, **choice.options)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    backbone = training.backbone
    network = BACKBONES[backbone.name](shape, training.embedding_dim, **backbone.options)
    assert network(images).shape == (2, training.embedding_dim)
    if not training.weights.endswith(SUFFIXES):  # a user's own file
        identity(training.weights, backbone.name)
    optimiser = training.optimiser
    stepper = OPTIMISERS[optimiser.name](network.parameters(), lr=training.lr, **optimiser.options)
    assert stepper.param_groups[0]["lr"] == training.lr


@pytest.mark.parametrize("dataset", PARAMS.datasets)
def test_every_source_and_split_and_clustering_binds(dataset):
    section = PARAMS.datasets[dataset]
    source = SOURCES[section.source.name](**section.source.options)
    assert source.files or source.copies
    rule = section.packing.split
    inspect.signature(SPLITS[rule.name]).bind(None, **rule.options)
    inspect.signature(KMEANS[section.evaluation.kmeans.name]).bind(
        None, 2, seed=0, **section.evaluation.kmeans.options
    )
