"""A small real build and copies of it to break, for `make faults`."""

import json
import os
import re
import resource
import select
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from conftest import Project

from stages.fork_server import exit_status

RUN, TUNED = "runs/digits/hbn", "runs/digits/tuned-bn"
SETTINGS = {
    "run.methods": ["hbn", "ln"],
    "run.seeds": [0, 1],
    "datasets.digits.source.rotations": 1,
    "datasets.digits.training.epochs": 2,
    "datasets.digits.training.backbone.width": 8,
    "datasets.digits.training.embedding_dim": 16,
    "datasets.digits.evaluation.kmeans.restarts": 1,
    "studies.embeddings_2d.datasets": [],
    "studies.competitors.datasets": ["digits"],
    "studies.competitors.methods": ["tuned-bn"],
    "studies.competitors.seeds": [0, 1],
    "studies.competitors.validation": {"folds": 2, "fold": 0},
    "studies.gradients.samples": 50,
    "grids": {"tuned-bn": [{"param": "lr", "values": [0.01, 0.05]}]},
    "checkpoints.interval_s": 0.05,
}
STAGES = {  # arguments and outputs
    "resolve": ((), ("data/resolved",)),
    "download": (("digits",), ("data/raw/digits",)),
    "split": (("digits",), ("data/packed/digits",)),
    "tune": (("digits", "tuned-bn"), (f"{TUNED}/tuned.json",)),
    "train": (
        ("digits", "hbn"),
        tuple(f"{RUN}/{n}" for n in ("models", "history.csv", "provenance.json")),
    ),
    "embed": (("digits", "hbn"), (f"{RUN}/embeddings",)),
    "evaluate": (("digits", "hbn"), (f"{RUN}/metrics.json", f"{RUN}/class_scores.csv")),
    "gradients": (("digits", "hbn"), (f"{RUN}/gradients.json",)),
    "report": ((), ("report", "metrics.json")),
    "track": ((), ("data/tracked.json",)),
}
VOLATILE = (
    "seconds",
    "started",
    "usage",
    "peak_mib",
    "epochs_trained",
    "source",
    "sha256",
)  # JSON keys
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
ADVICE = re.compile(
    r"\b(run|free|fetch|delete|remove|put|close|start|set|repeat|make|check|restore|unlock|stop|name"
    r"|rename|move|use|get|install|lower|add|expected|dvc|save|retrain|wait|mount)\b",
    re.IGNORECASE,
)
SAME, ERROR = "same bits", "one error"
LIMIT_S = 400  # of one stage
MIB = 1 << 20


def digest_of(path: Path) -> str:
    """Return a digest of a file or a folder, without times and commits in JSON."""
    if path.is_dir():
        files = sorted(
            each for each in path.rglob("*") if each.is_file() and each.name != ".gitignore"
        )
        return sha256(
            "".join(f"{f.relative_to(path)} {digest_of(f)}\n" for f in files).encode()
        ).hexdigest()
    content = path.read_bytes()
    if path.name in ("provenance.json", "tuned.json"):
        with suppress(ValueError):
            content = json.dumps(without_volatile(json.loads(content))).encode()
    return sha256(content).hexdigest()


def without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_volatile(inner) for key, inner in value.items() if key not in VOLATILE}
    return [without_volatile(each) for each in value] if isinstance(value, list) else value


