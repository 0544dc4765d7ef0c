"""The four YAML files: what is wrong in them is named by file, path, value and expectation."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from heated import config
from heated.config import FILES, ParamsError
from heated.config.reading import parse

ROOT = Path(__file__).parents[2]
RAW = {file: parse(ROOT / file) for file in FILES}
DELETE = object()

STEP = {"name": "step", "start": 16, "end": 4, "at": 0.7625}
ALPHA = "params.yaml: methods.ln-heat.alpha"
TRAINING = "datasets.yaml: datasets.digits.training"
PACKING = "datasets.yaml: datasets.digits.packing"
TRAINING_KEYS = (
    "backbone, weights, embedding_dim, warm_up, epochs, batch_size, lr, bottleneck_lr_factor, "
    "head_lr_factor, optimiser, augment, watch_every, pixel_mean, pixel_std, precision"
)
METHODS = "sm, ls, ln, ln-drop, ln-heat, "

# Where a value is put, the value, and how the one line begins that must tell of it.
Case = tuple[str, Any, str]
BAD: dict[str, Case] = {
    "unknown section": (
        "params.yaml: note",
        1,
        "params.yaml: note: unknown key, expected one of run, download, checkpoints, tracking, "
        "report, methods.",
    ),
    "section of another file": (
        "studies.yaml: claims",
        {},
        "studies.yaml: claims: unknown key, expected one of studies, methods, grids. It belongs in "
        "claims.yaml.",
    ),
    "unknown key of a section": (
        "datasets.yaml: datasets.digits.training.batchsize",
        64,
        f"{TRAINING}.batchsize: unknown key, expected one of {TRAINING_KEYS}. Did you mean "
        "'batch_size'?",
    ),
    "unknown option of a choice": (
        "params.yaml: methods.ln-heat.alpha.att",
        0.5,
        f"{ALPHA}.att: unknown key, expected one of name, start, end, at. Did you mean 'at'?",
    ),
    "unknown key where there may be nothing": (
        "datasets.yaml: datasets.digits.packing.validation",
        {"folds": 3, "fold": 1, "seed": 2},
        f"{PACKING}.validation.seed: unknown key, expected one of folds, fold.",
    ),
    "number where a mapping or nothing is expected": (
        "datasets.yaml: datasets.digits.packing.validation",
        5,
        f"{PACKING}.validation: got 5, expected a mapping with folds, fold.",
    ),
    "a fold that does not exist": (
        "datasets.yaml: datasets.digits.packing.validation",
        {"folds": 3, "fold": 3},
        f"{PACKING}.validation: got {{'folds': 3, 'fold': 3}}, expected a fold from 0 to 2.",
    ),
    "rule of another name": (
        "datasets.yaml: datasets.digits.packing.split.name",
        "halfs",
        f"{PACKING}.split: got 'halfs', expected one of source, halves, fraction, classes, "
        "pattern, images. Did you mean 'halves'?",
    ),
    "invalid pattern": (
        "datasets.yaml: datasets.digits.packing.split",
        {"name": "pattern", "train": "(a"},
        f"{PACKING}.split.train: got '(a', expected a regular expression (missing )",
    ),
    "missing section": ("params.yaml: download", DELETE, "params.yaml: download: missing. Add it"),
    "missing key": (
        "datasets.yaml: datasets.digits.training.epochs",
        DELETE,
        f"{TRAINING}.epochs: missing. Add it: no key has a default.",
    ),
    "missing option of a choice": (
        "params.yaml: methods.ln-heat.alpha.at",
        DELETE,
        f"{ALPHA}.at: missing. Add it: no key has a default.",
    ),
    "number where a choice is expected": (
        "params.yaml: methods.ln-heat.alpha",
        16,
        f"{ALPHA}: got 16, expected a mapping with name (",
    ),
    "choice without a name": (
        "params.yaml: methods.sm.alpha",
        {"value": 1},
        "params.yaml: methods.sm.alpha: got {'value': 1}, expected a mapping with name (adacos | "
        "constant | cosine | exponential | learned | linear | piecewise | step)",
    ),
    "list where a method is expected": (
        "params.yaml: methods.ls",
        [1, 2],
        "params.yaml: methods.ls: got [1, 2], expected a mapping with ",
    ),
    "text for a number": (
        "datasets.yaml: datasets.digits.training.batch_size",
        "many",
        f"{TRAINING}.batch_size: got 'many', expected a valid integer.",
    ),
    "quoted number": (
        "datasets.yaml: datasets.digits.training.lr",
        "0.05",
        f"{TRAINING}.lr: got '0.05', expected a valid number.",
    ),
    "fraction for a count": (
        "datasets.yaml: datasets.digits.training.epochs",
        8.0,
        f"{TRAINING}.epochs: got 8.0, expected a valid integer.",
    ),
    "more epochs than anybody trains": (
        "datasets.yaml: datasets.digits.training.epochs",
        10**12,
        f"{TRAINING}.epochs: got 1000000000000, expected less than or equal to 1000000.",
    ),
    "truth value for a count": (
        "datasets.yaml: datasets.digits.training.epochs",
        True,
        f"{TRAINING}.epochs: got True, expected a valid integer.",
    ),
    "text for a truth value": (
        "params.yaml: tracking.enabled",
        "yes",
        "params.yaml: tracking.enabled: got 'yes', expected a valid boolean.",
    ),
    "truth value for one of several": (
        "params.yaml: tracking.models",
        True,
        "params.yaml: tracking.models: got True, expected one of none, logged, registered.",
    ),
    "nothing for a number": (
        "datasets.yaml: datasets.digits.training.batch_size",
        None,
        f"{TRAINING}.batch_size: got None, expected a valid integer.",
    ),
    "name for a list": (
        "params.yaml: run.datasets",
        "digits",
        "params.yaml: run.datasets: got 'digits', expected a valid list.",
    ),
    "unknown method": (
        "params.yaml: run.methods.1",
        "hlnn",
        f"params.yaml: run.methods.1: got 'hlnn', expected one of {METHODS}",
    ),
    "unknown data set": (
        "params.yaml: run.datasets.0",
        "omniglott",
        "params.yaml: run.datasets.0: got 'omniglott', expected one of digits, digits-upright, ",
    ),
    "unknown method of a study": (
        "studies.yaml: studies.shapes.methods.0",
        "hbn-lineal",
        f"studies.yaml: studies.shapes.methods.0: got 'hbn-lineal', expected one of {METHODS}",
    ),
    "unknown method of a claim": (
        "claims.yaml: claims.hln-over-ln.all.0.less.0",
        "lnn",
        f"claims.yaml: claims.hln-over-ln.all.0.less.0: got 'lnn', expected one of {METHODS}",
    ),
    "more methods on one side of a claim": (
        "claims.yaml: claims.ln-interaction-recall.all.0.more",
        ["hln"],
        "claims.yaml: claims.ln-interaction-recall.all.0: got {'metric': 'recall_at_1', "
        "'more': ['hln'], 'less': ['ln-heat', 'ln-drop'], 'margin': 0}, expected as many methods in `more` as in",
    ),
    "unknown origin of a claim": (
        "claims.yaml: claims.ln-heat-recall.origin",
        "opinion",
        "claims.yaml: claims.ln-heat-recall.origin: got 'opinion', expected one of paper, authors, ",
    ),
    "a study of a data set that is not downloaded": (
        "studies.yaml: studies.alphas.datasets",
        ["omniglot-small"],
        "studies.yaml: studies.alphas.datasets.0: got 'omniglot-small', expected one of "
        "run.datasets (digits).",
    ),
    "a plane of a data set that is downloaded already": (
        "studies.yaml: studies.planes.datasets",
        ["digits"],
        "studies.yaml: studies.planes.datasets.0: got 'digits', expected none of run.datasets",
    ),
    "a run in two grids": (
        "studies.yaml: studies.alphas",
        {"datasets": ["digits"], "methods": ["hbn", "bn-4"], "seeds": [0]},
        "studies.yaml: studies.alphas.methods: got 'hbn', which run trains on 'digits'.",
    ),
    "gradients of what is not trained": (
        "studies.yaml: studies.gradients.methods.0",
        "bn-4",
        "studies.yaml: studies.gradients.methods.0: got 'bn-4', expected one of run.methods (sm",
    ),
    "grids of different sizes": (
        "studies.yaml: grids.tuned-sm.1.over",
        [0.1],
        "studies.yaml: studies.competitors: got ",
    ),
    "a grid of billions": (
        "studies.yaml: grids.tuned-sm",
        [{"vary": "lr", "over": list(range(1, 1001))}] * 3,
        "studies.yaml: studies.competitors: got ",
    ),
    "a competitor without a grid": (
        "studies.yaml: grids.tuned-bn",
        DELETE,
        "studies.yaml: studies.competitors: got ",
    ),
    "a grid that is no list": (
        "studies.yaml: grids.tuned-bn",
        5,
        "studies.yaml: grids.tuned-bn: got 5, expected a valid list.",
    ),
    "a grid in its former place": (
        "studies.yaml: studies.competitors.grid",
        {},
        "studies.yaml: studies.competitors.grid: unknown key. Move it to the section grids",
    ),
    "a list of methods beside another file's": (
        "studies.yaml: methods",
        ["bn-4"],
        "studies.yaml: methods: got ['bn-4'], expected a mapping of entries by name.",
    ),
    "unknown sampler": (
        "studies.yaml: methods.proxy-anchor.sampler.name",
        "per_klass",
        "studies.yaml: methods.proxy-anchor.sampler: got 'per_klass', expected one of shuffled, "
        "per_class. Did you mean 'per_class'?",
    ),
    "one image per class": (
        "studies.yaml: methods.n-pairs.sampler.images",
        1,
        "studies.yaml: methods.n-pairs.sampler.images: got 1, expected greater than or equal to 2.",
    ),
    "smoothed labels without their class in the denominator": (
        "params.yaml: methods.ls.denominator",
        "others",
        "params.yaml: methods.",
    ),
    "a gallery of what is not trained": (
        "params.yaml: report.gallery_method",
        "bn-4",
        f"params.yaml: report.gallery_method: got 'bn-4', expected one of run.methods ({METHODS}",
    ),
    "unknown schedule": (
        "params.yaml: methods.ln-heat.alpha.name",
        "steps",
        f"{ALPHA}: got 'steps', expected one of constant, step, linear, cosine, exponential, "
        "piecewise, learned, adacos. Did you mean 'step'?",
    ),
    "a launcher that starts something else": (
        "params.yaml: run.launch",
        "torchrun; rm -m",
        "params.yaml: run.launch: got 'torchrun; rm -m', expected python -m, or torchrun with ",
    ),
    "unknown backbone": (
        "datasets.yaml: datasets.digits.training.backbone.name",
        "conv5",
        f"{TRAINING}.backbone: got 'conv5', expected one of lenet, conv4, googlenet, resnet50, "
        "mobilenet_v2. Did you mean 'conv4'?",
    ),
    "missing batch norm": (
        "datasets.yaml: datasets.cub200.training.backbone.batch_norm",
        DELETE,
        "datasets.yaml: datasets.cub200.training.backbone.batch_norm: missing. Add it",
    ),
    "unknown key of batch norm": (
        "datasets.yaml: datasets.cub200.training.backbone.batch_norm.epsilon",
        1e-5,
        "datasets.yaml: datasets.cub200.training.backbone.batch_norm.epsilon: unknown key, "
        "expected one of momentum, eps, frozen. Did you mean 'eps'?",
    ),
    "weights of an unknown name": (
        "datasets.yaml: datasets.digits.training.weights",
        "imagenet1k",
        f"{TRAINING}.weights: got 'imagenet1k', expected none, imagenet, or the path",
    ),
    "unknown warm-up": (
        "datasets.yaml: datasets.digits.training.warm_up",
        "class_mean",
        f"{TRAINING}.warm_up: got 'class_mean', expected one of none, batch_norm, class_means. Did "
        "you mean 'class_means'?",
    ),
    "a mean that is no number": (
        "datasets.yaml: datasets.digits.training.pixel_mean",
        [0.5, "half"],
        f"{TRAINING}.pixel_mean: got [0.5, 'half'], expected a finite number, or a list with one ",
    ),
    "a deviation of 0": (
        "datasets.yaml: datasets.digits.training.pixel_std",
        [0.5, 0, 0.5],
        f"{TRAINING}.pixel_std: got [0.5, 0, 0.5], expected a number above 0",
    ),
    "unknown augmentation": (
        "datasets.yaml: datasets.digits.training.augment.0",
        {"name": "flop", "probability": 0.5},
        f"{TRAINING}.augment.0: got 'flop', expected one of affine, crop, resized_crop, flip. Did "
        "you mean 'flip'?",
    ),
    "unknown place of the bias": (
        "params.yaml: methods.sm.bias",
        "outsid",
        "params.yaml: methods.sm.bias: got 'outsid', expected one of outside, inside, none. Did ",
    ),
    "alpha of zero": (
        "params.yaml: methods.ln-heat.alpha.end",
        0,
        f"{ALPHA}.end: got 0, expected greater than 0.",
    ),
    "alpha below zero": (
        "params.yaml: methods.ln-heat.alpha.start",
        -16,
        f"{ALPHA}.start: got -16, expected greater than 0.",
    ),
    "constant alpha of zero": (
        "params.yaml: methods.ln.alpha.value",
        0.0,
        "params.yaml: methods.ln.alpha.value: got 0.0, expected greater than 0.",
    ),
    "infinite alpha": (
        "params.yaml: methods.ln-heat.alpha.start",
        float("inf"),
        f"{ALPHA}.start: got inf, expected a finite number.",
    ),
    "learning rate that is no number": (
        "datasets.yaml: datasets.digits.training.lr",
        float("nan"),
        f"{TRAINING}.lr: got nan, expected a finite number.",
    ),
    "point of alpha zero": (
        "params.yaml: methods.ln-heat.alpha",
        {"name": "piecewise", "points": [[0, 16], [1, 0]]},
        f"{ALPHA}.points.1.1: got 0, expected greater than 0.",
    ),
    "points that do not rise": (
        "params.yaml: methods.ln-heat.alpha",
        {"name": "piecewise", "points": [[0.5, 16], [0.5, 4]]},
        f"{ALPHA}.points: got [[0.5, 16], [0.5, 4]], expected progress that rises",
    ),
    "switch after the end": (
        "params.yaml: methods.ln-heat.alpha.at",
        61,
        f"{ALPHA}.at: got 61, expected less than or equal to 1.",
    ),
    "switch before the start": (
        "params.yaml: methods.ln-heat.alpha.at",
        -0.1,
        f"{ALPHA}.at: got -0.1, expected greater than or equal to 0.",
    ),
    "no seeds": (
        "params.yaml: run.seeds",
        [],
        "params.yaml: run.seeds: got [], expected a list with at least one entry.",
    ),
    "seed twice": (
        "params.yaml: run.seeds",
        [0, 1, 0],
        "params.yaml: run.seeds: got [0, 1, 0], expected each entry only once.",
    ),
    "method twice": (
        "params.yaml: run.methods",
        ["sm", "sm", "ls", "hbn"],
        "params.yaml: run.methods: got ['sm', 'sm', 'ls', 'hbn'], expected each entry only once.",
    ),
    "seed below zero": (
        "params.yaml: run.seeds",
        [0, -1],
        "params.yaml: run.seeds.1: got -1, expected greater than or equal to 0.",
    ),
    **{
        f"name that no stage or path can have: {name}": (
            f"datasets.yaml: datasets.{name}",
            RAW["datasets.yaml"]["datasets"]["digits"],
            f"datasets.yaml: datasets.{name}: got {name!r}, expected lower-case letters, digits "
            "and single hyphens.",
        )
        for name in ("Omniglot@small", "a b", "a/b", "-a", "a--b", "~", "a%b")
    },
    "name above the project": (
        "params.yaml: run.datasets",
        ["../x"],
        "params.yaml: run.datasets.0: got '../x', expected ",
    ),
    "base that does not exist": (
        "params.yaml: methods.bn-drop.base",
        "bm",
        f"params.yaml: methods.bn-drop.base: got 'bm', expected one of {METHODS}",
    ),
    "base that is no name": (
        "params.yaml: methods.bn-drop.base",
        ["bn"],
        "params.yaml: methods.bn-drop.base: got ['bn'], expected one of ",
    ),
    "entry that starts from itself": (
        "datasets.yaml: datasets.digits.base",
        "digits",
        "datasets.yaml: datasets.digits.base: got 'digits', which starts from itself: digits -> ",
    ),
    "cycle of bases": (
        "params.yaml: methods.sm.base",
        "bn",
        "params.yaml: methods.ln.base: got 'sm', which starts from itself: sm -> bn -> ln -> sm. "
        "Break the cycle.",
    ),
    "method in two files": (
        "studies.yaml: methods.hbn",
        {"base": "bn"},
        "studies.yaml: methods.hbn: is in params.yaml, too. Rename or remove one of the two.",
    ),
}


def put(raw: Any, path: str, value: Any) -> None:
    """Put a value at a path, or delete what is there."""
    *outer, last = path.split(".")
    for part in outer:
        raw = raw[int(part) if isinstance(raw, list) else part]
    if value is DELETE:
        del raw[last]
    else:
        raw[int(last) if isinstance(raw, list) else last] = value


def changed_files(*cases: tuple[str, Any]) -> dict[str, Any]:
    """The project's files as they are parsed, some values changed."""
    changed = deepcopy(RAW)
    for where, value in cases:
        file, _, path = where.partition(": ")
        put(changed[file], path, value)
    return changed


