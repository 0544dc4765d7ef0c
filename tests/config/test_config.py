"""The four YAML files: what is wrong in them is named by file, path, value and expectation."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from dvc.utils.serialize import load_yaml
from pydantic import ValidationError

from heated import config
from heated.config import FILES, ParamsError
from heated.config.yaml_files import read_yaml

RAW = {file: read_yaml(ROOT / file) for file in FILES}
DELETE = object()
ALPHA = "methods.ln-heat.alpha"
TRAINING = "datasets.digits.training"
BATCH_NORM = "datasets.cub200.training.backbone.batch_norm"
PACKING = "datasets.digits.packing"
FOLDS = {"folds": 3, "fold": 3}
IN_TWO_GRIDS = {"datasets": ["digits"], "methods": ["hbn", "bn-4"], "seeds": [0]}
LARGE_GRID = [{"param": "lr", "values": [*range(999)]}] * 3


def piecewise(*points: list[float]) -> dict[str, Any]:
    return {"name": "piecewise", "points": list(points)}


# By file: the path of a bad value, the value, and the expected message, with ... for any text. A
# message that does not start with a reason starts with the end of its path.
BAD: dict[str, list[tuple[str, Any, str]]] = {
    "params.yaml": [
        ("note", 1, "unknown key, expected one of run, download, checkpoints, tracking, report, "),
        (f"{ALPHA}.att", 0.5, "unknown key, expected one of name, start, end, at. Did you"),
        ("download", DELETE, "missing. Add it"),
        (f"{ALPHA}.at", DELETE, "missing. Add it: no key has a default."),
        (ALPHA, 16, "got 16, expected a mapping with name ("),
        ("methods.sm.alpha", {"value": 1}, "got {'value': 1}, expected a mapping with name"),
        ("methods.ls", [1, 2], "got [1, 2], expected a mapping with"),
        ("tracking.enabled", "yes", "got 'yes', expected a valid boolean."),
        ("tracking.models", True, "got True, expected one of none, logged, registered."),
        ("run.datasets", "digits", "got 'digits', expected a valid list."),
        ("run.methods.1", "hlnn", "got 'hlnn', expected one of sm, ls, ... Did you mean 'hln'?"),
        ("run.datasets.0", "digit", "got 'digit', ... Did you mean 'digits'?"),
        ("methods.hbn.base", "bnn", "got 'bnn', expected one of sm, ls, ... Did you mean 'bn'?"),
        ("methods.ls.denominator", "others", "got 'others', expected one of all, negatives_only."),
        ("report.gallery_method", "bn-4", "got 'bn-4', expected one of run.methods (sm, ls, ln, "),
        (f"{ALPHA}.name", "steps", "alpha: got 'steps', expected one of ... Did you mean 'step'?"),
        ("run.launcher", "torchrun; rm -m", "got ... expected python -m, or torchrun with"),
        (f"{ALPHA}.end", 0, "got 0, expected greater than 0."),
        (f"{ALPHA}.start", -16, "got -16, expected greater than 0."),
        (f"{ALPHA}.start", float("inf"), "got inf, expected a finite number."),
        (ALPHA, piecewise([0, 16], [1, 0]), "points, point 2, value: got 0, expected greater"),
        (ALPHA, piecewise([0, 16], [75, 4]), "point 2, progress: got 75, ... mean 0.75?"),
        (ALPHA, piecewise([0, 16], [0.75]), "alpha.points, point 2, value: missing."),
        (f"{ALPHA}.at", 76.25, "got 76.25, expected less than or equal to 1. Did you mean 0.7625?"),
        ("methods.ls.label_smoothing", 10, "got 10, expected less than 1. Did you mean 0.1?"),
        ("methods.hbn.temperature", 0.25, "unknown key, ... mean 'alpha', which is 1 / temp"),
        ("run.seed", 3, "unknown key, expected one of ... Did you mean 'seeds', a list?"),
        (ALPHA, piecewise([0.5, 16], [0.5, 4]), "points: got ... expected progress that rises"),
        (f"{ALPHA}.at", 61, "got 61, expected less than or equal to 1."),
        (f"{ALPHA}.at", -0.1, "got -0.1, expected greater than or equal to 0."),
        ("run.seeds", [], "got [], expected a list with at least one entry."),
        ("run.seeds", [0, 1, 0], "got [0, 1, 0], expected each entry only once."),
        ("run.seeds", [0, -1], "seeds.1: got -1, expected greater than or equal to 0."),
        ("run.datasets", ["../x"], "run.datasets.0: got '../x', expected"),
        ("methods.bn-drop.base", ["bn"], "got ['bn'], expected one of"),
        ("methods.sm.base", "bn", "ln.base: got ... itself: sm -> bn -> ln -> sm. Break"),
        ("methods.sm.bias", "outsid", "got 'outsid', expected one of outside, inside, none. Did"),
        ("run.methods", ["sm", "sm", "ls", "hbn"], "got ... expected each entry only once."),
    ],
    "datasets.yaml": [
        (f"{TRAINING}.batchsize", 64, "unknown key, expected one ... Did you mean 'batch_size'?"),
        (f"{PACKING}.validation", {"seed": 2, **FOLDS}, "seed: unknown key, expected one of folds"),
        (f"{PACKING}.validation", 5, "got 5, expected a mapping with folds, fold."),
        (f"{PACKING}.validation", FOLDS, "got ... expected a fold from 0 to 2."),
        (f"{PACKING}.split.name", "halfs", "split: got 'halfs', ... Did you mean 'halves'?"),
        (f"{PACKING}.split", {"name": "pattern", "train": "(a"}, "train: got ... a regular ex"),
        (f"{TRAINING}.epochs", DELETE, "missing. Add it: no key has a default."),
        (f"{TRAINING}.lr", "0.05", "got '0.05', expected a valid number."),
        (f"{TRAINING}.epochs", 8.0, "got 8.0, expected a valid integer."),
        (f"{TRAINING}.epochs", 10**12, "got 1000000000000, expected less than or equal to"),
        (f"{TRAINING}.epochs", True, "got True, expected a valid integer."),
        (f"{TRAINING}.batch_size", None, "got None, expected a valid integer."),
        (f"{TRAINING}.backbone.name", "conv5", "backbone: got 'conv5', ... Did you mean 'conv4'?"),
        (f"{TRAINING}.batch_size", "many", "got 'many', expected a valid integer."),
        (BATCH_NORM, DELETE, "missing. Add it"),
        (f"{BATCH_NORM}.epsilon", 1e-05, "unknown key, expected one of momentum, ... mean 'eps'?"),
        (f"{TRAINING}.weights", "imagenet1k", "got ... expected none, imagenet, or the path"),
        (f"{TRAINING}.init", "class_mean", "got 'class_mean', ... Did you mean 'class_means'?"),
        (f"{TRAINING}.pixel_mean", [0.5, "half"], "got ... expected a finite number, or a list"),
        (f"{TRAINING}.pixel_std", [0.5, 0, 0.5], "got [0.5, 0, 0.5], expected a number above 0"),
        (f"{TRAINING}.augment.0.name", "flop", "augment.0: got 'flop', ... Did you mean 'flip'?"),
        (f"{TRAINING}.lr", float("nan"), "got nan, expected a finite number."),
        ("datasets.digits.base", "digits", "got 'digits', which starts from itself: digits ->"),
    ],
    "studies.yaml": [
        ("claims", {}, "unknown key, expected one of studies, ... It belongs in claims.yaml."),
        ("studies.schedule_shapes.methods.0", "hbn-a", "got 'hbn-a', expected one of sm, ls,"),
        ("studies.alphas.datasets", ["omniglot-small"], "datasets.0: got ... one of run.datasets"),
        ("studies.embeddings_2d.datasets", ["digits"], "datasets.0: got ... none of run.datasets"),
        ("studies.alphas", IN_TWO_GRIDS, "alphas.methods: got 'hbn', which run trains on 'digits'"),
        ("studies.gradients.methods.0", "bn-4", "got 'bn-4', expected one of run.methods (sm"),
        ("grids.tuned-sm.1.values", [0.1], "studies.competitors: got ... of one size"),
        ("grids.tuned-sm", LARGE_GRID, "studies.competitors: got ... at most 1000 points"),
        ("grids.tuned-bn", DELETE, "studies.competitors: got ... the same names in"),
        ("grids.tuned-bn", 5, "got 5, expected a valid list."),
        ("grids.tuned-b", [], "grids: got tuned-b, expected names of methods. Did you mean"),
        ("grids.heated-arcface", DELETE, "studies.heated_partners: got ... the same names in"),
        ("grids.tuned-hln.1.values", [float("nan")], "got [nan], expected finite numbers, text,"),
        ("grids.tuned-hln.1.values.0", b"x", "values: got ... expected finite numbers, text,"),
        ("methods.arcface.loss.margin", float("nan"), "got nan, expected finite numbers, text,"),
        ("studies.competitors.grid", {}, "unknown key. Move it to the section grids"),
        ("studies.heated_partners.grid", {}, "unknown key. Move it to the section grids"),
        ("methods", ["bn-4"], "got ['bn-4'], expected a mapping of entries by name."),
        ("methods.proxy-anchor.sampler.name", "per_klass", "sampler: got ... 'per_class'?"),
        ("methods.n-pairs.sampler.images", 1, "got 1, expected greater than or equal to 2."),
        ("methods.hbn", {"base": "bn"}, "is in params.yaml, too. Rename or remove one of the two."),
    ],
    "claims.yaml": [
        ("claims.hln-over-ln.all.0.lower.0", "lnn", "got 'lnn', expected one of sm, ls, ln,"),
        ("claims.ln-interaction-recall.all.0.higher", ["hln"], "all.0: got ... as many methods in"),
        ("claims.ln-heat-recall.stated", None, "recall: got ... `stated` and `first_seed`"),
        ("claims.ln-heat-recall.origin", "opinion", "got 'opinion', expected one of paper,"),
    ],
}

DIGITS = RAW["datasets.yaml"]["datasets"]["digits"]
for name in ("Omniglot@small", "a b", "a/b", "-a", "a--b", "~", "a%b"):  # no stage or path
    message = "got ... expected lower-case letters, digits and single hyphens."
    BAD["datasets.yaml"].append((f"datasets.{name}", DIGITS, message))


@pytest.fixture
def load(monkeypatch):
    """A function that loads the project's parameters with values changed or deleted."""

    def with_changes(*cases: tuple[str, str, Any]) -> config.Params:
        changed = deepcopy(RAW)
        for file, path, value in cases:
            section = changed[file]
            *outer, last = (int(part) if part.isdigit() else part for part in path.split("."))
            for part in outer:
                section = section[part]
            if value is DELETE:
                del section[last]
            else:
                section[last] = value
        monkeypatch.setattr(config, "read_yaml", lambda path: changed[path.name])
        return config.load_params(ROOT)

    return with_changes


