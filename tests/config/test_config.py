import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from heated import config
from heated.config import ParamsError

PARAMS = Path(__file__).parents[2] / "params.yaml"

STEP = "{name: step, start: 16, end: 4, at: 0.7625}"
ALPHA = "methods.ln-heat.alpha"  # where STEP stands first
AFFINE = "{name: affine, degrees: 10, scale: 0.1, shear: 5, shift: 0.1}"
TRAINING_KEYS = (
    "backbone, weights, embedding_dim, warm_up, epochs, batch_size, lr, "
    "bottleneck_lr_factor, head_lr_factor, optimiser, augment"
)

# What stands in params.yaml, what is put in its place, and the one line that must tell of it.
BAD = {
    "unknown key of the file": (
        "download:\n",
        "note: 1\n\ndownload:\n",
        "note: unknown key; allowed: run, studies, download, checkpoints, tracking, report, "
        "datasets, methods, claims",
    ),
    "unknown key of a section": (
        "      lr: 0.05 ",
        "      lr: 0.05\n      batchsize: 64 ",
        f"datasets.digits.training.batchsize: unknown key; allowed: {TRAINING_KEYS}, watch_every, "
        "pixel_mean, pixel_std, precision; did you mean 'batch_size'?",
    ),
    "unknown option of a choice": (
        STEP,
        STEP.replace("at:", "att: 0.5, at:"),
        f"{ALPHA}.att: unknown key; allowed: name, start, end, at; did you mean 'at'?",
    ),
    "unknown key where there may be nothing": (
        "validation: null",
        "validation: {folds: 3, fold: 1, seed: 2}",
        "datasets.digits.packing.validation.seed: unknown key; allowed: folds, fold",
    ),
    "number where a mapping or nothing stands": (
        "validation: null",
        "validation: 5",
        "datasets.digits.packing.validation: came 5; allowed: a mapping with folds, fold",
    ),
    "a fold that there is not": (
        "validation: null",
        "validation: {folds: 3, fold: 3}",
        "datasets.digits.packing.validation: came {'folds': 3, 'fold': 3}; allowed: a fold from 0 "
        "to 2",
    ),
    "rule of another name": (
        "split: {name: halves}",
        "split: {name: halfs}",
        "datasets.digits.packing.split: came 'halfs'; allowed: source, halves, fraction, classes, "
        "pattern, images; did you mean 'halves'?",
    ),
    "pattern that is none": (
        "split: {name: halves}",
        'split: {name: pattern, train: "(a"}',
        "datasets.digits.packing.split.train: came '(a'; allowed: a regular expression (missing )",
    ),
    "missing section": (
        "download:\n  mirror: null",
        "#",
        "download: missing; params.yaml has no defaults, so write it down",
    ),
    "missing key": (
        "      epochs: 8\n",
        "",
        "datasets.digits.training.epochs: missing; params.yaml has no defaults, so write it down",
    ),
    "missing option of a choice": (
        STEP,
        "{name: step, start: 16, end: 4}",
        f"{ALPHA}.at: missing; params.yaml has no defaults, so write it down",
    ),
    "choice without a name": (
        STEP,
        "{start: 16, end: 4, at: 0.7625}",
        f"{ALPHA}: came {{'start': 16, 'end': 4, 'at': 0.7625}}; allowed: a mapping with name "
        "(adacos | constant | cosine | exponential | learned | linear | piecewise | step)",
    ),
    "number where a choice stands": (STEP, "16", f"{ALPHA}: came 16; allowed: a mapping with name"),
    "text for a number": (
        "batch_size: 128",
        "batch_size: many",
        "datasets.digits.training.batch_size: came 'many'; allowed: a valid integer",
    ),
    "quoted number": (
        "lr: 0.05",
        "lr: '0.05'",
        "datasets.digits.training.lr: came '0.05'; allowed: a valid number",
    ),
    "fraction for a count": (
        "epochs: 8\n",
        "epochs: 8.0\n",
        "datasets.digits.training.epochs: came 8.0; allowed: a valid integer",
    ),
    "truth value for a count": (
        "epochs: 8\n",
        "epochs: true\n",
        "datasets.digits.training.epochs: came True; allowed: a valid integer",
    ),
    "text for a truth value": (
        "enabled: true",
        "enabled: yes",
        "tracking.enabled: came 'yes'; allowed: a valid boolean",
    ),
    "truth value for one of several": (
        "  models: none",
        "  models: true",
        "tracking.models: came True; allowed: none, logged, registered",
    ),
    "nothing for a number": (
        "batch_size: 128",
        "batch_size:",
        "datasets.digits.training.batch_size: came None; allowed: a valid integer",
    ),
    "name for a list": (
        "datasets: [digits]",
        "datasets: digits",
        "run.datasets: came 'digits'; allowed: a valid list",
    ),
    "unknown method": (
        "methods: [sm, ls,",
        "methods: [sm, hlnn, ls,",
        "run.methods.1: came 'hlnn'; allowed: the keys of methods (sm, ls, ln, ln-drop, ln-heat, ",
    ),
    "unknown data set": (
        "datasets: [digits] ",
        "datasets: [omniglott] ",
        "run.datasets.0: came 'omniglott'; allowed: the keys of datasets (digits, "
        "digits-upright, omniglot-small, ",
    ),
    "unknown method of a study": (
        "[hbn-linear, ",
        "[hbn-lineal, ",
        "studies.shapes.methods.0: came 'hbn-lineal'; allowed: the keys of methods (sm, ls,",
    ),
    "unknown method of a claim": (
        "more: [hln], less: [ln]",
        "more: [hln], less: [lnn]",
        "claims.hln-over-ln.all.0.less.0: came 'lnn'; allowed: the keys of methods (sm, ls,",
    ),
    "more methods on one side of a claim": (
        "more: [hln, ln], less: [ln-heat, ln-drop]",
        "more: [hln], less: [ln-heat, ln-drop]",
        "claims.ln-interaction.all.0: came {'metric': 'recall_at_1', 'more': ['hln'], 'less': "
        "['ln-heat', 'ln-drop'], 'margin': 0}; allowed: as many methods in `more` as in `less`",
    ),
    "unknown origin of a claim": (
        "origin: open",
        "origin: opinion",
        "claims.ln-heat-alone.origin: came 'opinion'; allowed: paper, authors, open",
    ),
    "a study of a data set that is not fetched": (
        "    datasets: []\n    methods: [bn-4",
        "    datasets: [omniglot-small]\n    methods: [bn-4",
        "studies.alphas.datasets: came 'omniglot-small'; allowed: those of run.datasets (digits)",
    ),
    "a plane of a data set that is fetched already": (
        "datasets: [digits-upright] ",
        "datasets: [digits] ",
        "studies.planes.datasets: came 'digits'; allowed: others than those of run.datasets "
        "(digits)",
    ),
    "a run in two places": (
        "    datasets: []\n    methods: [bn-4",
        "    datasets: [digits]\n    methods: [hbn, bn-4",
        "studies.alphas.methods: came 'hbn', which run trains on 'digits'; name it in one of",
    ),
    "gradients of what is not trained": (
        "    methods: [hbn] ",
        "    methods: [bn-4] ",
        "studies.gradients.methods.0: came 'bn-4'; allowed: those of run.methods (sm, ls,",
    ),
    "grids of different sizes": (
        "over: [0.01, 0.05, 0.25]}, {vary: label_smoothing, over: [0.0, 0.1]}]",
        "over: [0.01, 0.05, 0.25]}, {vary: label_smoothing, over: [0.1]}]",
        "studies.competitors: came ",
    ),
    "a competitor without a grid": (
        "      tuned-bn: [{vary: lr,",
        "      tuned-sn: [{vary: lr,",
        "studies.competitors: came ",
    ),
    "a sampler that nothing knows": (
        "sampler: {name: per_class, images: 4}",
        "sampler: {name: per_klass, images: 4}",
        "methods.proxy-anchor.sampler: came 'per_klass'; allowed: shuffled, per_class; did you "
        "mean 'per_class'?",
    ),
    "one image of a class": (
        "sampler: {name: per_class, images: 2}",
        "sampler: {name: per_class, images: 1}",
        "methods.n-pairs.sampler.images: came 1; allowed: greater than or equal to 2",
    ),
    "smoothed labels without their class in the denominator": (
        "label_smoothing: 0.0, denominator: others, ",
        "label_smoothing: 0.1, denominator: others, ",
        "methods.others-nca: came {",
    ),
    "a gallery of what is not trained": (
        "gallery_method: hbn ",
        "gallery_method: bn-4 ",
        "report.gallery_method: came 'bn-4'; allowed: those of run.methods (sm, ls,",
    ),
    "unknown schedule": (
        STEP,
        STEP.replace("step", "steps"),
        f"{ALPHA}: came 'steps'; allowed: constant, step, linear, cosine, exponential, piecewise, "
        "learned, adacos; did you mean 'step'?",
    ),
    "a launcher that starts something else": (
        "launch: python -m ",
        "launch: torchrun; rm -m ",
        "run.launch: came 'torchrun; rm -m'; allowed: python -m, or torchrun with --option=value",
    ),
    "unknown backbone": (
        "{name: conv4, width: 32}",
        "{name: conv5, width: 32}",
        "datasets.digits.training.backbone: came 'conv5'; allowed: lenet, conv4, "
        "googlenet, resnet50, mobilenet_v2; did you mean 'conv4'?",
    ),
    "batch norm that is not told of": (
        "{name: conv4, width: 32}",
        "{name: resnet50, frozen_blocks: 0}",
        "datasets.digits.training.backbone.batch_norm: missing; params.yaml has no defaults",
    ),
    "unknown key of batch norm": (
        "{name: conv4, width: 32}",
        "{name: resnet50, frozen_blocks: 0, "
        "batch_norm: {momentum: 0.1, epsilon: 1e-5, eps: 1e-5, frozen: false}}",
        "datasets.digits.training.backbone.batch_norm.epsilon: unknown key; allowed: momentum, "
        "eps, frozen; did you mean 'eps'?",
    ),
    "weights that are no file's": (
        "weights: none ",
        "weights: imagenet1k ",
        "datasets.digits.training.weights: came 'imagenet1k'; allowed: none, imagenet, or the path",
    ),
    "unknown warm-up": (
        "warm_up: none ",
        "warm_up: class_mean ",
        "datasets.digits.training.warm_up: came 'class_mean'; allowed: none, batch_norm, "
        "class_means; did you mean 'class_means'?",
    ),
    "a mean that is no number": (
        "pixel_mean: 0.5",
        "pixel_mean: [0.5, half]",
        "datasets.digits.training.pixel_mean: came [0.5, 'half']; allowed: a finite number, or a "
        "list with one a channel",
    ),
    "a deviation of 0": (
        "pixel_std: 0.5",
        "pixel_std: [0.5, 0, 0.5]",
        "datasets.digits.training.pixel_std: came [0.5, 0, 0.5]; allowed: a number above 0",
    ),
    "unknown augmentation": (
        AFFINE,
        "{name: flop, probability: 0.5}",
        "datasets.digits.training.augment.0: came 'flop'; allowed: affine, crop, resized_crop, "
        "flip; did you mean 'flip'?",
    ),
    "unknown place of the bias": (
        "    bias: outside\n",
        "    bias: outsid\n",
        "methods.sm.bias: came 'outsid'; allowed: outside, inside, none; did you mean 'outside'?",
    ),
    "alpha of zero": (
        STEP,
        STEP.replace("end: 4", "end: 0"),
        f"{ALPHA}.end: came 0; allowed: greater than 0",
    ),
    "alpha below zero": (
        STEP,
        STEP.replace("start: 16", "start: -16"),
        f"{ALPHA}.start: came -16; allowed: greater than 0",
    ),
    "constant alpha of zero": (
        "alpha: {name: constant, value: 16}",
        "alpha: {name: constant, value: 0.0}",
        "methods.ln.alpha.value: came 0.0; allowed: greater than 0",
    ),
    "infinite alpha": (
        STEP,
        STEP.replace("start: 16", "start: .inf"),
        f"{ALPHA}.start: came inf; allowed: a finite number",
    ),
    "learning rate that is no number": (
        "lr: 0.05",
        "lr: .nan",
        "datasets.digits.training.lr: came nan; allowed: a finite number",
    ),
    "point of alpha zero": (
        STEP,
        "{name: piecewise, points: [[0, 16], [1, 0]]}",
        f"{ALPHA}.points.1.1: came 0; allowed: greater than 0",
    ),
    "points that do not rise": (
        STEP,
        "{name: piecewise, points: [[0.5, 16], [0.5, 4]]}",
        f"{ALPHA}.points: came [[0.5, 16], [0.5, 4]]; allowed: progress that rises",
    ),
    "switch after the end": (
        STEP,
        STEP.replace("0.7625", "61"),
        f"{ALPHA}.at: came 61; allowed: less than or equal to 1",
    ),
    "switch before the start": (
        STEP,
        STEP.replace("0.7625", "-0.1"),
        f"{ALPHA}.at: came -0.1; allowed: greater than or equal to 0",
    ),
    "no seeds": (
        "seeds: [0, 1, 2]",
        "seeds: []",
        "run.seeds: came []; allowed: a list with at least one entry",
    ),
    "seed twice": (
        "seeds: [0, 1, 2]",
        "seeds: [0, 1, 0]",
        "run.seeds: came [0, 1, 0]; allowed: each entry only once",
    ),
    "method twice": (
        "methods: [sm, ls,",
        "methods: [sm, sm, ls,",
        "run.methods: came ['sm', 'sm', 'ls',",
    ),
    "seed below zero": (
        "seeds: [0, 1, 2]",
        "seeds: [0, -1]",
        "run.seeds.1: came -1; allowed: greater than or equal to 0",
    ),
    "name that no stage can bear": (
        "  omniglot-small:\n",
        "  Omniglot@small:\n",
        "datasets.Omniglot@small: came 'Omniglot@small'; allowed: lower-case letters, digits "
        "and single hyphens",
    ),
}


