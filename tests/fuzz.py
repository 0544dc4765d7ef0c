"""Feed the stages mutated settings, archives, images and files of other stages: `make fuzz`.

    python tests/fuzz.py [--minutes 10] [--seed 0] [--jobs 2] [--only KIND[:NUMBER]]

A finding is an exception that is no message, a hang (10 s of CPU time), a growth of memory over
1 GiB, a crash, or a file written outside the scratch folder. An input is determined by the seed,
its kind and its number: `--only archive:17` repeats one with its traceback. Findings are kept in
tests/artifacts/fuzz; the exit status is 1 if there are any.
"""

import argparse
import io
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
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
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import yaml  # noqa: E402
from PIL import Image  # noqa: E402

from heated.common.errors import InputError, exit_on_error  # noqa: E402
from heated.common.io import read_json, write_json  # noqa: E402
from heated.config import FILES, Params  # noqa: E402
from heated.preprocessing.decoding import CHANNELS, FILTERS, DamagedImage, decode  # noqa: E402
from heated.search import index as indexing  # noqa: E402
from heated.search.__main__ import query_command  # noqa: E402
from stages.fork_server import PRELOADED  # noqa: E402
from stages import download, embed, evaluate, gradients, report, resolve, split, train, tune  # noqa: E402

KEPT = ROOT / "tests/artifacts/fuzz"
CPU_S, WALL_S, GROWTH, KILLED = 10, 120, 1 << 30, 3 << 30  # of one input
METHODS, TUNED, DATASET = ["hbn", "ln"], "tuned-bn", "tiny"
Call = Callable[[], object]


# --- the project whose files are mutated


