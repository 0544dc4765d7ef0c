"""DVC experiments and a remote, with the commands of docs/experiments.md, on one short run."""

import csv
import io
import json
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import SHORT, Project
from server_process import Server

pytestmark = [
    pytest.mark.xdist_group("experiments"),
    pytest.mark.timeout(1500),  # longer than the queue's below
]

NAME = "warmer"
TEMPORARY = f"dvc exp run --temp --name {NAME} --set-param methods.hbn.alpha.start=32"
QUEUE = "dvc exp run --queue --set-param methods.hbn.alpha.end=2,8"
START = "dvc queue start --jobs 2"
TABLE = "make experiments"
METRICS, PARAMS, PLOTS = (f"dvc {kind} diff HEAD {NAME}" for kind in ("metrics", "params", "plots"))
APPLY = f"dvc exp apply {NAME}"
REMOTE = "dvc remote add --default storage s3://my-bucket/heated"
PUSH, SHARE = "dvc push", f"dvc exp push origin {NAME}"
PULL, TAKE = "dvc pull && dvc repro", f"dvc exp pull origin {NAME}"
COMMANDS = {  # of docs/experiments.md, which tests/test_docs.py compares
    *(TEMPORARY, QUEUE, START, TABLE, METRICS, PARAMS, PLOTS, APPLY),
    *(REMOTE, PUSH, SHARE, PULL, TAKE),
}
SUMMARY = "metrics/digits/hbn.json"
ENDED = {"Success", "Failed"}  # states; a task that DVC is starting may be in no list for a moment
WITHOUT_STUDIES = {"studies.embeddings_2d.datasets": [], "studies.gradients.methods": []}


def shell(project: Project, command: str, **environment: str) -> str:
    """Return what a user's command prints."""
    return project.run("bash", "-c", command, **environment)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose results are committed."""
    project = Project(tmp_path_factory.mktemp("experiments"))
    project.edit(SHORT | WITHOUT_STUDIES)
    setup = (
        "git config user.name test && git config user.email test@example.org",
        "mkdir .venv && touch .venv/.uv .venv/.ready",  # make uses the PATH's instead
        f"python -m stages 2 && {REMOTE}",
        "git add --all && git commit --quiet --message results",
    )
    for command in setup:
        shell(project, command)
    yield project
    project.run("dvc", "queue", "stop", "--kill")


@pytest.fixture(scope="module")
def temporary(baseline: Project) -> str:
    """The output of the experiment in a temporary copy."""
    return shell(baseline, TEMPORARY)


@pytest.fixture(scope="module")
def queued(baseline: Project, temporary: str) -> dict[str, str]:
    """State by name of two experiments that ran side by side."""

    def states() -> dict[str, str]:
        rows = baseline.run("dvc", "queue", "status").split("\n\n")[0].splitlines()[1:]
        return {row.split()[1]: row.split()[-1] for row in rows}

    shell(baseline, f"{QUEUE} && {START}")
    end = time.monotonic() + 1200  # on a busy machine
    while len(found := states()) < 2 or not set(found.values()) <= ENDED:
        assert time.monotonic() < end, found
        time.sleep(5)  # each status is a DVC process that slows the experiments down
    return found


def committed(project: Project, name: str, path: str) -> str:
    """Return a file of an experiment, or of HEAD."""
    commit = project.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}")
    return project.run("git", "show", f"{commit.strip() or name}:{path}")


def recall(metrics: str) -> str:
    """Return Recall@1 in the text of a run's file in metrics/."""
    return str(json.loads(metrics)["recall_at_1"])


def test_a_temporary_experiment_runs_changed_stages_and_keeps_the_projects_files(
    baseline, temporary
):
    ran = [line.split("'")[1] for line in temporary.splitlines() if line.startswith("Running")]
    run = [f"{stage}@digits-hbn" for stage in ("train", "embed", "evaluate")]
    assert ran == ["resolve", *run, "report", "track"]  # without download and split
    assert baseline.run("git", "status", "--porcelain") == ""
    before, after = (committed(baseline, name, "params.yaml") for name in ("HEAD", NAME))
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    assert [p for p in pairs if p[0] != p[1]] == [("      start: 16", "      start: 32")]
    before, after = (committed(baseline, name, SUMMARY) for name in ("HEAD", NAME))
    assert recall(before) != recall(after)