def file_with(tmp_path, *replacements):
    text = PARAMS.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message_of(path):
    with pytest.raises(ParamsError) as caught:
        config.load(path)
    return str(caught.value)


def test_the_projects_own_params_load():
    params = config.load(PARAMS)
    assert set(params.run.datasets) <= set(params.datasets)
    assert set(params.run.methods) <= set(params.methods)


@pytest.mark.parametrize(("old", "new", "line"), BAD.values(), ids=BAD)
def test_a_bad_input_is_told_by_path_what_came_and_what_is_allowed(tmp_path, old, new, line):
    path = file_with(tmp_path, (old, new))
    heading, *lines = message_of(path).split("\n  ")
    assert heading == f"{path} has an error:"
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_a_mistyped_key_is_told_as_missing_and_as_unknown(tmp_path):
    path = file_with(tmp_path, ("embedding_dim: 64", "embeding_dim: 64"))
    heading, missing, unknown = message_of(path).split("\n  ")
    assert heading == f"{path} has 2 errors:"
    assert missing.startswith("datasets.digits.training.embedding_dim: missing")
    assert unknown.startswith("datasets.digits.training.embeding_dim: unknown key")
    assert unknown.endswith("did you mean 'embedding_dim'?")


def test_an_error_that_other_sections_take_over_is_told_once_where_it_stands(tmp_path):
    path = file_with(
        tmp_path, ("normalise: {name: batch, momentum: 0.05", "normalise: {name: batch")
    )
    assert message_of(path).split("\n  ")[1:] == [
        "methods.bn.normalise.momentum: missing; params.yaml has no defaults, so write it down"
    ]


