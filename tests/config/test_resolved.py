"""The resolved settings: their values, who reads them, and that DVC sees every change."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Project
from dvc.repo import Repo
from dvc.stage.cache import _get_stage_hash

from heated import config
from heated.common.io import RESOLVED, SIDE_SETTINGS, read_json, write_json
from heated.config.resolved import resolved_files
from heated.config.validation import grid_problems
from heated.config.yaml_files import expand_bases
from heated.reporting.run_results import RunResult

PARAMS = config.load_params(ROOT)
FILES = resolved_files(PARAMS)


def test_settings_equal_those_of_released_results(subtests):
    """`settings.json` has every entry written out; keys that are newer are empty."""
    released, params = (
        read_json(Path(__file__).with_name("settings.json")),
        json.loads(PARAMS.model_dump_json()),
    )
    for section, expected in released.items():
        for name, value in expected.items():
            with subtests.test(section=section, name=name):
                entry = params[section][name]
                if section == "methods":
                    entry = {k: v for k, v in entry.items() if k in value or v is not None}
                assert entry == value


def test_files_are_json_and_hold_no_more_than_their_stage_needs():
    assert json.loads(json.dumps(FILES)) is not None
    assert FILES["sources/digits.json"] == {"source": {"name": "digits", "rotations": 4}}
    for name, keys in {
        "packing/digits.json": "source packing",
        "evaluation/digits.json": "evaluation machine",
        "machine.json": "threads deterministic",
        "runs/digits/hbn.json": "image_shape machine settings seeds tags tuned",
    }.items():
        assert FILES[name].keys() == {*keys.split()}
    assert not FILES["runs/digits/hbn.json"]["tuned"]
    # a method changes the files of its own runs alone
    changed = PARAMS.model_dump()
    changed["methods"]["hbn"]["alpha"]["end"] = 2.0
    files = resolved_files(type(PARAMS).model_validate(changed, strict=False))
    assert [name for name in FILES if files[name] != FILES[name]] == ["runs/digits/hbn.json"]


def test_heated_partners_differ_in_the_schedule_alone_and_are_tuned_on_equal_grids():
    study, methods = PARAMS.studies.heated_partners, PARAMS.model_dump()["methods"]
    losses = [name.removeprefix("heated-") for name in study.methods[1::2]]
    assert study.methods == [f"{kind}-{loss}" for loss in losses for kind in ("constant", "heated")]
    for loss in losses:
        constant, heated = (methods[f"{kind}-{loss}"] for kind in ("constant", "heated"))
        assert constant | {"alpha": None} == heated | {"alpha": None}
        (lr, scale), (same, schedule) = (
            study.grid[f"{kind}-{loss}"] for kind in ("constant", "heated")
        )
        assert lr == same
        at = heated["lr_schedule"]["at"]
        for value, shape in zip(scale.values, schedule.values, strict=True):
            assert shape == {"name": "step", "start": value, "end": value / 4, "at": at}


def test_the_plan_of_heated_partners_has_its_claims_and_settings():
    plan = (ROOT / "docs" / "preregistration.md").read_text(encoding="utf-8").split("## Run 5")[1]
    (block,) = re.findall("```yaml\n(.*?)```", plan, re.DOTALL)
    changed = PARAMS.model_dump()
    for section, changes in yaml.safe_load(block).items():
        for key, value in changes.items():
            old = changed[section][key]
            changed[section][key] = old | value if isinstance(old, dict) else value
    params = type(PARAMS).model_validate(changed, strict=False)
    assert grid_problems(params) == []
    study, files = params.studies.heated_partners, resolved_files(params)
    (dataset,) = study.datasets
    assert f"| `{dataset}`: 20 epochs |" in plan
    for method in study.methods:
        run = files[f"runs/{dataset}/{method}.json"]
        assert (run["seeds"], run["tuned"]) == ([200, 201, 202, 203, 204], True)
    claims = [each for each in params.claims.values() if each.first_seed == study.seeds[0]]
    pairs = {(e.metric, *e.higher, *e.lower) for claim in claims for e in claim.all}
    assert {claim.status for claim in claims} == {"confirmatory"}
    assert pairs == {
        (metric, heated, constant)
        for metric in ("recall_at_1", "map_at_r")
        for constant, heated in zip(study.methods[::2], study.methods[1::2], strict=True)
    }


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


def with_one_changed(value: Any) -> Iterator[Any]:
    """Yield the value with each of its leaves changed, one at a time."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            for changed in with_one_changed(value[key]):
                whole = value.copy()
                whole[key] = changed
                yield whole
    elif isinstance(value, dict | list):
        yield [0]
    elif isinstance(value, str):
        yield f"{value}x"
    else:
        yield not value if isinstance(value, bool) else (value or 0) + 1


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
        for index, value in enumerate(with_one_changed(FILES[name])):
            with subtests.test(name=name, index=index):
                assert count_runs(value) == 1


