import importlib
import re
import shutil
import sys

import layouts
import numpy as np
import pytest
import torch
from embedders import as_file, case
from layouts import full_disk
from reported import Page

from heated.common.errors import InputError
from heated.common.io import write_record
from heated.evaluation.metrics import retrieval_metrics
from heated.models.embedding_model import load_model, save_model
from heated.search import __main__ as command
from heated.search import index as indexing
from heated.search.index import build_index, list_images, open_index, search, search_exact

pytestmark = [
    pytest.mark.xdist_group("search"),  # one process builds the index
    pytest.mark.filterwarnings(  # faiss's own, when it is imported
        "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def model_case(tmp_path_factory):
    """A run of the pipeline, and its test images as files."""
    root = tmp_path_factory.mktemp("project")
    model_case = case("digits", root / "runs" / "digits" / "hbn")
    write_record(root / "data/resolved/packing/digits.json", {"packing": model_case.packing})
    pairs = zip(model_case.contents, model_case.labels, strict=True)
    files = {f"{label}/{i:04}.png": as_file(image) for i, (image, label) in enumerate(pairs)}
    layouts.write_files(root / "images", files)
    return model_case


@pytest.fixture(scope="module")
def root(model_case):
    return model_case.weights.parents[4]


@pytest.fixture(scope="module")
def image_index(model_case, root):
    build_index([root / "images"], str(model_case.weights), root / "index")
    return open_index(root / "index")


@pytest.fixture
def run(monkeypatch):
    """Run a command in this process and return its error message."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
        try:
            return command.main() or ""
        except SystemExit as error:
            return str(error)

    return run


@pytest.fixture
def run_index(model_case, run):
    return lambda images, out: run("index", images, "--model", model_case.weights, "--out", out)


def unit_rows(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def mean_overlap(numbers, expected):
    pairs = zip(numbers, expected, strict=True)
    return np.mean([len(set(a) & set(b)) for a, b in pairs])


def test_an_index_has_the_embed_stages_embeddings_and_the_evaluate_stages_recall(
    model_case, image_index
):
    assert len(image_index.images) == len(model_case.contents)
    order = [int(re.search(r"(\d+).png", image.path).group(1)) for image in image_index.images]
    embeddings, labels = model_case.embeddings[order], model_case.labels[order]
    np.testing.assert_allclose(image_index.embeddings, embeddings, atol=1e-5, rtol=0)
    assert isinstance(image_index.embeddings, np.memmap)
    assert not image_index.embeddings.flags.writeable
    _, numbers = search(image_index, image_index.embeddings, top=9)
    neighbors = np.array([[n for n in row if n != i][:8] for i, row in enumerate(numbers)])
    is_hit = labels[neighbors] == labels[:, None]
    recalls = {f"recall_at_{k}": is_hit[:, :k].any(axis=1).mean() for k in (1, 2, 4, 8)}
    tensors = torch.from_numpy(embeddings), torch.from_numpy(labels)
    expected = retrieval_metrics(*tensors, recall_at_k=[1, 2, 4, 8]).values
    assert recalls == {name: pytest.approx(expected[name], abs=1e-12) for name in recalls}
    assert 0.3 < recalls["recall_at_1"] < recalls["recall_at_8"]


def test_blocks_find_what_a_full_sort_finds(monkeypatch):
    unit = unit_rows(np.random.default_rng(0).normal(size=(60, 5)))
    unit[40:] = unit[:20]  # ties: the lower number is first
    products = unit[30:50].astype(np.float64) @ unit.T.astype(np.float64)
    expected = np.argsort(-products.round(6), axis=1, kind="stable")[:, :9]
    for rows in (1, 7, 1000):
        monkeypatch.setattr(indexing, "ROWS", rows)
        cosines, numbers = search_exact(unit, unit[30:50], top=9)
        assert np.array_equal(numbers, expected)
        nearest = np.take_along_axis(products, expected, axis=1)
        np.testing.assert_allclose(cosines, nearest, atol=1e-6)


def test_distances_are_ascending_and_top_is_limited_to_the_number_of_images(image_index):
    distances, numbers = search(image_index, image_index.embeddings[:1], top=10_000)
    assert sorted(numbers[0]) == list(range(len(image_index.images)))
    assert distances[0, 0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(distances[0]) >= 0).all()
    assert distances.min() >= 0


def test_many_images_are_searched_by_faiss(model_case, root, image_index, monkeypatch):
    pytest.importorskip("faiss", reason="searches with it")
    monkeypatch.setattr(indexing, "MANY", 100)
    monkeypatch.setattr(indexing, "CELLS_PER_PROBE", 2)
    build_index([root / "images"], str(model_case.weights), root / "large")
    large = open_index(root / "large")
    assert (root / "large" / "index.faiss").is_file()
    distances, numbers = search(large, large.embeddings, top=5)
    exact, expected = search(image_index, image_index.embeddings, top=5)
    assert np.array_equal(numbers[:, 0], expected[:, 0])
    assert mean_overlap(numbers, expected) > 4
    np.testing.assert_allclose(distances[:, 0], exact[:, 0], atol=1e-6)
    _, numbers = search(large, large.embeddings[:2], top=len(large.images))
    assert all(sorted(row) == list(range(len(large.images))) for row in numbers)


def test_faiss_finds_nearly_all_of_the_nearest(tmp_path):
    pytest.importorskip("faiss", reason="searches with it")
    random = np.random.default_rng(0)
    centers = random.normal(size=(50, 16))
    rows = centers[random.integers(50, size=20_000)] + 0.3 * random.normal(size=(20_000, 16))
    np.save(tmp_path / "unit.npy", unit_rows(rows))
    unit = np.load(tmp_path / "unit.npy", mmap_mode="r")  # as in an open index
    importlib.import_module("faiss.contrib.torch_utils")  # other code may import it
    indexing.write_faiss(tmp_path / "faiss", unit)
    cosines, numbers = indexing.search_faiss(tmp_path / "faiss", unit[:200], top=10)
    assert mean_overlap(numbers, search_exact(unit, unit[:200], top=10)[1]) > 9.5
    expected = np.take_along_axis(unit[:200] @ unit.T, numbers, axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_without_faiss_many_images_are_rejected_before_embedding(
    run_index, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(indexing, "MANY", 100)
    monkeypatch.setitem(sys.modules, "faiss", None)
    message = run_index(root / "images", tmp_path / "index")
    assert message.endswith("faiss, which is not installed. Run `pip install faiss-cpu`.")
    assert not any(tmp_path.iterdir())


def test_files_folders_and_archives_are_read_alike(model_case, root, image_index, tmp_path):
    paths = sorted((root / "images" / "7").iterdir())
    files = {path.name: path.read_bytes() for path in paths}
    layouts.write_files(tmp_path / "folder" / "deep", {**files, "notes.txt": b"no image"})
    layouts.write_zip(tmp_path / "images.zip", {**dict(reversed(files.items())), "a.txt": b""})
    layouts.write_tar(tmp_path / "images.tar.gz", files)
    for name in ("folder", "images.zip", "images.tar.gz"):
        pairs = indexing.read_images(list_images([tmp_path / name]))
        assert {str(image).rsplit("/", 1)[1]: content for image, content in pairs} == files
    assert [image.path for image in list_images([*paths, *paths])] == list(map(str, paths))
    places = [tmp_path / "images.zip", paths[0]]
    build_index(places, str(model_case.weights), tmp_path / "index")
    zipped = open_index(tmp_path / "index")
    for image, embedding in zip(zipped.images, zipped.embeddings, strict=True):
        ((nearest,),) = search(image_index, embedding[None], top=1)[1]
        assert str(image_index.images[nearest]).endswith(str(image).rsplit("/", 1)[1])


def test_the_query_command_prints_and_draws_the_images_nearest_to_one(
    run, root, image_index, tmp_path, capsys
):
    query = next((root / "images" / "7").iterdir())
    options = ["--index", root / "index", "--top", "4", "--page", tmp_path / "result.html"]
    assert run("query", query, *options) == ""
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    assert lines[0][1:] == ["0.0000", str(query)]
    page = Page((tmp_path / "result.html").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    captions = [f"neighbor {rank}, {name}" for rank, _, name in lines]
    assert [image["alt"] for image in images] == [f"the query, {query}", *captions]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)
    message = run("query", root / "images", "--index", root / "index")
    assert re.search(r"got \d+ images, expected one", message)
    assert run("query", "a.png", "--index", "i", "--top", "0") == "2"
    assert "got '0', expected an integer above 0" in capsys.readouterr().err


def test_the_page_escapes_names_loads_nothing_and_marks_images_that_are_gone(
    run, run_index, tmp_path, capsys
):
    name, page = "<img src=x onerror=alert(1)>&\"'\n.png", tmp_path / "page.html"
    image = as_file(np.full((9, 7), 40, np.uint8))
    layouts.write_files(tmp_path / "images", {name: image, "gone.png": image})
    run_index(tmp_path / "images", tmp_path / "index")
    (tmp_path / "images" / "gone.png").unlink()
    query = tmp_path / "images" / name
    assert run("query", query, "--index", tmp_path / "index", "--page", page) == ""
    assert len(capsys.readouterr().out.splitlines()) == 3  # the index's, and two neighbors
    html = page.read_text(encoding="utf-8")
    assert html.count("No longer readable") == 1
    assert not any(text in html for text in ("onerror=alert(1)>", "url(", "<script"))
    tags = [attributes for _, attributes in Page(html).tags]
    alts = [attributes["alt"] for attributes in tags if "alt" in attributes]
    assert [alt.count("<img src=x") for alt in alts] == [1, 1]
    links = [attributes[key] for attributes in tags for key in {"src", "href"} & {*attributes}]
    assert all(link.startswith("data:") for link in links)


def test_places_without_images_and_damaged_images_are_rejected(run_index, tmp_path):
    blank = as_file(np.zeros((8, 8), np.uint8))
    files = {"notes.txt": b"no image", "damaged/a.png": blank, "damaged/b.png": b"?"}
    layouts.write_files(tmp_path, files)
    (tmp_path / "empty").mkdir()
    for name, message in {
        "empty": "empty has no images, expected files that end in ('.jpg', ",
        "absent": "absent does not exist, expected image files, folders",
        "notes.txt": "notes.txt is not an image, zip or tar",
        "damaged": f"{tmp_path / 'damaged' / 'b.png'}: ",
    }.items():
        assert message in run_index(tmp_path / name, tmp_path / "index")
        assert {path.name for path in tmp_path.iterdir()} == {"empty", "notes.txt", "damaged"}


def test_only_an_equal_model_fits_the_index(model_case, root, image_index, tmp_path, run):
    folder = tmp_path / "runs" / "digits" / "hbn" / "models"
    model = load_model(model_case.weights, torch.device("cpu"))
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    save_model(folder / "seed-0.safetensors", model)
    shutil.copytree(root / "data", tmp_path / "data")
    query, changed = list_images([root / "images"])[0].path, folder / "seed-0.safetensors"
    message = run("query", query, "--index", root / "index", "--model", changed)
    assert "is not the model that" in message
    shutil.copy(model_case.weights, folder / "seed-9.safetensors")
    embedder = indexing.load_index_model(image_index, str(folder / "seed-9.safetensors"))
    assert embedder.digest == image_index.digest


def test_an_index_replaces_an_index_and_nothing_else(model_case, root, image_index, tmp_path):
    weights = str(model_case.weights)
    images = sorted((root / "images" / "7").iterdir())[:2]
    for image in images:
        assert build_index([image], weights, tmp_path / "index") == 1
    assert [image.path for image in open_index(tmp_path / "index").images] == [str(images[1])]
    (tmp_path / "empty").mkdir()
    assert build_index([images[0]], weights, tmp_path / "empty") == 1


PRECIOUS = {  # what a folder holds that is no index alone
    "a page": {"index.json": b'{"title": "mine"}'},
    "a list": {"index.json": b"[]"},
    "embeddings": {"embeddings.npy": b"mine"},
    "an index and a note": {"precious.txt": b"kept"},
    "an index and a folder": {"results/precious.txt": b"kept"},
    "an index and a hidden file": {".git/config": b"kept"},
}


@pytest.mark.parametrize("name", PRECIOUS)
def test_a_folder_that_holds_anything_else_is_kept(model_case, root, image_index, tmp_path, name):
    folder = tmp_path / "index"
    if name.startswith("an index"):
        shutil.copytree(root / "index", folder)
    layouts.write_files(folder, PRECIOUS[name])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="exists and is not an index alone: it holds"):
        build_index([root / "images"], str(model_case.weights), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_came_into_the_folder_while_images_were_embedded_is_kept(
    model_case, root, image_index, tmp_path, monkeypatch
):
    folder = shutil.copytree(root / "index", tmp_path / "index")
    embedder = indexing.find_model(str(model_case.weights))

    def find_model(name):
        (folder / "precious.txt").write_text("kept")
        return embedder

    monkeypatch.setattr(indexing, "find_model", find_model)
    with pytest.raises(InputError, match="is not an index alone: it holds .*precious.txt"):
        build_index([root / "images"], str(model_case.weights), folder)
    assert (folder / "precious.txt").read_text() == "kept"


def test_a_file_and_a_link_in_place_of_the_folder_are_kept(model_case, root, image_index, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(root / "index")
    for name in ("file", "link"):
        with pytest.raises(InputError, match="exists and is not an index alone"):
            build_index([root / "images"], str(model_case.weights), tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"
    assert (tmp_path / "link").readlink() == root / "index"


def test_a_missing_or_damaged_index_is_rejected(root, image_index, tmp_path):
    def check(message, folder):
        with pytest.raises(InputError, match=message):
            open_index(folder)

    check("is not an index. Make one by `python -m heated.search", tmp_path / "absent")
    for name in ("embeddings.npy", "index.json"):
        folder = shutil.copytree(root / "index", tmp_path / name)
        content = (folder / name).read_bytes()
        for broken in (b"", b"{}", b"<html>", b"\xff\xfe", b"[1]", content[:-9], content[:99]):
            (folder / name).write_bytes(broken)
            check("is damaged", folder)
        (folder / name).unlink()
        check("is not an index", folder)
    folder = shutil.copytree(root / "index", tmp_path / "short")
    for wrong in (image_index.embeddings[1:], image_index.embeddings.astype(np.float64)):
        np.save(folder / "embeddings.npy", wrong)
        check(r"short is damaged \(.*\)\. Index the images again", folder)
    np.save(folder / "embeddings.npy", image_index.embeddings[:, 1:])
    with pytest.raises(InputError, match="got embeddings of 15 dimensions, expected 16"):
        indexing.load_index_model(open_index(folder))


def test_a_damaged_index_of_faiss_is_rejected(root, image_index, tmp_path):
    pytest.importorskip("faiss", reason="reads with it")
    folder = shutil.copytree(root / "index", tmp_path / "index")
    (folder / "index.faiss").write_bytes(b"no index")
    with pytest.raises(InputError, match=r"index\.faiss is damaged .*Index the images again"):
        search(open_index(folder), image_index.embeddings[:1], top=1)


def test_tools_folders_are_left_out_linked_ones_named_and_names_are_only_names(
    run_index, root, tmp_path, capsys
):
    image = as_file(np.full((9, 7), 40, np.uint8))
    tools = [".ipynb_checkpoints", "@eaDir/1.png", ".Trash-0/files", "__MACOSX"]
    folder = tmp_path / "100%25 #1 ?x=y&z [a]*"
    layouts.write_files(folder, {"1.png": image, "2.heic": b"x", "3.txt": b"x"})
    layouts.write_files(folder, {f"{tool}/1.png": image for tool in tools})
    layouts.write_zip(zipped := tmp_path / "pictures", {"1.png": image, "@eaDir/1.png": image})
    inner = {"1.png": image, "backup.zip": zipped.read_bytes()}
    layouts.write_tar(tar := tmp_path / "a.zip", inner)
    for path in (folder, zipped, tar):
        assert run_index(path, tmp_path / "index of #1 ?") == ""
        printed = capsys.readouterr()
        assert ": 1 images" in printed.out
        assert f"{path}: left out: " in printed.err
        assert ".heic" in printed.err or path != folder
        assert len(open_index(tmp_path / "index of #1 ?").images) == 1
    (folder / "eel").symlink_to(root / "images")
    assert f"{folder / 'eel'}: got a link to a directory" in run_index(folder, tmp_path / "index")
    hidden = folder / ".ipynb_checkpoints/1.png"  # named by the user
    assert run_index(hidden, tmp_path / "index") == ""


def test_on_a_full_disk_an_index_is_not_half_written(model_case, root, image_index, tmp_path):
    folder = shutil.copytree(root / "index", tmp_path / "index")
    with full_disk(5_000), pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
        build_index([root / "images"], str(model_case.weights), folder)
    assert f"'{folder}" in str(caught.value)
    assert np.array_equal(open_index(folder).embeddings, image_index.embeddings)


def test_what_is_not_a_model_is_rejected(model_case, root):
    for name, message in {
        "absent": "absent, expected an MLflow URI",
        "loose/models/seed-0.safetensors": "is not in runs/<dataset>/<method>/models",
        "runs/other/hbn/models/s.safetensors": "got the data set 'other', which",
    }.items():
        if name.endswith(".safetensors"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model_case.weights, root / name)
        with pytest.raises(InputError, match=re.escape(message)):
            build_index([root / "images"], str(root / name), root / "none")
        assert not (root / "none").exists()
