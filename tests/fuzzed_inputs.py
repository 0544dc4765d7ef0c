"""A small built project, and inputs for its stages that `make fuzz` derives from it."""

import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import mutated_files
import mutations
import numpy as np
import yaml
from PIL import Image

from heated.common.io import read_record, write_record
from heated.config import FILES, Params
from heated.preprocessing.decoding import CHANNELS, FILTERS, decode
from heated.search import index as indexing
from heated.search.__main__ import query_command
from stages import download, embed, evaluate, gradients, report, resolve, split, train, tune

ROOT = Path(__file__).resolve().parent.parent
METHODS, TUNED, DATASET = ["hbn", "ln"], "tuned-bn", "tiny"
Call = Callable[[], object]  # what reads an input


def tiny_settings() -> dict[str, dict[str, Any]]:
    """Return the four YAML files for a folder of tiny images, and few methods."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    files = {name: yaml.safe_load(text) for name, text in texts.items()}
    params, datasets, studies, claims = files.values()
    entry = {
        "base": "digits",
        "source": {"name": "folder", "path": "images.zip", "layout": "classes"},
    }
    training = {
        "backbone": {"name": "conv4", "width": 2},
        "epochs": 2,
        "eval_every": 1,
        "augment": [],
    }
    entry |= {"training": training, "evaluation": {"kmeans": {"restarts": 1}}}
    digits = datasets["datasets"]["digits"]
    datasets["datasets"] = {"digits": digits, DATASET: entry}
    params["run"] |= {"datasets": [DATASET], "methods": METHODS, "seeds": [0]}
    params["tracking"]["enabled"] = False
    params["methods"] = {
        name: params["methods"][name] for name in ("sm", "ln", "bn", "hbn", "bn-drop")
    }
    params["checkpoints"]["interval_s"] = 0.001
    for study in studies["studies"].values():
        study["methods"] = [TUNED] if "validation" in study else ["hbn"]
        if "datasets" in study:
            study["datasets"] = []
    studies["studies"]["competitors"] |= {
        "datasets": [DATASET],
        "seeds": [0],
        "validation": {"folds": 2, "fold": 0},
    }
    studies["methods"] = {
        name: studies["methods"][name]
        for name in (TUNED, "norm-softmax", "triplet", "proxy-anchor", "contrastive")
    }
    studies["grids"] = {TUNED: [{"param": "lr", "values": [0.01, 0.05]}]}
    claims["claims"] = {"a": {**next(iter(claims["claims"].values()))}}
    claims["claims"]["a"]["all"] = [
        {"metric": "recall_at_1", "higher": ["hbn"], "lower": ["ln"], "margin": 0}
    ]
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
    Path("images.zip").write_bytes(mutated_files.zip_bytes(Random(0), image_files()))
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


# Each kind of input writes one into the current folder, and returns its file and what reads it.


@cache
def vocabulary() -> tuple[Any, ...]:
    return mutations.schema_values(Params.model_json_schema())


def settings_input(rng: Random) -> tuple[Path, list[Call]]:
    path = Path(rng.choice([*FILES]))
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    if rng.random() < 0.7:
        mutated = mutations.mutate_tree(rng, tree, vocabulary())
        deepest = (
            max(map(len, mutations.places(mutated)), default=0)
            if isinstance(mutated, dict | list)
            else 0
        )
        tree = mutated if deepest < 150 else tree  # PyYAML cannot write deeper ones
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    path.unlink()
    path.write_bytes(mutations.mutate_yaml(rng, text) if rng.random() < 0.5 else content)
    return path, [partial(resolve.main, check=rng.random() < 0.5)]


def archive_input(rng: Random) -> tuple[Path, list[Call]]:
    suffix = rng.choice([*mutated_files.COMPRESSIONS])
    path = Path(f"images{suffix}")
    path.write_bytes(mutated_files.mutate_archive(rng, image_files(), suffix))
    for name in ("sources", "packing"):
        settings = read_record(file := Path(f"data/resolved/{name}/{DATASET}.json"))
        settings["source"] |= {"path": path.name, "layout": rng.choice(("classes", "parts"))}
        write_record(file, settings)

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
    for options in (
        {"compression": "tiff_lzw"},
        {"compression": "jpeg"},
        {"compression": "tiff_deflate"},
    ):
        gray.save(buffer := io.BytesIO(), "TIFF", **options)
        found.append(buffer.getvalue())
    return found


def image_input(rng: Random) -> tuple[Path, list[Call]]:
    path = Path("image")
    blank = rng.random() < 0.003
    path.write_bytes(
        mutated_files.blank_png(rng)
        if blank
        else mutated_files.mutate_image(rng, rng.choice(base_images()))
    )
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
    "runs/*/*/class_scores.csv": ("report",),
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
