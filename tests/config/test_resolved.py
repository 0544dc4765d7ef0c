"""The resolved settings: their values, who reads them, and that DVC sees every change."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from conftest import ROOT

from heated import config
from heated.common.io import SIDE_SETTINGS, read_json, write_json
from heated.config.resolved import resolved_files
from heated.config.yaml_files import expand_bases

PARAMS = config.load_params(ROOT)
FILES = resolved_files(PARAMS)


def test_settings_equal_those_of_released_results(subtests):
    """`settings.json` has every entry written out, as params.yaml did before it had `base`."""
    released, params = (
        read_json(Path(__file__).with_name("settings.json")),
        PARAMS.model_dump_json(),
    )
    for section, expected in released.items():
        for name, value in expected.items():
            with subtests.test(section=section, name=name):
                assert json.loads(params)[section][name] == value


def test_files_are_json_and_hold_no_more_than_their_stage_needs():
    assert json.loads(json.dumps(FILES)) is not None
    assert FILES["sources/digits.json"] == {"source": {"name": "digits", "rotations": 4}}
    for name, keys in {
        "packing/digits.json": "source packing",
        "evaluation/digits.json": "evaluation machine",
        "machine.json": "threads deterministic",
        "runs/digits/hbn.json": "settings seeds machine tags tuned",
    }.items():
        assert FILES[name].keys() == {*keys.split()}
    assert not FILES["runs/digits/hbn.json"]["tuned"]
    # a method changes the files of its own runs alone
    changed = PARAMS.model_dump()
    changed["methods"]["hbn"]["alpha"]["end"] = 2.0
    files = resolved_files(type(PARAMS).model_validate(changed, strict=False))
    assert [name for name in FILES if files[name] != FILES[name]] == ["runs/digits/hbn.json"]


def test_entries_are_merged_and_a_mapping_with_a_name_replaces():
    entries = {
        "a": {"x": {"name": "one", "k": 1, "l": 2}, "y": {"z": 1}, "n": None},
        "b": {"base": "a", "x": {"k": 3}, "y": {"w": 2}},
        "c": {"base": "b", "x": {"name": "two"}, "n": {"m": 1}, "y": None},
    }
    before = deepcopy(entries)
    expanded, problems = expand_bases(entries)
    assert (problems, entries) == ({}, before)
    b, c = expanded["b"], expanded["c"]
    merged = {"x": {"name": "one", "k": 3, "l": 2}, "y": {"z": 1, "w": 2}, "n": None}
    assert b.value == merged
    assert c.value == {"x": {"name": "two"}, "y": None, "n": {"m": 1}}
    assert {c.writer_of(path) for path in [("x", "name"), ("x",), ("n", "m"), ("y",)]} == {"c"}
    assert (b.writer_of(("x", "k")), b.writer_of(("x", "l"))) == ("b", "a")
    again, _ = expand_bases(dict(reversed(entries.items())))
    assert again == expanded  # the order does not matter


def changed_leaves(value):
    """Each path of a leaf, with a copy of the value in which that leaf is another one."""

    def walk(inner, path=()):
        for key, each in inner.items() if isinstance(inner, dict) else enumerate(inner):
            if isinstance(each, dict | list) and each:
                yield from walk(each, (*path, key))
            else:
                yield (*path, key), each

    for leaf, old in walk(value):
        copy = deepcopy(value)
        section = copy
        for key in leaf[:-1]:
            section = section[key]
        section[leaf[-1]] = old + 1 if type(old) in (int, float) else f"{old}x"
        yield ".".join(map(str, leaf)), copy


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in what DVC prints with
def test_a_change_of_any_leaf_runs_the_stage_without_a_lock_file_and_against_the_run_cache(
    tmp_path, monkeypatch, subtests
):
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    Path("stub.py").write_text("open('runs', 'a').write('x'); open('out', 'w').write('x')")
    stage = {"cmd": "python stub.py", "deps": ["settings.json"], "outs": ["out"]}
    write_json(Path("dvc.yaml"), {"stages": {"stub": stage}})

    def count_runs(value):
        """How often the stage runs with the settings, when nothing but the run cache is kept."""
        write_json(Path("settings.json"), value)
        for name in ("runs", "dvc.lock"):
            Path(name).unlink(missing_ok=True)
        with Repo() as repo:
            repo.reproduce()
        return len(Path("runs").read_text()) if Path("runs").exists() else 0

    for name in FILES.keys() - {SIDE_SETTINGS}:
        if name.partition("/")[2] in ("", "digits.json", "digits/hbn.json"):
            with subtests.test(name=name):
                assert count_runs(FILES[name]) == 1
                assert count_runs(FILES[name]) == 0  # restored from the run cache
    chosen = ("packing/digits.json", "runs/digits/hbn.json", "evaluation/digits.json")
    for name in (*chosen, "machine.json", "gradients.json"):
        for leaf, value in changed_leaves(FILES[name]):
            with subtests.test(name=name, leaf=leaf):
                assert count_runs(value) == 1
