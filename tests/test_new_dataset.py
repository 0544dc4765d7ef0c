"""A user's own images: the entry that is written for them, and a debug build in a copy."""

import json

import layouts
import pytest
import yaml
from conftest import Project

CLASSES = 6
WRITTEN = ("datasets.yaml", "params.yaml")


@pytest.fixture
def with_images(project: Project) -> Project:
    """A project next to a folder of 6 classes with 12 images each."""
    names = [f"class-{c}/{i}.png" for c in range(CLASSES) for i in range(12)]
    pictures = {name: layouts.random_image(seed) for seed, name in enumerate(names)}
    layouts.write_files(project.folder.parent / "it's mine", pictures)
    return project


def texts(project: Project) -> dict[str, str]:
    return {name: (project.folder / name).read_text(encoding="utf-8") for name in WRITTEN}


def test_an_entry_is_appended_and_one_line_of_params_yaml_changes(with_images):
    before = texts(with_images)
    output = with_images.run("python", "-m", "stages.new_dataset", "my-images", "../it's mine")
    assert "my-images: 72 images of 6 classes. The recipe is a small network" in output
    after = texts(with_images)
    assert after["datasets.yaml"].startswith(before["datasets.yaml"])
    entry = yaml.safe_load(after["datasets.yaml"])["datasets"]["my-images"]
    assert entry["source"] == {"name": "folder", "path": "../it's mine", "layout": "classes"}
    pairs = zip(*(text["params.yaml"].splitlines() for text in (before, after)), strict=True)
    assert [pair for pair in pairs if len({*pair}) > 1] == [("  - digits", "  - my-images")]
    again = ("python", "-m", "stages.new_dataset", "my-images", "../it's mine")
    assert "has 'my-images' already" in with_images.run(*again, status=1)
    assert texts(with_images) == after


def test_a_wrong_name_or_folder_changes_nothing(with_images):
    before = texts(with_images)
    flat = with_images.folder.parent / "it's mine/class-0"
    for arguments, message in {
        ("My_Images", "../it's mine"): "expected lower-case letters, digits and single hyphens",
        ("my-images", str(flat)): "is in no class directory, expected <class>/<image>",
        ("my-images", "../nowhere"): "nowhere",
    }.items():
        output = with_images.run("python", "-m", "stages.new_dataset", *arguments, status=1)
        assert message in output
        assert "Traceback" not in output
        assert texts(with_images) == before


def test_a_debug_build_has_a_report_and_changes_no_file_of_the_project(with_images):
    with_images.run("python", "-m", "stages.new_dataset", "my-images", "../it's mine")
    status = with_images.run("git", "status", "--porcelain")
    output = with_images.run("python", "-m", "stages.debug_build")
    copy = with_images.folder / ".local/debug"
    assert output.endswith(f"The report of the debug build is {copy / 'report/index.html'}.\n")
    page = (copy / "report/index.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png') > 9  # queries with their neighbors
    record = json.loads((copy / "runs/my-images/hbn/provenance.json").read_text())
    assert (record["params"]["epochs"], [*record["seeds"]]) == (2, ["0"])
    assert [path.name for path in (copy / "runs").glob("*/*")] == ["hbn"]
    assert with_images.run("git", "status", "--porcelain") == status
