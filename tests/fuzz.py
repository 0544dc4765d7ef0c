"""Feed the stages mutated settings, archives, images and files of other stages: `make fuzz`.

    python tests/fuzz.py [--minutes 10] [--seed 0] [--jobs 2] [--only KIND[:NUMBER]]

A finding is an exception that is no message, a hang (10 s of CPU time), a growth of memory over
1 GiB, a crash, or a file written outside the scratch folder. An input is determined by the seed,
its kind and its number: `--only archive:17` repeats one with its traceback. Findings are kept in
tests/artifacts/fuzz; the exit status is 1 if there are any.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
sys.dont_write_bytecode = True

import mutations  # noqa: E402
import psutil  # noqa: E402
from fuzzed_inputs import KINDS, Call, build_project  # noqa: E402

from heated.common.errors import InputError, exit_on_error  # noqa: E402
from heated.pipeline.fork_server import PRELOADED  # noqa: E402
from heated.preprocessing.decoding import DamagedImage  # noqa: E402

KEPT = ROOT / "tests/artifacts/fuzz"
CPU_S, WALL_S, GROWTH, KILLED = 10, 120, 1 << 30, 3 << 30  # of one input


# --- one input


@dataclass
class Writes:
    """Paths that this process wrote outside a folder, as Python's audit events name them."""

    folder: Path
    outside: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        paths: tuple[Any, ...] = ()
        if event == "open":
            if (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                paths = arguments[:1]
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate") and -1 in (
            *arguments[1:],
            -1,
        ):
            paths = (
                arguments[:1] if not isinstance(arguments[-1], int) or arguments[-1] == -1 else ()
            )
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = arguments[1:2]
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                place = os.path.realpath(os.fsdecode(path))
                if not f"{place}/".startswith((f"{self.folder}/", "/dev/null/", "/proc/")):
                    self.outside.append(place)


def attempt(calls: list[Call], path: Path) -> str:
    """Return what is wrong with the end of the calls, empty for none."""
    for call in calls:
        try:
            with exit_on_error():
                call()
        except DamagedImage:
            pass
        except SystemExit as end:
            text = str(end.code)
            if not text.strip() or len(text) > 20_000:
                return f"message of {len(text)} letters"
            names = (path.name, str(path.parent), *path.parts[1:-1])
            if path.suffix in mutations.BY_SUFFIX and not any(name in text for name in names):
                return f"message does not name {path.name}: {text[:100]!r}"
        except BaseException as error:
            return described(error)
    return ""


def described(error: BaseException) -> str:
    """Return type, message and place in our code of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith((str(ROOT / "src"), str(ROOT / "stages")))]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:150]!r}"


def finding_key(finding: str) -> str:
    """Return what equal findings share: the type and the place, or the words before a number."""
    return finding.partition(": ")[0]


def prepare(
    kind: str, seed: int, number: int, template: Path, folder: Path
) -> tuple[Path, list[Call]]:
    """Make an input in a fresh copy of the project, and this the current folder."""
    make, _, needed = KINDS[kind]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (path for pattern in needed for path in template.glob(pattern)):
        target = folder / path.relative_to(template)
        target.parent.mkdir(parents=True, exist_ok=True)
        # links: what writes into a file in place damages the template, and is found thereby
        shutil.copytree(path, target, copy_function=os.link) if path.is_dir() else os.link(
            path, target
        )
    os.chdir(folder)
    return make(Random(f"{seed} {kind} {number}"))


def work(pipe: Connection, seed: int, template: Path, folder: Path) -> None:
    """Try each input that the pipe names, and answer with the finding."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    writes = Writes(folder.parent.parent)
    sys.addaudithook(writes)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while (task := pipe.recv()) is not None:
        finding = attempt(*reversed(prepare(*task[:1], seed, task[1], template, folder)))
        if writes.outside:
            finding = f"written outside: {writes.outside[:3]}"
            writes.outside.clear()
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
        if grown > GROWTH:
            pipe.send(finding or f"memory grew: by {grown >> 20} MiB")
            return  # the peak never falls
        pipe.send(finding)


# --- all inputs


@dataclass
class Worker:
    """A forked process, and the input that it is trying."""

    pipe: Connection
    process: Any
    task: tuple[str, int] = ("", 0)
    started: float = 0
    cpu: float = 0

    def give(self, task: tuple[str, int]) -> None:
        self.task, self.started = task, time.monotonic()
        self.cpu = self.cpu_s()
        self.pipe.send(task)

    def cpu_s(self) -> float:
        with suppress(psutil.Error):
            return sum(psutil.Process(self.process.pid).cpu_times()[:2])
        return self.cpu

    def excess(self) -> str:
        """Return which limit the input is over, empty for none."""
        if self.cpu_s() - self.cpu > CPU_S or time.monotonic() - self.started > WALL_S:
            return f"hang: over {CPU_S} s of CPU time or {WALL_S} s in all"
        with suppress(psutil.Error):
            if psutil.Process(self.process.pid).memory_info().rss > KILLED:
                return f"memory grew: beyond {KILLED >> 20} MiB, killed"
        return ""

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


