"""The wheel in an environment of its own: what it requires is enough for the library."""

import subprocess
import sys
import zipfile
from importlib.metadata import distribution

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

USE = """
import sys
import torch
from heated import AlphaScheduler, HeatedSoftmax, clustering_metrics, retrieval_metrics
from heated import schedule_values
early = {name.partition(".")[0] for name in sys.modules}
labels = torch.arange(8) % 4
loss = HeatedSoftmax(4, 3)
AlphaScheduler(loss, "step", start=16, end=4, at=0.5, total=2).step()
loss(torch.randn(8, 3), labels).backward()
assert loss.alpha == 4
assert retrieval_metrics(torch.eye(4)[labels], labels, recall_at_k=[1]).values["recall_at_1"] == 1
from heated import embed, load_model
print(*sorted(early & {"safetensors", "sklearn", "psutil", "torchvision", "PIL", "pydantic"}))
print(*sorted({"dvc", "mlflow", "torchvision", "pydantic", "psutil"} & {*sys.modules}))
for name in ("dvc", "mlflow", "pydantic", "torchvision", "psutil"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
"""


def closure(requirements):
    """Return the names of all distributions that requirements need here, without extras."""
    names, todo = set(), [Requirement(each) for each in requirements]
    while todo:
        requirement = todo.pop()
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_needed and requirement.name not in names:
            names.add(requirement.name)
            todo += map(Requirement, distribution(requirement.name).requires or [])
    return sorted(names)


@pytest.mark.slow
def test_a_wheel_with_its_requirements_alone_gives_the_public_names(tmp_path):
    build = "from setuptools.build_meta import build_wheel; build_wheel({!r})"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "src"):
        subprocess.run(["cp", "-r", ROOT / name, source / name], check=True)
    command = [sys.executable, "-c", build.format(str(tmp_path))]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:  # what installing a wheel of Python files does
        archive.extractall(packages)
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    required = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
    library = [each for each in required if "extra ==" not in each]
    assert {Requirement(each).name for each in library} == {
        *("torch", "numpy", "scipy", "scikit-learn", "safetensors", "tqdm")
    }
    for name in closure(library):
        link_distribution(name, packages)
    python = [environment / "bin" / "python", "-I", "-W", "error::ImportWarning", "-c", USE]
    done = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\n\n"), done.stderr


def link_distribution(name, packages):
    """Link the files of an installed distribution into another environment."""
    found = distribution(name)
    for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
        link, target = packages / top, found.locate_file(top)
        if target.exists() and not link.exists():  # several share a namespace, such as nvidia
            link.symlink_to(target)