def folder_with(folder: Path, *cases: tuple[str, Any]) -> Path:
    """A folder with the project's files, some values changed."""
    for file, raw in changed_files(*cases).items():
        text = json.dumps(raw)  # which YAML contains
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def text_with(folder: Path, file: str, old: str, new: str) -> Path:
    """A folder with the project's files, a text replaced in one."""
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == file:
            assert old in text
            text = text.replace(old, new, 1)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def message_of(folder: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        config.load(folder)
    return str(caught.value)


def test_the_projects_own_files_load():
    params = config.load(ROOT)
    assert set(params.run.datasets) <= set(params.datasets)
    assert set(params.run.methods) <= set(params.methods)


def test_a_bad_value_is_named_by_file_path_value_and_expectation(monkeypatch):
    for name, (where, value, line) in BAD.items():
        changed = changed_files((where, value))
        monkeypatch.setattr(config, "parse", lambda path, changed=changed: changed[path.name])
        heading, *lines = message_of(Path()).split("\n  ")
        assert heading == "The parameters have an error:", (name, lines)
        assert len(lines) == 1, (name, lines)
        assert lines[0].startswith(line), (name, lines[0])


def test_a_mistyped_key_is_named_as_missing_and_as_unknown(tmp_path):
    training = "datasets.yaml: datasets.digits.training"
    changes = (f"{training}.embedding_dim", DELETE), (f"{training}.embeding_dim", 64)
    heading, missing, unknown = message_of(folder_with(tmp_path, *changes)).split("\n  ")
    assert heading == "The parameters have 2 errors:"
    assert missing.startswith(f"{training}.embedding_dim: missing")
    assert unknown.startswith(f"{training}.embeding_dim: unknown key")
    assert unknown.endswith("Did you mean 'embedding_dim'?")


def test_an_error_that_other_entries_inherit_is_named_once_where_it_is(tmp_path):
    folder = folder_with(tmp_path, ("params.yaml: methods.bn.normalise.momentum", DELETE))
    assert message_of(folder).split("\n  ")[1:] == [
        "params.yaml: methods.bn.normalise.momentum: missing. Add it: no key has a default."
    ]


def test_the_nearest_name_is_suggested(tmp_path):
    for where, value, name in [
        ("params.yaml: run.methods.1", "hlnn", "hln"),
        ("params.yaml: run.datasets.0", "digit", "digits"),
        ("params.yaml: methods.hbn.base", "bnn", "bn"),
    ]:
        assert message_of(folder_with(tmp_path, (where, value))).endswith(f"Did you mean '{name}'?")


def test_no_name_is_suggested_where_none_is_near(tmp_path):
    message = message_of(folder_with(tmp_path, ("params.yaml: run.datasets.0", "xyz")))
    assert "run.datasets.0: got 'xyz', expected one of digits" in message
    assert "Did you mean" not in message


def test_all_errors_in_all_files_are_named_at_once(tmp_path):
    names = ["no seeds", "unknown method", "unknown backbone", "alpha of zero", "missing section"]
    names += ["unknown origin of a claim", "one image per class", "method in two files"]
    cases = [BAD[name] for name in names]
    heading, *lines = message_of(folder_with(tmp_path, *(case[:2] for case in cases))).split("\n  ")
    assert heading == f"The parameters have {len(names)} errors:"
    for *_, line in cases:
        assert sum(each.startswith(line) for each in lines) == 1


def test_a_wrong_base_is_no_unknown_method_elsewhere(tmp_path):
    message = message_of(folder_with(tmp_path, ("params.yaml: methods.bn.base", "lm")))
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("params.yaml", "  threads: 1 ", "  threads: 1\n  threads: 2 ", "key 'threads' is twice"),
        ("params.yaml", "  hln: ", "  ln: ", "key 'ln' is twice"),
        ("studies.yaml", "{base: hbn, alpha: {at: 0.5}", "{base: hbn, base: bn", "key 'base' is"),
        ("params.yaml", "run:", "run: [", "cannot be read as YAML"),
        ("params.yaml", "run:", "run: &run", "got &run, expected no anchors"),
        ("datasets.yaml", "{name: digits, turns: 4}", "*x", "got *x, expected no anchors"),
    ],
)
def test_what_cannot_be_read_is_named_with_file_and_line(tmp_path, file, old, new, told):
    message = message_of(text_with(tmp_path, file, old, new))
    assert message.startswith(f"{tmp_path / file}: cannot be read as YAML")
    assert told in message
    assert "line " in message


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",  # doubles with every line
        "a: &a\n  b: *a\n",
        "a: " + "[" * 10_000,
        f"a: {'9' * 5000}\n",
        "a: !!int x\n",
        "a: !!python/object/apply:os.getcwd []\n",
        "a: !!timestamp 1\n",
        "\x00",
    ],
)
def test_hostile_yaml_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    assert "cannot be read as YAML" in message_of(tmp_path)


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    for text in ("", "just words", "- 1\n- 2\n"):
        (tmp_path / "params.yaml").write_text(text)
        assert "expected a mapping of sections" in message_of(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"a: \xff\xfe\n")
    assert "cannot be read as YAML" in message_of(tmp_path)


