"""A user's own images, from the lines in the README to the report."""

import json
import re

import layouts
import torch
import yaml
from conftest import ROOT, Project
from safetensors.torch import save_file

NAMES = {
    f"{kind}/{i}.jpg": 10 * n + i
    for n, kind in enumerate(["ape", "bee", "cat", "dog"])
    for i in range(5)
}


def readme_section() -> str:
    """The README's section for params.yaml, below `datasets:`, of six lines at most."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\ndatasets:\n(.*?)```", readme, re.DOTALL)
    assert len(block.splitlines()) <= 6
    return str(block)


def test_a_folder_goes_from_params_yaml_to_the_report(project: Project) -> None:
    from torchvision.models import resnet50

    folder = project.folder.parent / "my-images"
    layouts.write_files(folder, {name: layouts.random_image(seed) for name, seed in NAMES.items()})
    (folder / "cat" / "notes.txt").write_text("no image")
    torch.manual_seed(0)
    save_file(resnet50().state_dict(), project.folder / "weights.safetensors")
    entry = yaml.safe_load(f"datasets:\n{readme_section()}")["datasets"]["my-images"]
    project.edit(
        {
            "datasets.my-images": entry,
            "datasets.my-images.training.epochs": 2,
            "datasets.my-images.training.weights": "weights.safetensors",
            "run.datasets": ["my-images"],
            "run.methods": ["hbn"],
            "run.seeds": [3],
            "studies.embeddings_2d.datasets": [],
        }
    )
    project.run("git", "add", "--all")
    project.run("python", "-m", "stages", "2", HEATED_TRACKING="off")
    metrics = json.loads((project.folder / "runs/my-images/hbn/metrics.json").read_text())
    assert set(metrics["recall_at_1"]["seeds"]) == {"3"}
    record = json.loads((project.folder / "runs/my-images/hbn/provenance.json").read_text())
    assert record["split"]["query"] == {"images": 10, "classes": 2}
    page = (project.folder / "report/index.html").read_text(encoding="utf-8")
    assert "my-images" in page
    assert "10 images of 2 classes; trained on 10 images of 2 classes" in page
    assert page.count('src="data:image/webp') > 9  # neighbors, with their pictures
