import importlib
import re
import shutil
import subprocess
import sys

import layouts
import numpy as np
import pytest
import torch
from embedders import as_file, case
from reported import Page

from heated.common.errors import InputError
from heated.common.io import write_json
from heated.datasets import SOURCES
from heated.evaluation.retrieval import retrieval_metrics
from heated.models import embedding_model
from heated.search import __main__ as command
from heated.search import approximate
from heated.search import index as indexing
from heated.search.images import contents, listed
from heated.search.index import build, exact, matching, nearest, opened

pytestmark = [
    pytest.mark.xdist_group("search"),  # one process builds the index
    pytest.mark.filterwarnings(  # faiss's own, when it is imported
        "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"
    ),
]
KS = [1, 2, 4, 8]
DATASETS = {"digits": "digits", "drawings": "omniglot-small"}


def project(kind, root, given=None):
    """A run of the pipeline, and the images that it tests as files."""
    found = case(kind, root / "runs" / DATASETS[kind] / "hbn", given)
    settings = root / "data/resolved/packing" / f"{DATASETS[kind]}.json"
    write_json(settings, {"packing": found.packing})
    pairs = zip(found.contents, found.labels, strict=True)
    files = {f"{label}/{i:04}.png": as_file(image) for i, (image, label) in enumerate(pairs)}
    layouts.spread(root / "images", files)
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return project("digits", tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def root(given):
    return given.weights.parents[4]


@pytest.fixture(scope="module")
def image_index(given, root):
    """The index of those files."""
    build([root / "images"], str(given.weights), root / "index")
    return opened(root / "index")


@pytest.fixture
def run(monkeypatch):
    """The command, in this process: what it says where it fails."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
        try:
            command.main()
        except SystemExit as error:
            return str(error)
        return ""

    return run


@pytest.fixture
def index(given, run):
    """The command that makes an index with the case's model."""
    return lambda images, out: run("index", images, "--model", given.weights, "--out", out)


def order(given, image_index):
    """Numbers of the case's images in the order of the index."""
    return [int(re.search(r"(\d+).png", str(image)).group(1)) for image in image_index.images]


def test_an_index_holds_the_embed_stages_embeddings(given, image_index):
    assert len(image_index.images) == len(given.contents)
    expected = given.embeddings[order(given, image_index)]
    np.testing.assert_allclose(image_index.embeddings, expected, atol=1e-5, rtol=0)
    assert isinstance(image_index.embeddings, np.memmap)
    assert not image_index.embeddings.flags.writeable


def hits(given, image_index):
    """How often the query's class is among the first k, the query itself left out."""
    labels = given.labels[order(given, image_index)]
    _, numbers = nearest(image_index, image_index.embeddings, top=max(KS) + 1)
    others = np.array([[n for n in row if n != i][: max(KS)] for i, row in enumerate(numbers)])
    right = labels[others] == labels[:, None]
    return {f"recall_at_{k}": right[:, :k].any(axis=1).mean() for k in KS}


def recalls(given):
    """What the stage `evaluate` says of the stage `embed`'s embeddings."""
    embeddings, labels = torch.from_numpy(given.embeddings), torch.from_numpy(given.labels)
    return retrieval_metrics(embeddings, labels, recall_at_k=KS).values


def test_the_querys_class_is_among_the_first_as_often_as_recall_says(given, image_index):
    found, expected = hits(given, image_index), recalls(given)
    assert found == {name: pytest.approx(expected[name], abs=1e-12) for name in found}
    assert 0.3 < found["recall_at_1"] < found["recall_at_8"]


@pytest.mark.slow
def test_on_omniglot_small_too(mirror, tmp_path):
    samples = SOURCES["omniglot-small"]().read(mirror / "omniglot-small")
    given = project("drawings", tmp_path, samples)
    build([tmp_path / "images"], str(given.weights), tmp_path / "index")
    found, expected = hits(given, opened(tmp_path / "index")), recalls(given)
    assert found == {name: pytest.approx(expected[name], abs=1e-12) for name in found}
    assert len(given.labels) == 2120


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_find_what_sorting_everything_finds(monkeypatch, rows):
    monkeypatch.setattr(indexing, "ROWS", rows)
    random = np.random.default_rng(0)
    unit = random.normal(size=(60, 5)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit[40:] = unit[:20]  # ties, of which the lower number comes first
    cosines, numbers = exact(unit, unit[30:50], top=9)
    everything = unit[30:50].astype(np.float64) @ unit.T.astype(np.float64)
    expected = np.argsort(-everything.round(6), axis=1, kind="stable")[:, :9]
    assert np.array_equal(numbers, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(everything, expected, axis=1), atol=1e-6)


def test_more_than_there_are_is_all_there_are(image_index):
    distances, numbers = nearest(image_index, image_index.embeddings[:1], top=10_000)
    assert sorted(numbers[0]) == list(range(len(image_index.images)))
    assert distances[0, 0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(distances[0]) >= 0).all()
    assert distances.min() >= 0


def test_very_many_images_are_searched_by_faiss(given, root, image_index, monkeypatch):
    monkeypatch.setattr(indexing, "MANY", 100)
    monkeypatch.setattr(approximate, "SHARE", 2)
    build([root / "images"], str(given.weights), root / "large")
    large = opened(root / "large")
    assert (root / "large" / "index.faiss").is_file()
    distances, numbers = nearest(large, large.embeddings, top=5)
    exactly, expected = nearest(image_index, image_index.embeddings, top=5)
    assert np.array_equal(numbers[:, 0], expected[:, 0])
    shared = [len(set(a) & set(b)) for a, b in zip(numbers, expected, strict=True)]
    assert np.mean(shared) > 4
    np.testing.assert_allclose(distances[:, 0], exactly[:, 0], atol=1e-6)
    _, numbers = nearest(large, large.embeddings[:2], top=len(large.images))
    assert all(sorted(row) == list(range(len(large.images))) for row in numbers)


def test_cells_find_nearly_all_of_the_nearest(tmp_path):
    random = np.random.default_rng(0)
    centres = random.normal(size=(50, 16))
    unit = centres[random.integers(50, size=20_000)] + 0.3 * random.normal(size=(20_000, 16))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "unit.npy", unit)
    unit = np.load(tmp_path / "unit.npy", mmap_mode="r")  # as an index's embeddings come
    importlib.import_module("faiss.contrib.torch_utils")  # as others do, who want tensors searched
    approximate.write(tmp_path / "faiss", unit)
    cosines, numbers = approximate.nearest(tmp_path / "faiss", unit[:200], top=10)
    _, expected = exact(unit, unit[:200], top=10)
    shared = [len(set(a) & set(b)) for a, b in zip(numbers, expected, strict=True)]
    assert np.mean(shared) > 9.5
    together = np.take_along_axis(unit[:200] @ unit.T, numbers, axis=1)
    np.testing.assert_allclose(cosines, together, atol=1e-5)


def test_without_faiss_very_many_images_are_refused_before_anything_is_embedded(
    index, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(indexing, "MANY", 100)
    monkeypatch.setitem(sys.modules, "faiss", None)
    told = index(root / "images", tmp_path / "index")
    assert told.endswith("faiss, which is not installed: pip install faiss-cpu")
    assert not any(tmp_path.iterdir())


def test_files_folders_and_archives_are_read_alike(given, root, image_index, tmp_path):
    files = {path.name: path.read_bytes() for path in (root / "images" / "7").iterdir()}
    layouts.spread(tmp_path / "folder" / "deep", {**files, "notes.txt": b"no image"})
    layouts.zipped(tmp_path / "images.zip", {**dict(reversed(files.items())), "a.txt": b""})
    layouts.tar(tmp_path / "images.tar.gz", files)
    single = sorted((root / "images" / "7").iterdir())
    for places in ([tmp_path / "folder"], [tmp_path / "images.zip"], [tmp_path / "images.tar.gz"]):
        pairs = contents(listed(places))
        found = {str(image).rsplit("/", 1)[1]: content for image, content in pairs}
        assert found == files
    assert [image.path for image in listed(single)] == list(map(str, single))
    assert listed([*single, *single]) == listed(single)
    build([tmp_path / "images.zip", single[0]], str(given.weights), tmp_path / "index")
    zipped = opened(tmp_path / "index")
    for image, embedding in zip(zipped.images, zipped.embeddings, strict=True):
        ((same,),) = nearest(image_index, embedding[None], top=1)[1]
        assert str(image_index.images[same]).endswith(str(image).rsplit("/", 1)[1])


def test_the_command_prints_and_draws_what_is_nearest(root, image_index, tmp_path):
    asked = next((root / "images" / "7").iterdir())
    told = subprocess.run(
        [sys.executable, "-m", "heated.search", "query", str(asked), "--index", str(root / "index")]
        + ["--top", "4", "--page", "result.html"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line.split("\t") for line in told.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    assert lines[0][1:] == ["0.0000", str(asked)]
    page = Page((tmp_path / "result.html").read_text(encoding="utf-8"))
    pictures = [given for tag, given in page.tags if tag == "img"]
    assert [given["alt"] for given in pictures] == [
        f"the query, {asked}",
        *(f"neighbour {rank}, {name}" for rank, _, name in lines),
    ]
    assert all(given["src"].startswith("data:image/webp;base64,") for given in pictures)


def test_the_page_escapes_names_and_loads_nothing(index, run, tmp_path, capsys):
    name = "<img src=x onerror=alert(1)>&\"'\n.png"
    layouts.spread(tmp_path / "images", {name: as_file(np.full((9, 7), 40, np.uint8))})
    index(tmp_path / "images", tmp_path / "index")
    asked = tmp_path / "images" / name
    assert (
        run("query", asked, "--index", tmp_path / "index", "--page", tmp_path / "page.html") == ""
    )
    assert len(capsys.readouterr().out.splitlines()) == 2  # the index's, and one neighbour
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Page(html).tags
    assert "onerror=alert(1)>" not in html
    assert [given["alt"].count("<img src=x") for tag, given in tags if tag == "img"] == [1, 1]
    loads = [given[key] for _, given in tags for key in ("src", "href") if key in given]
    assert all(address.startswith("data:") for address in loads)
    assert "url(" not in html
    assert "<script" not in html


def test_a_neighbour_that_is_gone_is_told_on_the_page(given, run, tmp_path):
    images = {f"{i}.png": as_file(np.full((8, 8), 80 * i, np.uint8)) for i in range(3)}
    layouts.spread(tmp_path / "images", images)
    build([tmp_path / "images"], str(given.weights), tmp_path / "index")
    (tmp_path / "images" / "2.png").unlink()
    asked = tmp_path / "images" / "0.png"
    assert (
        run("query", asked, "--index", tmp_path / "index", "--page", tmp_path / "page.html") == ""
    )
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("No longer to be read") == 1


def test_an_unreadable_image_is_named_and_nothing_is_left(index, tmp_path):
    layouts.spread(
        tmp_path / "images", {"a.png": as_file(np.zeros((8, 8), np.uint8)), "b.png": b"?"}
    )
    told = index(tmp_path / "images", tmp_path / "index")
    assert told == f"{tmp_path / 'images' / 'b.png'}: no image, or of an unknown format"
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_place_without_images_is_told(index, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    for place, told in {
        "empty": "empty holds no images; allowed are the endings .jpg, ",
        "absent": "absent is not there; allowed: image files, folders",
        "notes.txt": "notes.txt is neither an image nor a zip or tar",
    }.items():
        assert told in index(tmp_path / place, tmp_path / "index")
        assert not (tmp_path / "index").exists()


def test_an_index_of_another_model_is_refused(given, root, image_index, tmp_path, run):
    changed = tmp_path / "runs" / "digits" / "hbn" / "models" / "seed-0.safetensors"
    model = embedding_model.load(given.weights, torch.device("cpu"))
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    embedding_model.save(changed, model)
    shutil.copytree(root / "data", tmp_path / "data")
    asked = listed([root / "images"])[0].path
    told = run("query", asked, "--index", root / "index", "--model", changed)
    assert "is another model than the one that" in told
    same = tmp_path / "runs" / "digits" / "hbn" / "models" / "seed-9.safetensors"
    shutil.copy(given.weights, same)
    assert matching(image_index, str(same)).digest == image_index.digest


def test_a_folder_of_something_else_is_not_replaced(given, root, tmp_path):
    (tmp_path / "precious.txt").write_text("kept")
    with pytest.raises(InputError, match="is there already, and no index"):
        build([root / "images"], str(given.weights), tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "kept"


def test_an_index_is_replaced_by_a_new_one_whole(given, root, tmp_path):
    one, two = sorted((root / "images" / "7").iterdir())[:2]
    for image in (one, two):
        assert build([image], str(given.weights), tmp_path / "index") == 1
    assert [image.path for image in opened(tmp_path / "index").images] == [str(two)]


def test_an_index_that_is_missing_or_damaged_is_told(root, image_index, tmp_path):
    with pytest.raises(InputError, match="is no index; `python -m heated.search index` makes one"):
        opened(tmp_path / "absent")
    for name in ("embeddings.npy", "index.json"):
        folder = shutil.copytree(root / "index", tmp_path / name)
        (folder / name).write_bytes(b"{}")
        with pytest.raises(InputError, match="is damaged"):
            opened(folder)
        (folder / name).unlink()
        with pytest.raises(InputError, match="is no index"):
            opened(folder)


def test_what_is_no_model_is_told(given, root):
    for name, told in {
        "absent": "absent is no model; allowed: an address of MLflow's",
        "loose/models/seed-0.safetensors": "does not lie in runs/<dataset>/<method>/models",
        "runs/other/hbn/models/s.safetensors": "got the data set 'other', which",
    }.items():
        if name.endswith(".safetensors"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(given.weights, root / name)
        with pytest.raises(InputError, match=re.escape(told)):
            build([root / "images"], str(root / name), root / "none")
        assert not (root / "none").exists()


def test_top_is_a_whole_number_from_one_on(run, capsys):
    assert run("query", "a.png", "--index", "i", "--top", "0") == "2"
    assert "came '0'; allowed: whole numbers from 1 on" in capsys.readouterr().err