def tiny_settings() -> dict[str, dict[str, Any]]:
    """Return the four YAML files for a folder of tiny images, and few methods."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    files = {name: yaml.safe_load(text) for name, text in texts.items()}
    params, datasets, studies, claims = files.values()
    entry = {"base": "digits", "source": {"name": "folder", "path": "images.zip", "layout": "classes"}}
    training = {"backbone": {"name": "conv4", "width": 2}, "epochs": 2, "eval_every": 1, "augment": []}
    entry |= {"training": training, "evaluation": {"kmeans": {"restarts": 1}}}
    digits = datasets["datasets"]["digits"]
    datasets["datasets"] = {"digits": digits, DATASET: entry}
    params["run"] |= {"datasets": [DATASET], "methods": METHODS, "seeds": [0]}
    params["tracking"]["enabled"] = False
    params["methods"] = {name: params["methods"][name] for name in ("sm", "ln", "bn", "hbn", "bn-drop")}
    params["checkpoints"]["interval_s"] = 0.001
    for study in studies["studies"].values():
        study["methods"] = [TUNED] if "validation" in study else ["hbn"]
        if "datasets" in study:
            study["datasets"] = []
    studies["studies"]["competitors"] |= {"datasets": [DATASET], "seeds": [0], "validation": {"folds": 2, "fold": 0}}
    studies["methods"] = {name: studies["methods"][name] for name in (TUNED, "norm-softmax", "triplet", "proxy-anchor", "contrastive")}
    studies["grids"] = {TUNED: [{"param": "lr", "values": [0.01, 0.05]}]}
    claims["claims"] = {"a": {**next(iter(claims["claims"].values()))}}
    claims["claims"]["a"]["all"] = [{"metric": "recall_at_1", "higher": ["hbn"], "lower": ["ln"], "margin": 0}]
    return files


def image_files() -> dict[str, bytes]:
    """Return four images of each of eight classes, as PNG and JPEG files."""
    files, random = {}, np.random.default_rng(0)
    for number in range(32):
        suffix, buffer = ("png", "jpg")[number % 2], io.BytesIO()
        pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, {"png": "PNG", "jpg": "JPEG"}[suffix])
        files[f"set/class-{number // 4}/{number}.{suffix}"] = buffer.getvalue()
    return files


def build_project() -> None:
    """Build the tiny project in the current folder, up to the report and a search index."""
    for name, content in tiny_settings().items():
        Path(name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    Path("images.zip").write_bytes(mutations.zip_bytes(Random(0), image_files()))
    resolve.main()
    download.main(DATASET)
    split.main(DATASET)
    tune.main(DATASET, TUNED)
    for method in (*METHODS, TUNED):
        train.main(DATASET, method)
        embed.main(DATASET, method)
        evaluate.main(DATASET, method)
    gradients.main(DATASET, "hbn")
    report.main()
    model = f"runs/{DATASET}/hbn/models/seed-0.safetensors"
    indexing.build_index([Path("images.zip")], model, Path("index"))


# --- kinds of inputs: each writes one into the current folder, and returns its file and what reads it


@cache
def vocabulary() -> tuple[Any, ...]:
    return mutations.schema_values(Params.model_json_schema())


def settings_input(rng: Random) -> tuple[Path, list[Call]]:
    path = Path(rng.choice([*FILES]))
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    if rng.random() < 0.7:
        tree = mutations.mutate_tree(rng, tree, vocabulary())
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    path.unlink()
    path.write_bytes(mutations.mutate_yaml(rng, text) if rng.random() < 0.5 else content)
    return path, [partial(resolve.main, check=rng.random() < 0.5)]


def archive_input(rng: Random) -> tuple[Path, list[Call]]:
    suffix = rng.choice([*mutations.COMPRESSIONS])
    path = Path(f"images{suffix}")
    path.write_bytes(mutations.mutate_archive(rng, image_files(), suffix))
    for name in ("sources", "packing"):
        settings = read_json(file := Path(f"data/resolved/{name}/{DATASET}.json"))
        settings["source"] |= {"path": path.name, "layout": rng.choice(("classes", "parts"))}
        write_json(file, settings)

    def search() -> None:
        for _ in indexing.read_images(indexing.list_images([path])):
            pass

    return path, [partial(download.main, DATASET), partial(split.main, DATASET), search]


@cache
def base_images() -> list[bytes]:
    """Return a small image in every format and mode that Pillow writes."""
    gray = Image.fromarray(np.random.default_rng(1).integers(0, 256, (13, 17), dtype=np.uint8))
    found = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000"):
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "I;16", "F", "YCbCr", "LAB"):
            with suppress(OSError, ValueError, KeyError):
                gray.convert(mode).save(buffer := io.BytesIO(), form)
                found.append(buffer.getvalue())
    frames = [gray.convert("P"), gray.rotate(90).convert("P")]
    for form in ("GIF", "TIFF", "PNG", "WEBP"):
        frames[0].save(buffer := io.BytesIO(), form, save_all=True, append_images=frames[1:])
        found.append(buffer.getvalue())
    for options in ({"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_deflate"}):
        gray.save(buffer := io.BytesIO(), "TIFF", **options)
        found.append(buffer.getvalue())
    return found


def image_input(rng: Random) -> tuple[Path, list[Call]]:
    path = Path("image")
    blank = rng.random() < 0.003
    path.write_bytes(mutations.blank_png(rng) if blank else mutations.mutate_image(rng, rng.choice(base_images())))
    color_mode, size = rng.choice([*CHANNELS]), rng.choice((1, 8, 64))
    options = {"fit": rng.choice(("squash", "crop")), "filter": rng.choice([*FILTERS])}

    def read() -> None:
        pixels = decode(path.read_bytes(), size=size, color_mode=color_mode, **options)
        assert (pixels.shape, pixels.dtype) == ((size, size, CHANNELS[color_mode]), np.uint8)

    return path, [read]


RUN_STAGES = {"train": train, "embed": embed, "evaluate": evaluate, "gradients": gradients}
READERS = {  # files, and the stages that read them; a stage that is there twice is twice as likely
    "data/resolved/*/*/*.json": ("train",),
    "data/resolved/*.json": ("train", "embed", "gradients"),
    "data/packed/*/*": ("train", "embed", "gradients", "report"),
    "runs/*/*/models/*": ("embed", "embed", "gradients", "query"),
    "runs/*/*/embeddings/*": ("evaluate", "evaluate", "evaluate", "report"),
    "runs/*/*/metrics.json": ("report",),
    "runs/*/*/history.csv": ("report",),
    "runs/*/*/provenance.json": ("report",),
    "runs/*/*/tuned.json": ("train",),
    "checkpoints/*/*.safetensors": ("train",),
    "index/*": ("query",),
}


def stage_input(rng: Random) -> tuple[Path, list[Call]]:
    pattern = rng.choice([*READERS])
    path = rng.choice(sorted(Path().glob(pattern)))
    mutate = mutations.BY_SUFFIX[path.suffix]
    if path.parts[1] == "resolved":  # wrong values are what `settings` tries
        mutate = mutations.mutate_bytes
    content = mutate(rng, path.read_bytes())
    path.unlink()
    path.write_bytes(content)
    name, method = rng.choice(READERS[pattern]), path.parts[2] if path.parts[0] == "runs" else "hbn"
    if name == "report":
        return path, [report.main]
    if name == "query":
        Path("query.png").write_bytes(image_files()["set/class-0/0.png"])
        return path, [partial(query_command, Path("query.png"), Path("index"), 3, None, None)]
    if path.name == f"{TUNED}.json":
        method = TUNED
    return path, [partial(RUN_STAGES[name].main, DATASET, "hbn" if name == "gradients" else method)]


KINDS = {  # with the share of the time, and what of the project is needed
    "settings": (settings_input, 0.25, ("*.yaml",)),
    "archive": (archive_input, 0.25, ("data/resolved/*",)),
    "image": (image_input, 0.2, ()),
    "stage": (stage_input, 0.3, ("data/*", "runs/*", "checkpoints", "index")),
}


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
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate") and -1 in (*arguments[1:], -1):
            paths = arguments[:1] if not isinstance(arguments[-1], int) or arguments[-1] == -1 else ()
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
            if path.suffix in mutations.BY_SUFFIX and not any(p in text for p in path.parts[1:]):
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


def prepare(kind: str, seed: int, number: int, template: Path, folder: Path) -> tuple[Path, list[Call]]:
    """Make an input in a fresh copy of the project, and this the current folder."""
    make, _, needed = KINDS[kind]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (path for pattern in needed for path in template.glob(pattern)):
        target = folder / path.relative_to(template)
        target.parent.mkdir(parents=True, exist_ok=True)
        # links: what writes into a file in place damages the template, and is found thereby
        shutil.copytree(path, target, copy_function=os.link) if path.is_dir() else os.link(path, target)
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
        """Return the next input of the kind that is furthest below its share of the time."""
        kind = min(self.kinds, key=lambda name: self.seconds[name] / KINDS[name][1])
        self.counts[kind] += 1
        return kind, self.counts[kind] - 1

    def run(self, seconds: float, jobs: int, most: int | None = None) -> None:
        """Try inputs for a time, or `most` of them."""
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
        path, _ = prepare(task[0], self.seed, task[1], self.scratch / "template", self.scratch / "kept")
        folder = KEPT / f"{self.seed}-{task[0]}-{task[1]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
        (folder / "finding.txt").write_text(f"{path}\n{finding}\n", encoding="utf-8")

    def summary(self) -> Iterator[str]:
        """Yield a line for each kind of input and of finding."""
        for kind in self.kinds:
            found = sum(len(v) for k, v in self.findings.items() if k.startswith(f"{kind}: "))
            rate = self.counts[kind] / max(self.seconds[kind], 1e-9)
            yield f"{kind:<10} {self.counts[kind]:>8} inputs  {rate:>7.1f} per second and process  {found:>6} findings"
        for key, found in sorted(self.findings.items()):
            yield f"{len(found):>6} x {key}, such as {found[0]}"


def make_template(scratch: Path) -> None:
    """Build the project in a process of its own, so that workers are forks of one without threads."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
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
            path, calls = prepare(kind, options.seed, int(number), scratch / "template", scratch / "one")
            print(f"{path}: {path.stat().st_size} bytes")
            for call in calls:
                with exit_on_error():
                    call()
            return 0
        fuzzer = Fuzzer(options.seed, scratch, [kind] if kind else [*KINDS])
        fuzzer.run(60 * options.minutes, options.jobs)
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