@pytest.fixture
def lines(load):
    """A function that returns the lines of the error, one per problem."""

    def of(*cases: tuple[str, str, Any]) -> list[str]:
        with pytest.raises(ParamsError) as caught:
            load(*cases)
        heading, *lines = str(caught.value).split("\n  ")
        count = "an error" if len(lines) == 1 else f"{len(lines)} errors"
        assert heading == f"The parameters have {count}:"
        return lines

    return of


def has_message(line: str, file: str, path: str, message: str) -> bool:
    """Whether a line has the message of a case of BAD."""
    message, path = (
        re.sub(r"\.(\d+)(?=[.:]|$)", lambda found: f", entry {int(found[1]) + 1}", text)
        for text in (message, path)
    )
    pattern = ".*".join(map(re.escape, message.split("...")))
    if message.startswith(("got ", "unknown key", "missing.", "is in ")):
        place = rf"{re.escape(file)}:\d+:\d+: {re.escape(path)}: "
        return re.match(place + pattern, line) is not None
    return re.search(pattern, line) is not None


def test_a_bad_value_is_named_by_file_path_value_and_expectation(lines):
    for file, cases in BAD.items():
        for path, value, message in cases:
            (line,) = lines((file, path, value))
            assert has_message(line, file, path, message), (message, line)
    (line,) = lines(("params.yaml", "run.datasets.0", "xyz"))
    assert "Did you mean" not in line  # no name is similar
    for method in ("triplet", "proxy-nca-original"):  # have no gradients of the heated softmax
        cases = ("params.yaml", "run.methods.0"), ("studies.yaml", "studies.gradients.methods.0")
        (line,) = lines(*((*case, method) for case in cases))
        assert f"methods, entry 1: got '{method}', expected a method of the heated" in line