def test_database_and_checkpoints_are_only_in_the_projects_folder(baseline, queued):
    for name in ("mlflow.db", "checkpoints"):
        assert list(baseline.folder.rglob(name)) == [baseline.folder / name]
    ends = [*baseline.folder.glob("checkpoints/*/after-2-*.safetensors")]
    assert len(ends) == len(["HEAD", NAME, *queued])  # their alphas differ


def test_a_queue_runs_side_by_side_and_dvc_and_mlflow_list_its_experiments(baseline, queued):
    assert list(queued.values()) == ["Success", "Success"]
    output = baseline.run("dvc", "exp", "show", "--csv", "--only-changed", "--hide-workspace")
    rows = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(output))}
    assert {rows[name]["methods.hbn.alpha.end"] for name in queued} == {"2", "8"}
    recalls = {n: recall(committed(baseline, n, SUMMARY)) for n in [NAME, *queued]}
    assert {name: rows[name]["recall_at_1"] for name in recalls} == recalls
    with closing(sqlite3.connect(baseline.folder / "mlflow.db")) as store:
        tags = store.execute(
            "select runs.name, tags.value from runs "
            "left join tags on runs.run_uuid = tags.run_uuid and tags.key = 'experiment' "
            "where runs.name like 'hbn · digits%'"
        )
        named = {name: experiment for name, experiment in tags if "seed" not in name}
    expected = {f"hbn · digits · {name}": name for name in (NAME, *queued)}
    assert named == {"hbn · digits": None} | expected
    table = shell(baseline, TABLE).splitlines()
    assert max(map(len, table)) <= 100
    assert table[0].split() == ["name", "recall_at_1", "map_at_r", "methods", "methods"]
    assert {NAME, *queued} < {line.split()[0] for line in table if line.strip()}


def test_diffs_show_metrics_parameters_and_plots(baseline, temporary):
    assert "recall_at_1" in shell(baseline, METRICS)
    (line,) = shell(baseline, PARAMS).splitlines()[1:]
    assert line.split() == ["params.yaml", "methods.hbn.alpha.start", "16", "32"]
    shell(baseline, PLOTS)
    page = (baseline.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert page.count(f'"rev": "{NAME}"') == page.count('"rev": "HEAD"') > 0
    assert "cdn." not in page
    assert baseline.run("git", "status", "--porcelain") == ""


def test_a_stage_uses_the_package_in_its_copy(baseline, tmp_path):
    copy = tmp_path / "copy"
    baseline.run("git", "worktree", "add", "--quiet", str(copy))
    code = "import stages, heated; print(heated.__file__)"
    file = shell(baseline, f"cd {copy} && python -c '{code}'")
    baseline.run("git", "worktree", "remove", "--force", str(copy))
    assert Path(file.strip()).is_relative_to(copy)


@pytest.fixture(scope="module")
def keys(baseline: Project) -> Iterator[dict[str, str]]:
    """The environment in which DVC finds an S3 server with an empty bucket, on loopback."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
    with Server(command, "/", baseline.folder, baseline.environment()) as server:
        request = urllib.request.Request(f"{server.address}/my-bucket", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        yield {
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test"),
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": server.address,
        }


def test_pushed_results_are_used_in_a_clone_without_training(baseline, temporary, keys, tmp_path):
    hub, clone = tmp_path / "hub.git", tmp_path / "clone"
    shell(baseline, f"git init --quiet --bare {hub} && git remote add origin {hub}")
    baseline.run("git", "push", "--quiet", "origin", "HEAD")
    shell(baseline, f"{PUSH} && {SHARE}", **keys)

    def in_clone(command: str) -> str:
        environment = keys | {"PYTHONPATH": str(clone / "src")}
        return shell(baseline, f"cd {clone} && {command}", **environment)

    baseline.run("git", "clone", "--quiet", str(hub), str(clone))
    output = in_clone(PULL)
    assert "Running stage" not in output
    assert "Data and pipelines are up to date." in output
    assert (clone / "report/index.html").stat().st_size > 0

    assert "Running stage" not in in_clone(f"{TAKE} && {APPLY} && dvc repro")
    applied = (clone / SUMMARY).read_text(encoding="utf-8")
    assert recall(applied) == recall(committed(baseline, NAME, SUMMARY))

    in_clone("mkdir .venv && touch .venv/.uv .venv/.ready && make track")
    with closing(sqlite3.connect(clone / "mlflow.db")) as store:
        names = {name for (name,) in store.execute("select name from runs")}
    assert {f"hbn · digits · {NAME}", f"hbn · digits · {NAME} · seed 0"} < names
