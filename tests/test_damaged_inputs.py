"""Every stage with damaged inputs of every kind it reads: one message with the file, and advice."""

import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path

import pytest
from conftest import SHORT, Project
from PIL import Image

from heated.common.errors import exit_on_error

RUN, PACKED = "runs/digits/hbn", ["data/packed/digits/images.npy", "data/packed/digits/index.npz"]
MODEL, HISTORY = f"{RUN}/models/seed-0.safetensors", f"{RUN}/history.csv"
SUMMARIES = [f"{RUN}/metrics.json", f"{RUN}/provenance.json"]
TUNED = "runs/digits/tuned-sm/tuned.json"
SIDE = "data/resolved/side_settings.json"


def resolved(name: str) -> str:
    return f"data/resolved/{name}.json"


# The inputs by command.
INPUTS = {
    "resolve": ["params.yaml", "datasets.yaml", "studies.yaml", "claims.yaml"],
    "download digits": [resolved("sources/digits"), SIDE],
    "download photos": ["photos.zip"],
    "split digits": [resolved("packing/digits")],
    "split photos": ["data/raw/photos/photos.zip"],
    "tune digits tuned-sm": [resolved("tuning/digits/tuned-sm"), SIDE, *PACKED],
    "train digits hbn": [resolved("runs/digits/hbn"), SIDE, *PACKED],
    "train digits tuned-sm": [TUNED],
    "embed digits hbn": [resolved("machine"), MODEL, *PACKED],
    "evaluate digits hbn": [resolved("evaluation/digits"), f"{RUN}/embeddings/seed-0.npz"],
    "gradients digits hbn": [resolved("gradients"), MODEL, *PACKED],
    "report": [
        *(resolved("report"), *SUMMARIES, HISTORY, TUNED, f"{RUN}/gradients.json"),
        *(f"{RUN}/embeddings/seed-0.npz", *PACKED),
    ],
    "track": [resolved("tracking"), *SUMMARIES, HISTORY, TUNED],
}
ADVICE = re.compile("[Rr]un |expected|Fetch|Add it|Save|dvc repro|Put")
PHOTOS = {
    "source": {"name": "folder", "path": "photos.zip", "layout": "classes"},
    "packing": {"split": {"name": "halves"}},
}
SETTINGS = SHORT | {
    "run.datasets": ["digits", "photos"],
    "run.methods": ["hbn"],
    "studies.embeddings_2d.datasets": [],
    "studies.competitors.datasets": ["digits"],
    "studies.competitors.methods": ["tuned-sm"],
    "studies.competitors.seeds": [0],
    "grids": {"tuned-sm": [{"param": "lr", "values": [0.05]}]},
    "datasets.photos": {"base": "digits"} | PHOTOS,
    "datasets.digits.training.epochs": 1,
    "tracking.models": "none",
}


def call(command: str) -> None:
    """Run a stage in this process."""
    stage, *arguments = command.split()
    with exit_on_error():
        import_module(f"stages.{stage}").main(*arguments)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with the outputs of every stage on digits, which is the current folder."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.edit(SETTINGS)
    with zipfile.ZipFile(project.folder / "photos.zip", "w") as archive:
        for index in range(16):
            file = BytesIO()
            Image.new("L", (8, 8), 16 * index).save(file, "PNG")
            archive.writestr(f"class-{index % 4}/{index}.png", file.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("DVC_ROOT", str(project.folder))
        patch.setenv("HEATED_TRACKING", "off")
        patch.delenv("HEATED_MIRROR", raising=False)
        for command in INPUTS:
            if command not in ("report", "track"):
                call(command)
        for rest in ("embed digits tuned-sm", "evaluate digits tuned-sm"):
            call(rest)
        shutil.copytree("runs/digits", "runs/photos")
        yield project


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncate,
    "a page": lambda path: path.write_text("<!DOCTYPE html><title>404</title>\n", encoding="utf-8"),
    "no mapping": lambda path: path.write_text("[1, 2]\n", encoding="utf-8"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
    "a folder": make_folder,
    "missing": Path.unlink,
}
# What a stage does without, or takes: a run without these files, a folder of images.
OPTIONAL = {("download photos", "photos.zip", "a folder")}
OPTIONAL |= {("track", TUNED, "missing"), ("report", TUNED, "missing")}
OPTIONAL |= {("report", f"{RUN}/gradients.json", "missing")}


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.parametrize("command", INPUTS)
def test_a_damaged_input_is_one_message_with_the_file_and_advice(command, complete, subtests):
    for name in INPUTS[command]:
        path = complete.folder / name
        content = path.read_bytes()
        for damage, apply in DAMAGES.items():
            if (command, name, damage) in OPTIONAL:
                continue
            apply(path)
            with subtests.test(file=name, damage=damage), pytest.MonkeyPatch.context() as patch:
                if command == "track":
                    patch.delenv("HEATED_TRACKING")
                with pytest.raises(SystemExit) as ended:
                    call(command)
                message = ended.value.code
                assert isinstance(message, str)  # printed, and status 1
                assert path.stem in message or f"{path.parent.name}/seed-*" in message, message
                assert ADVICE.search(message), message
            if path.is_dir():
                path.rmdir()
            path.write_bytes(content)