# The stages that depend on each kind of file, with a file and the stage of the same run.
READERS = {
    "sources/digits": ["download@digits"],
    "packing/digits": ["split@digits"],
    "runs/digits/hbn": ["train@digits-hbn"],
    "runs/digits/triplet": ["train-competitors@digits-triplet"],
    "tuning/digits/triplet": ["tune@digits-triplet"],
    "machine": ["embed@digits-hbn", "embed-competitors@digits-triplet"],
    "evaluation/digits": ["evaluate@digits-hbn"],
    "gradients": ["gradients@digits-hbn"],
    "report": ["report"],
    "tracking": ["track"],
}
CROP = {"name": "resized_crop", "size": 8, "min_scale": 0.5, "max_ratio": 1.5}
WITH_SIZES = {
    "run.methods": ["hbn"],
    "studies.competitors.datasets": ["digits"],
    "datasets.digits.training.augment": [CROP, {"name": "crop", "size": 8}],
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repo, dict[str, Any]]]:
    """A DVC repository with the project's dvc.yaml and resolved files, and stubs of other files."""
    folder = tmp_path_factory.mktemp("repository")
    project = object.__new__(Project)  # without git
    project.folder = folder
    for name in ("dvc.yaml", *config.FILES):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    project.edit(WITH_SIZES)
    files = resolved_files(config.load_params(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in files.items():
            write_json(RESOLVED / name, value)
        with Repo.init(no_scm=True) as repo, repo.lock:
            paths = {Path(str(dep)) for stage in repo.index.stages for dep in stage.deps}
            for path in sorted(paths, reverse=True):  # a folder follows what it holds
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_text("stub", encoding="utf-8")
            yield repo, files


@pytest.mark.parametrize("name", READERS)
def test_every_changed_value_changes_the_key_of_its_stages_in_dvcs_run_cache(repository, name):
    repo, files = repository
    stages = {each.addressing: each for each in repo.index.stages}

    path, value = RESOLVED / f"{name}.json", files[f"{name}.json"]
    for stage in READERS[name]:
        stages[stage].save_deps()

    def keys() -> list[str]:
        for dep in (dep for stage in READERS[name] for dep in stages[stage].deps):
            if str(dep) == str(path):
                dep.save()
        return [_get_stage_hash(stages[stage]) for stage in READERS[name]]

    before, changed = keys(), [*with_one_changed(value)]
    for each in changed:
        write_json(path, each)
        assert not set(keys()) & set(before), each
    write_json(path, value)
    assert (keys(), len(changed) > 0) == (before, True)
    if name in ("packing/digits", "runs/digits/hbn"):  # DVC leaves `size` out of parameters
        assert '"size": 9' in json.dumps(changed)


def test_a_runs_stages_have_the_names_that_messages_about_its_results_use(repository):
    repo, files = repository
    names, found = {each.addressing for each in repo.index.stages}, set()
    for path in (Path(name) for name in files if name.startswith("runs/")):
        record = {"tags": files[str(path)]["tags"]}
        result = RunResult(path.parent.name, path.stem, Path(), {}, {}, record)
        found |= {result.stage_name(stage) for stage in ("train", "embed", "evaluate")}
    others = ("resolve", "download", "split", "tune", "gradients", "report", "track")
    assert found == {name for name in names if not name.startswith(others)}
    assert {"train@digits-hbn", "embed-competitors@digits-triplet"} <= found
    hbn = RunResult("digits", "hbn", Path(), {}, {}, {"tags": {"study": "run"}})
    assert hbn.stage_name("gradients") in names


def test_every_kind_of_resolved_file_has_a_reader():
    kinds = {name.partition("/")[0].removesuffix(".json") for name in FILES}
    assert kinds - {SIDE_SETTINGS.removesuffix(".json")} <= {n.split("/")[0] for n in READERS}