def test_all_errors_in_all_files_are_named_at_once(lines):
    chosen = {"run.seeds", "run.methods.1", f"{TRAINING}.backbone.name", f"{ALPHA}.end", "download"}
    chosen |= {"claims.ln-heat-recall.origin", "methods.n-pairs.sampler.images", "methods.hbn"}
    cases = {path: (file, path, *rest) for file in BAD for path, *rest in BAD[file]}
    cases = [case for path, case in cases.items() if path in chosen]
    messages = lines(*(case[:3] for case in cases))
    assert len(messages) == len(cases) == 8
    for file, path, _, message in cases:
        assert sum(has_message(line, file, path, message) for line in messages) == 1


def test_a_mistyped_key_is_named_as_missing_and_as_unknown_and_inherited_ones_once(lines):
    keys = (f"{TRAINING}.embedding_dim", DELETE), (f"{TRAINING}.embeding_dim", 64)
    missing, unknown = lines(*(("datasets.yaml", *key) for key in keys))
    assert f": {TRAINING}.embedding_dim: missing" in missing
    assert f": {TRAINING}.embeding_dim: unknown key" in unknown
    assert unknown.endswith("Did you mean 'embedding_dim'?")
    # an error that other entries inherit is named once
    (line,) = lines(("params.yaml", "methods.bn.normalize.momentum", DELETE))
    assert line.endswith(": methods.bn.normalize.momentum: missing. Add it: no key has a default.")
    assert len(lines(("params.yaml", "methods.bn.base", "lm"))) == 1  # no unknown method elsewhere


