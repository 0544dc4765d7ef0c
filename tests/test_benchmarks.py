import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def ran(name, *options):
    """The figures that a benchmark writes; it fails where what must agree does not."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / name, *options], check=True)
    return json.loads(Path(options[options.index("--json") + 1]).read_text(encoding="utf-8"))


def test_evaluation_is_measured_beside_its_limit_and_its_peers(tmp_path):
    size = ("--n", "1200", "--dim", "32", "--classes", "200", "--noise", "2", "--exact")
    effort = ("--repeats", "1", "--iterations", "3", "--threads", "1")
    figures = ran("evaluate.py", *size, *effort, "--json", str(tmp_path / "figures.json"))
    assert figures["farthest_from_float64"] <= 1e-9
    assert figures["farthest_from_peer"] <= 1e-4
    assert 0 < figures["recall_at_1"] < 1
    assert 0 < figures["doubtful_share"] < 0.1
    assert figures["kmeans_iterations"] <= 3
    ratios = {name for name in figures if "_ratio_to_" in name}
    assert ratios == {
        "recall_ratio_to_float32_product",
        "retrieval_ratio_to_float32_product",
        "retrieval_ratio_to_limit",
        "retrieval_ratio_to_peer",
        "kmeans_ratio_to_faiss",
        "kmeans_ratio_to_sklearn",
        "objective_ratio_to_faiss",
        "objective_ratio_to_sklearn",
    }
    assert all(figures[name] > 0 for name in ratios)


def test_training_is_measured_beside_its_limit_and_torchvisions_parts(tmp_path):
    random = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(64):
            buffer = io.BytesIO()
            pixels = random.integers(256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            archive.writestr(f"{number % 4:03}.class/{number:04}.jpg", buffer.getvalue())
    figures = ran(
        "train.py",
        *("--images", str(tmp_path / "images.zip"), "--networks", "conv4", "--count", "64"),
        *("--repeats", "1", "--threads", "1", "--workers", "0", "--precision", "float32"),
        *("--json", str(tmp_path / "figures.json")),
    )
    for name in ("images_a_second", "ratio_to_limit", "ratio_to_peer"):
        assert figures[f"conv4_{name}"] > 0
    assert figures["conv4_precision"] == "float32"


def test_packing_is_measured_beside_pillow(tmp_path):
    random = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(20):
            buffer = io.BytesIO()
            pixels = random.integers(256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            archive.writestr(f"{number % 4:03}.class/{number:04}.jpg", buffer.getvalue())
    size = ("--images", str(tmp_path / "images.zip"), "--count", "200", "--size", "32")
    figures = ran(
        "pack.py", *size, "--repeats", "1", "--workers", "1", "--json", str(tmp_path / "f.json")
    )
    assert (figures["zip_images"], figures["photographs_images"]) == (20, 200)
    for name in ("zip", "photographs"):
        assert figures[f"{name}_ratio_to_pillow"] > 0
        assert figures[f"{name}_processor_ratio_to_pillow"] > 0
        assert 0 < figures[f"{name}_peak_mib"] < 1024