class Fuzzer:
    """Workers that try inputs, and what was found."""

    def __init__(self, seed: int, scratch: Path, kinds: list[str]) -> None:
        self.seed, self.scratch, self.context = seed, scratch, multiprocessing.get_context("fork")
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.findings: defaultdict[str, list[str]] = defaultdict(list)
        self.kinds, self.forks = kinds, 0
        self.most: int | None = None

    def start(self) -> Worker:
        ours, theirs = self.context.Pipe()
        self.forks += 1
        folder = self.scratch / f"worker-{self.forks}/project"
        options = (theirs, self.seed, self.scratch / "template", folder)
        process = self.context.Process(target=work, args=options, daemon=True)
        process.start()
        theirs.close()
        return Worker(ours, process)

    def next_task(self) -> tuple[str, int]:
        """Return the next input: of the kind furthest below its share of the time, or in turn."""
        used = self.counts if self.most else self.seconds
        kind = min(self.kinds, key=lambda name: used[name] / KINDS[name][1])
        self.counts[kind] += 1
        return kind, self.counts[kind] - 1

    def run(self, seconds: float, jobs: int, most: int | None = None) -> None:
        """Try inputs for a time, or `most` of them, which are then the same each time."""
        self.most = most
        workers = [self.start() for _ in range(jobs)]
        end = time.monotonic() + seconds
        for worker in workers:
            worker.give(self.next_task())
        while workers:
            ready = wait([worker.pipe for worker in workers], timeout=0.5)
            for worker in list(workers):
                finding = self.answer(worker) if worker.pipe in ready else worker.excess()
                if finding is None or (worker.pipe not in ready and not finding):
                    continue
                self.seconds[worker.task[0]] += time.monotonic() - worker.started
                workers.remove(worker)
                if finding:
                    self.keep(worker.task, finding)
                if finding.startswith(("hang", "memory", "crash")):
                    worker.stop()
                    worker = self.start()
                if time.monotonic() < end and (most is None or self.counts.total() < most):
                    worker.give(self.next_task())
                    workers.append(worker)
                else:
                    worker.stop()

    def answer(self, worker: Worker) -> str:
        """Return the finding that a worker sends, or how it ended."""
        try:
            return worker.pipe.recv()
        except EOFError:
            worker.process.join()
            return f"crash: exit status {worker.process.exitcode}"

    def keep(self, task: tuple[str, int], finding: str) -> None:
        """Note a finding, and save the input of the first ones of its kind."""
        key, name = f"{task[0]}: {finding_key(finding)}", f"{task[0]}:{task[1]}"
        self.findings[key].append(f"{name} {finding}")
        if len(self.findings[key]) <= 3:
            print(f"{name}: {finding}", flush=True)
            process = self.context.Process(target=self.save, args=(task, finding))
            process.start()
            process.join()

    def save(self, task: tuple[str, int], finding: str) -> None:
        path, _ = prepare(
            task[0], self.seed, task[1], self.scratch / "template", self.scratch / "kept"
        )
        folder = KEPT / f"{self.seed}-{task[0]}-{task[1]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
        (folder / "finding.txt").write_text(f"{path}\n{finding}\n", encoding="utf-8")

    def summary(self) -> Iterator[str]:
        """Yield a line for each kind of input and of finding."""
        for kind in self.kinds:
            found = sum(len(v) for k, v in self.findings.items() if k.startswith(f"{kind}: "))
            count, rate = self.counts[kind], self.counts[kind] / max(self.seconds[kind], 1e-9)
            text = f"{count:>8} inputs {rate:>7.1f} per second and process"
            yield f"{kind:<10}{text} {found:>6} findings"
        for key, found in sorted(self.findings.items()):
            yield f"{len(found):>6} x {key}, such as {found[0]}"


def make_template(scratch: Path) -> None:
    """Build the project in its own process: workers are forks of one without threads."""
    (scratch / "template").mkdir()

    def build() -> None:
        os.chdir(scratch / "template")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.simplefilter("ignore")
        build_project()

    process = multiprocessing.get_context("fork").Process(target=build)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("the project to mutate cannot be built: see the message above")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--inputs", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="a kind, or KIND:NUMBER for one input")
    options = parser.parse_args()
    (kind, _, number), memory = options.only.partition(":"), Path("/dev/shm")
    if kind and kind not in KINDS:
        raise InputError(f"--only: got {kind!r}, expected one of {', '.join(KINDS)}.")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        scratch = Path(folder).resolve()
        clean_environment(scratch)
        make_template(scratch)
        if number:
            path, calls = prepare(
                kind, options.seed, int(number), scratch / "template", scratch / "one"
            )
            print(f"{path}: {path.stat().st_size} bytes")
            for call in calls:
                with exit_on_error():
                    call()
            return 0
        fuzzer = Fuzzer(options.seed, scratch, [kind] if kind else [*KINDS])
        fuzzer.run(60 * options.minutes, options.jobs, options.inputs)
        os.chdir(ROOT)
    print(*fuzzer.summary(), sep="\n")
    return int(bool(fuzzer.findings))


def clean_environment(scratch: Path) -> None:
    """Keep caches and temporary files of libraries in the scratch folder."""
    for name in [n for n in os.environ if n.startswith(("HEATED_", "DVC_", "MLFLOW_"))]:
        del os.environ[name]
    (scratch / "tmp").mkdir()
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    os.environ |= dict.fromkeys(names, str(scratch / "tmp"))
    tempfile.tempdir = None
    for name in PRELOADED:
        import_module(name)


if __name__ == "__main__":
    sys.exit(main())
