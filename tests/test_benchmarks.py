import io
import json
import os
import subprocess
import sys
import zipfile
from itertools import product
from runpy import run_path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytestmark = pytest.mark.slow


def run_benchmark(name, folder, *options):
    """Return the figures that a benchmark writes; it fails if results that must agree do not."""
    path = folder / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / name, *options, "--json", str(path)]
    subprocess.run(command, check=True)
    return json.loads(path.read_text(encoding="utf-8"))


def zip_images(path, count):
    """Write a zip of JPEGs in four classes, and return its path."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            buffer = io.BytesIO()
            pixels = random.integers(256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            archive.writestr(f"{number % 4:03}.class/{number:04}.jpg", buffer.getvalue())
    return str(path)


def test_evaluation_is_compared_with_its_limit_and_its_peers(tmp_path):
    size = "--n 1200 --dim 32 --classes 200 --noise 2 --exact"
    effort = "--repeats 1 --iterations 3 --threads 1"
    figures = run_benchmark("evaluate.py", tmp_path, *f"{size} {effort}".split())
    assert figures["farthest_from_float64"] <= 1e-9
    assert figures["farthest_from_peer"] <= 1e-4
    assert 0 < figures["recall_at_1"] < 1
    assert 0 < figures["doubtful_share"] < 0.1
    assert figures["kmeans_iterations"] <= 3
    ratios = {name: value for name, value in figures.items() if "_ratio_to_" in name}
    retrieval = {f"retrieval_ratio_to_{name}" for name in ("float32_product", "limit", "peer")}
    more = {"kmeans_ratio_to_limit", "hard_ratio_to_easy", "collapsed_ratio_to_easy"}
    pairs = product(("kmeans", "objective"), ("faiss", "sklearn"))
    kmeans = {f"{figure}_ratio_to_{peer}" for figure, peer in pairs}
    assert ratios.keys() == {"recall_ratio_to_float32_product", *retrieval, *kmeans, *more}
    assert min(ratios.values()) > 0


def test_training_is_compared_with_its_limit_and_packing_with_pillow(tmp_path):
    options = "--networks conv4 --count 64 --precision float32 --repeats 1 --threads 1 --workers 0"
    images = ("--images", zip_images(tmp_path / "64.zip", 64))
    figures = run_benchmark("train.py", tmp_path, *images, *options.split())
    names = [f"conv4_{name}" for name in ("images_a_second", "ratio_to_limit", "ratio_to_peer")]
    assert min(figures[name] for name in names) > 0
    assert figures["conv4_precision"] == "float32"

    options = "--count 200 --size 32 --repeats 1 --workers 1"
    images = ("--images", zip_images(tmp_path / "20.zip", 20))
    figures = run_benchmark("pack.py", tmp_path, *images, *options.split())
    assert (figures["zip_images"], figures["photographs_images"]) == (20, 200)
    for name in ("zip", "photographs"):
        assert figures[f"{name}_ratio_to_pillow"] > 0
        assert figures[f"{name}_processor_ratio_to_pillow"] > 0
        assert 0 < figures[f"{name}_peak_mib"] < 1024


CHECK = ROOT / "benchmarks" / "gpu_check.py"


def without(folder, *packages):
    """An environment in which the packages cannot be imported, nor a GPU be seen."""
    for name in packages:
        text = f"raise ImportError('{name} is not installed')"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}


def test_the_check_of_a_gpu_needs_no_package_of_the_pipeline_and_says_what_it_would_run(tmp_path):
    environment = without(tmp_path, "dvc", "mlflow", "ruamel", "pydantic")
    done = subprocess.run(
        [sys.executable, CHECK], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *listed = done.stdout.splitlines()
    assert first.startswith("no GPU")
    parts = ["pytest -q -m gpu", "--precision float32", "--precision auto"]
    parts += ["--parts retrieval", "--parts kmeans"]
    assert len(listed) == len(parts)
    for line, part in zip(listed, parts, strict=True):
        assert part in line
    tests = run_path(str(CHECK))["commands"](tmp_path)["tests"]
    collect = [sys.executable, *tests, "--collect-only", "--numprocesses", "0"]
    paths = os.pathsep.join(map(str, (tmp_path, ROOT / "src", ROOT, ROOT / "tests")))
    collected = subprocess.run(
        collect, cwd=ROOT, env=environment | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert collected.returncode == 0, collected.stdout
    assert sum("::" in line for line in collected.stdout.splitlines()) >= 25


def test_the_table_counts_tests_and_has_each_benchmark_with_its_target(tmp_path, capsys):
    check = run_path(str(CHECK))
    path = tmp_path / "tests.xml"
    suite = '<testsuite tests="9" failures="1" errors="2" skipped="3"/>'
    path.write_text(f"<testsuites>{suite}</testsuites>", encoding="utf-8")
    counts = check["test_counts"](path)
    assert counts == {"passed": 3, "failed": 3, "skipped": 3}
    training = {"googlenet_ratio_to_limit": 0.95, "googlenet_ratio_to_peer": 7.25}
    results = {"tests": counts, "training": training, "kmeans": {"kmeans_s": 2}}
    results |= {"training_auto": {}, "retrieval": {}}
    check["print_table"]({"device": "a card"}, results)
    printed = capsys.readouterr().out
    for line in (
        "| device | a card | |",
        "| tests | 3 passed, 3 failed | 0 failed |",
        "| training: googlenet_ratio_to_peer | 7.25 | >= 5 |",
        "| retrieval: retrieval_s | not measured | <= 10 |",
    ):
        assert line in printed
    check["write_images"](tmp_path / "images.zip", count=4, classes=2)
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert len(archive.namelist()) == 4