@dataclass
class Reference:
    """The undisturbed build: its folder, and the digest of every output; seconds of each stage."""

    folder: Path
    digests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Copy:
    """A copy of the reference to break."""

    folder: Path
    reference: Reference
    random: Random
    fills: bool = False  # whether the folder is a file system of its own

    def start(self, stage: str, most_bytes: int | None = None, **more: str) -> "Stage":
        """Start a stage, whose files cannot become larger than `most_bytes`."""
        return Stage(self.folder, stage, most_bytes, more)

    def run(self, stage: str, **options: Any) -> tuple[int, str]:
        """Run a stage, and return its status and what it prints."""
        return self.start(stage, **options).wait()

    def delete(self, *names: str) -> None:
        for path in (each for name in names for each in self.folder.glob(name)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def whole(self, stage: str) -> str:
        """Return which outputs are neither absent nor those of the reference, empty for none."""
        wrong = [
            name
            for name in STAGES[stage][1]
            if (path := self.folder / name).exists()
            and digest_of(path) != self.reference.digests[name]
        ]
        return f"other outputs: {', '.join(wrong)}" if wrong else ""

    def again(self, stage: str) -> str:
        """Run a stage, and return SAME if its outputs are those of the reference."""
        status, output = self.run(stage)
        if status:
            return f"the next run fails: {last_line(output)}"
        names = STAGES[stage][1]
        missing = [name for name in names if not (self.folder / name).exists()]
        left = [str(p) for n in names for p in (self.folder / n).parent.glob(".*.part")]
        return (
            (missing and f"missing: {missing}")
            or self.whole(stage)
            or (left and f"left: {left}")
            or SAME
        )


class Stage:
    """A stage that runs as a fork of this process."""

    def __init__(self, folder: Path, name: str, most: int | None, more: dict[str, str]) -> None:
        arguments, (self.pipe, out) = STAGES[name][0], os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(out)
            return
        status = 1
        try:
            os.setsid()
            os.chdir(folder)
            for number in (*SIGNALS[:3], signal.SIGCHLD):
                signal.signal(
                    number,
                    signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL,
                )
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            for key in [
                k for k in os.environ if k.startswith(("HEATED_", "DVC_", "MLFLOW_", "PYTEST_"))
            ]:
                del os.environ[key]
            os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "no_proxy": "*", **more}
            if most is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            sys.argv = [f"stages.{name}", *arguments]
            status = exit_status(f"stages.{name}")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def has_ended(self) -> bool:
        return bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def wait(self, seconds: float = LIMIT_S) -> tuple[int, str]:
        """Return status (negative for a signal) and output; kill a stage that hangs."""
        end, output = time.monotonic() + seconds, b""
        while select.select([self.pipe], [], [], max(0, end - time.monotonic()))[0]:
            if not (part := os.read(self.pipe, 65536)):
                break
            output += part
        else:
            output += b"\nTraceback: hangs, killed"
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), output.decode(
            errors="replace"
        )


def last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no message"])[-1][:160]


def is_one_error(result: tuple[int, str], *needles: str) -> str:
    """Return ERROR if a stage ended with status 1 and a good message, else what is wrong."""
    status, output = result
    if status == 0:
        return "succeeds"
    if "Traceback" in output:
        return f"traceback: {last_line(output)}"
    if status != 1:
        return f"status {status}: {last_line(output)}"
    if not any(needle in output for needle in needles):
        return f"does not name {needles[0]}: {last_line(output)}"
    return ERROR if ADVICE.search(output) else f"no advice: {last_line(output)}"


def project_in(folder: Path) -> Project:
    project = object.__new__(Project)
    project.folder = folder
    return project


def build_reference(folder: Path) -> Reference:
    """Build the project by the parallel runner; then run every stage once, for its duration."""
    project = Project(folder)
    project.edit(SETTINGS)
    reference, start = Reference(folder), time.monotonic()
    project.run("dvc", "config", "cache.type", "copy")  # a damaged file is not the cache's
    project.run(sys.executable, "-m", "stages", "2")
    reference.seconds["build"] = time.monotonic() - start
    outputs = [name for _, names in STAGES.values() for name in names]
    reference.digests = {name: digest_of(folder / name) for name in outputs}
    for stage in STAGES:
        copy = Copy(folder.parent / "timed", reference, Random(0))
        copy_project(reference, copy.folder, with_dvc=False)
        copy.delete("checkpoints", *(("mlflow.db*", "mlartifacts") if stage == "track" else ()))
        start = time.monotonic()
        if (seen := copy.again(stage)) != SAME:
            raise RuntimeError(f"{stage} gives other bits without a fault: {seen}")
        reference.seconds[stage] = time.monotonic() - start
        shutil.rmtree(copy.folder)
    return reference


def load_reference(folder: Path) -> Reference:
    """Return the build in the folder, which is made there if it is missing."""
    if not (saved := folder.parent / "reference.json").exists():
        folder.mkdir(parents=True)
        reference = build_reference(folder)
        text = json.dumps([reference.digests, reference.seconds])
        saved.write_text(text, encoding="utf-8")
    return Reference(folder, *json.loads(saved.read_text(encoding="utf-8")))


def copy_project(reference: Reference, folder: Path, with_dvc: bool) -> None:
    """Copy what stages read and write, or all; MLflow's artifacts are then in the copy."""
    results = ("data", "runs", "report", "metrics.json", "checkpoints", "mlflow.db", "mlartifacts")
    folder.mkdir(exist_ok=True)
    for pattern in ("*",) if with_dvc else ("*.yaml", *results):
        for path in reference.folder.glob(pattern):
            target = folder / path.name
            shutil.copytree(path, target, symlinks=True) if path.is_dir() else shutil.copy2(
                path, target
            )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            change = f"update {table} set {column} = replace({column}, ?, ?)"
            database.execute(change, (str(reference.folder), str(folder)))