def load_error(folder: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        config.load_params(folder)
    return str(caught.value)


def test_every_problem_has_its_line_and_column(tmp_path):
    changes = {
        "params.yaml": ("  ls:", "  ls: [1, 2]\n  lx:"),
        "datasets.yaml": ("epochs: 8\n", "epochs: 1000000000000\n"),
        "studies.yaml": ("datasets: [digits-upright]", "datasets: [digits-upside]"),
        "claims.yaml": ("    origin: paper", "    origin: opinion"),
    }
    expected = {}
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        before, after = text.split(changes[name][0], 1)
        (tmp_path / name).write_text(before + changes[name][1] + after, encoding="utf-8")
        expected[name] = before.count("\n") + 1
    _, *lines = load_error(tmp_path).split("\n  ")
    found = [line.split(":")[:2] for line in lines]
    assert all([name, str(line)] in found for name, line in expected.items()), lines
    places = {line.partition(": ")[0] for line in lines}
    assert f"params.yaml:{expected['params.yaml']}:3" in places  # of `ls`, after two spaces


def test_errors_of_yaml_are_named_with_file_and_line(new_folder):
    for file, old, new, expected in [
        ("params.yaml", "  threads: 1 ", "  threads: 1\n  threads: 2 ", 'duplicate key "threads"'),
        ("params.yaml", "  hln: ", "  ln: ", 'duplicate key "ln"'),
        ("studies.yaml", "{base: hbn, alpha: {at: 0.5}", "{base: hbn, base: bn", 'key "base"'),
        ("params.yaml", "run:", "run: [", ""),
        ("params.yaml", "run:", "run: &run", "got &run, expected no anchors"),
        ("datasets.yaml", "{name: digits, rotations: 4}", "*x", "got *x, expected no anchors"),
        ("claims.yaml", "claims:", "claims:\n  <<: {}", "got the merge key <<, expected no merge"),
        ("studies.yaml", "datasets: []", "datasets: !!int x", "got x, expected a valid int"),
        ("datasets.yaml", "epochs: 8", "epochs: " + "9" * 5000, "got 999"),
        ("datasets.yaml", "epochs: 8", "epochs: 0x" + "f" * 5000, "of at most 64 bits"),
    ]:
        folder = new_folder()
        for name in FILES:
            text = (ROOT / name).read_text(encoding="utf-8")
            assert name != file or old in text
            changed = text.replace(old, new, 1) if name == file else text
            (folder / name).write_text(changed, encoding="utf-8")
        message = load_error(folder)
        assert message.startswith(f"{folder / file}: cannot be read as YAML")
        assert expected in message
        assert "line " in message
        assert "suppress" not in message  # ruamel's advice on duplicate keys


HOSTILE = [
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",  # doubles with every line
    b"a: &a\n  b: *a\n",
    b"a: {<<: {b: 1}}",
    b"a: " + b"[" * 10_000,
    b"a: " + b"9" * 5000,
    b"a:\n- ? - - hbn\n",
    b"{[a]: b}",
    b"? {a: b}\n: c",
    b"a: 0x" + b"f" * 5000,
    b"a: !!int x\n",
    b"a: !!bool x\n",
    b"a: !!python/object/apply:os.getcwd []\n",
    b"a: !!timestamp 1\n",
    b"a: 2001-13-45\n",
    b"a: [1\n",
    b"a: 1\n---\nb: 1\n",
    b"\x00",
    b"a: \xff\xfe\n",
]


def test_hostile_yaml_and_files_without_a_mapping_are_refused(tmp_path):
    for text in (*HOSTILE, b"", b"just words", b"- 1\n- 2\n"):
        (tmp_path / "params.yaml").write_bytes(text)
        message = "cannot be read as YAML" if text in HOSTILE else "expected a mapping of sections"
        error = load_error(tmp_path)
        assert message in error, text[:20]
        assert len(error) < 2000
    (tmp_path / "params.yaml").write_bytes(b"a: " + b"x" * 10**7)  # takes a minute to parse
    assert "got 10000003 bytes, expected at most" in load_error(tmp_path)


def test_a_file_has_the_values_that_dvc_reads_or_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    scalars = "1e-4 1_000 0o17 017 0x1f 1:30 yes on ~ .inf -.5 1. +1 1e400 2001-01-01 '1' null True"
    texts = [f"a: {scalar}\n" for scalar in scalars.split()]
    texts += ["%YAML 1.1\n---\na: yes\n", "\ufeffa: 1\r\nb: |\r\n  x\r\n", "a: x\u0085y\n"]
    texts += [(ROOT / name).read_text(encoding="utf-8") for name in FILES]
    for text in texts:
        path.write_text(text, encoding="utf-8", newline="")
        assert read_yaml(path) == load_yaml(path), text[:20]
    for text in HOSTILE[3:]:  # DVC reads aliases and merge keys
        path.write_bytes(text)
        with pytest.raises(ParamsError):
            read_yaml(path)


def test_a_missing_file_is_named_with_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in FILES:
        with pytest.raises(ParamsError, match=f"{file} is missing. Run stages from the project"):
            config.load_params()
        (tmp_path / file).write_text(json.dumps(RAW[file]), encoding="utf-8")  # YAML contains JSON
    assert config.load_params().run.seeds == [0, 1, 2]


def test_the_projects_files_and_edge_values_load_and_cannot_be_changed(load):
    params = load()
    assert set(params.run.datasets) <= set(params.datasets)
    assert set(params.run.methods) <= set(params.methods)
    assert params.methods["hbn"].alpha.options == {"start": 16, "end": 4, "at": 0.7625}
    with pytest.raises(ValidationError, match="frozen"):
        params.run.threads = 2
    lr = load(("datasets.yaml", f"{TRAINING}.lr", 1)).datasets["digits"].training.lr
    assert (lr, type(lr)) == (1.0, float)
    for at in (0, 1):
        assert load(("params.yaml", f"{ALPHA}.at", at)).methods["ln-heat"].alpha.at == at
    assert load(("params.yaml", "report.gallery_queries", 0)).report.gallery_queries == 0


def test_a_study_may_list_fewer_methods_than_there_are_grids(load):
    methods = ["tuned-bn", "tuned-hbn"]
    values = {"studies.competitors.datasets": ["digits"], "studies.competitors.methods": methods}
    params = load(*(("studies.yaml", path, value) for path, value in values.items()))
    assert [*params.studies.competitors.grid] == methods


def test_runs_are_those_of_all_grids_with_their_seeds_and_settings(load):
    params = load(("studies.yaml", "studies.alphas.datasets", ["digits"]))
    runs = list(params.runs())
    assert len(runs) == len(set(runs)) == 10 + 4 + 5
    assert runs[:10] == [("digits", method) for method in params.run.methods]
    assert ("digits-upright", "ln-quarter") in runs
    assert params.seeds_by_method("digits")["bn-4"] == [0, 1, 2]
    assert params.seeds_by_method("digits-upright")["ln"] == [0]
    # a method's own dimensions replace the data set's
    assert params.settings("digits", "bn")["embedding_dim"] == 64
    assert params.settings("digits", "bn-d128")["embedding_dim"] == 128
    assert params.settings("digits", "bn-d128")["epochs"] == 8