def test_a_missing_file_is_named_with_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in FILES:
        with pytest.raises(ParamsError, match=f"{file} is missing. Run stages from the project"):
            config.load()
        (tmp_path / file).write_text((ROOT / file).read_text(encoding="utf-8"), encoding="utf-8")
    assert config.load().run.seeds == [0, 1, 2]


def test_an_exponent_without_a_point_is_a_number(tmp_path):
    folder = text_with(tmp_path, "datasets.yaml", "lr: 0.05", "lr: 1e-4")
    assert config.load(folder).datasets["digits"].training.lr == 0.0001


def test_a_whole_number_is_taken_for_a_fraction(tmp_path):
    folder = folder_with(tmp_path, ("datasets.yaml: datasets.digits.training.lr", 1))
    lr = config.load(folder).datasets["digits"].training.lr
    assert lr == 1.0
    assert isinstance(lr, float)


def test_a_switch_may_be_at_either_end(tmp_path):
    for at in (0, 1):
        folder = folder_with(tmp_path, ("params.yaml: methods.ln-heat.alpha.at", at))
        assert config.load(folder).methods["ln-heat"].alpha.at == at


def test_runs_are_those_of_all_grids_with_their_own_seeds(tmp_path):
    folder = folder_with(tmp_path, ("studies.yaml: studies.alphas.datasets", ["digits"]))
    params = config.load(folder)
    runs = list(params.runs())
    assert len(runs) == len(set(runs)) == 10 + 4 + 5
    assert runs[:10] == [("digits", method) for method in params.run.methods]
    assert ("digits-upright", "ln-quarter") in runs
    assert params.seeds_of("digits")["bn-4"] == [0, 1, 2]
    assert params.seeds_of("digits-upright")["ln"] == [0]