def test_the_nearest_name_is_suggested(tmp_path):
    for old, new, name in [
        ("[sm, ls,", "[sm, hlnn, ls,", "hln"),
        ("[digits]", "[digit]", "digits"),
    ]:
        assert message_of(file_with(tmp_path, (old, new))).endswith(f"did you mean '{name}'?")


def test_no_name_is_suggested_where_none_is_near(tmp_path):
    message = message_of(file_with(tmp_path, ("datasets: [digits]", "datasets: [xyz]")))
    assert "run.datasets.0: came 'xyz'; allowed: the keys of datasets" in message
    assert "did you mean" not in message


def test_all_errors_are_told_at_once(tmp_path):
    lines = ["no seeds", "unknown method", "unknown backbone", "alpha of zero", "missing section"]
    path = file_with(tmp_path, *(BAD[name][:2] for name in lines))
    heading, *told = message_of(path).split("\n  ")
    assert heading == f"{path} has 5 errors:"
    for name in lines:
        assert sum(line.startswith(BAD[name][2]) for line in told) == 1


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("  threads: 1 ", "  threads: 1\n  threads: 2 ", "threads"),
        ("  hln: ", "  ln: ", "ln"),
        (STEP, STEP.replace("end: 4", "end: 4, end: 2"), "end"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_name_and_line(tmp_path, old, new, key):
    message = message_of(file_with(tmp_path, (old, new)))
    assert f"the key '{key}' stands twice" in message
    assert "line " in message


def test_what_is_not_yaml_is_refused_with_the_line(tmp_path):
    path = file_with(tmp_path, ("run: ", "run: ["))
    message = message_of(path)
    assert message.startswith(f"{path} is not readable as YAML")
    assert "line " in message


@pytest.mark.parametrize("text", ["", "just words", "- 1\n- 2\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert "allowed: a mapping of sections" in message_of(path)


def test_a_yaml_tag_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("run: !!python/object/apply:os.getcwd []\n")
    assert "is not readable as YAML" in message_of(path)


def test_a_missing_file_is_told_with_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"params\.yaml is missing: run stages from the project"):
        config.load()


def test_the_file_in_the_current_folder_is_read(tmp_path, monkeypatch):
    file_with(tmp_path, ("seeds: [0, 1, 2]", "seeds: [7]"))
    monkeypatch.chdir(tmp_path)
    assert config.load().run.seeds == [7]


def test_an_exponent_without_a_point_is_a_number(tmp_path):
    params = config.load(file_with(tmp_path, ("lr: 0.05", "lr: 1e-4")))
    assert params.datasets["digits"].training.lr == 0.0001


def test_a_whole_number_stands_where_a_fraction_may(tmp_path):
    lr = config.load(file_with(tmp_path, ("lr: 0.05", "lr: 1"))).datasets["digits"].training.lr
    assert lr == 1.0
    assert isinstance(lr, float)


@pytest.mark.parametrize("at", [0, 1])
def test_a_switch_may_lie_at_either_end(tmp_path, at):
    path = file_with(tmp_path, (STEP, STEP.replace("0.7625", str(at))))
    assert config.load(path).methods["ln-heat"].alpha.at == at


def test_runs_are_those_of_all_grids_with_their_own_seeds(tmp_path):
    path = file_with(
        tmp_path,
        ("    datasets: []\n    methods: [bn-4", "    datasets: [digits]\n    methods: [bn-4"),
    )
    params = config.load(path)
    runs = list(params.runs())
    assert len(runs) == len(set(runs)) == 10 + 4 + 5
    assert runs[:10] == [("digits", method) for method in params.run.methods]
    assert ("digits-upright", "ln-quarter") in runs
    assert params.seeds_of("digits")["bn-4"] == [0, 1, 2]
    assert params.seeds_of("digits-upright")["ln"] == [0]


def test_a_methods_own_dimensions_win_over_the_data_sets():
    params = config.load(PARAMS)
    assert params.settings("digits", "bn")["embedding_dim"] == 64
    assert params.settings("digits", "bn-d128")["embedding_dim"] == 128
    assert params.settings("digits", "bn-d128")["epochs"] == 8


def test_options_are_all_but_the_name():
    assert config.load(PARAMS).methods["hbn"].alpha.options == {"start": 16, "end": 4, "at": 0.7625}


def test_loaded_parameters_cannot_be_changed():
    params = config.load(PARAMS)
    with pytest.raises(ValidationError, match="frozen"):
        params.run.threads = 2


def test_loading_does_not_import_torch():
    code = f"import sys; from heated import config; config.load(config.Path({str(PARAMS)!r}))"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_report_may_go_without_neighbours(tmp_path):
    assert config.load(file_with(tmp_path, ("gallery: 3 ", "gallery: 0 "))).report.gallery == 0


@pytest.mark.parametrize("method", ["triplet", "others-nca"])
def test_gradients_of_what_is_no_softmax_are_refused(tmp_path, method):
    path = file_with(
        tmp_path,
        ("methods: [sm, ls,", f"methods: [{method}, sm, ls,"),
        ("    methods: [hbn] ", f"    methods: [{method}] "),
    )
    told = f"studies.gradients.methods.0: came '{method}'; allowed: methods of the heated softmax"
    assert told in message_of(path)