def test_a_methods_own_dimensions_win_over_the_data_sets():
    params = config.load(ROOT)
    assert params.settings("digits", "bn")["embedding_dim"] == 64
    assert params.settings("digits", "bn-d128")["embedding_dim"] == 128
    assert params.settings("digits", "bn-d128")["epochs"] == 8


def test_options_are_all_but_the_name():
    assert config.load(ROOT).methods["hbn"].alpha.options == {"start": 16, "end": 4, "at": 0.7625}


def test_loaded_parameters_cannot_be_changed():
    params = config.load(ROOT)
    with pytest.raises(ValidationError, match="frozen"):
        params.run.threads = 2


def test_loading_does_not_import_torch():
    code = f"import sys; from heated import config; config.load(config.Path({str(ROOT)!r}))"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_report_may_go_without_neighbors(tmp_path):
    folder = folder_with(tmp_path, ("params.yaml: report.gallery", 0))
    assert config.load(folder).report.gallery == 0


def test_gradients_of_what_is_no_softmax_are_refused(tmp_path):
    for method in ("triplet", "others-nca"):
        folder = folder_with(
            tmp_path,
            ("params.yaml: run.methods.0", method),
            ("studies.yaml: studies.gradients.methods", [method]),
        )
        told = f"studies.gradients.methods.0: got '{method}', expected a method of the heated"
        assert told in message_of(folder)
