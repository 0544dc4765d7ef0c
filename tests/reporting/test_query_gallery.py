import io
from base64 import b64decode
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from heated.common.io import write_arrays
from heated.reporting import query_gallery
from heated.reporting.query_gallery import MAX_PNG_SIDE, data_uri, load_gallery, rank_queries

KINDS = ["best", "typical", "worst"]
RANDOM = np.random.default_rng(0)


def random_arrays(seed, *, classes=6, size=4, apart=False):
    """Return embeddings of noisy classes; with `apart` no query is in the gallery."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), size))
    centers = random.normal(size=(classes, 8))
    embeddings = (centers[labels] + random.normal(size=(len(labels), 8))).astype(np.float32)
    query = random.random(len(labels)) < 0.5 if apart else np.ones(len(labels), bool)
    gallery = ~query if apart else query
    return {"embeddings": embeddings, "labels": labels, "query": query, "gallery": gallery}


def by_hand(arrays):
    """Return MAP@R and the sorted gallery of each query with a match, from a full sort."""
    unit = arrays["embeddings"].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    results = {}
    for query in np.flatnonzero(arrays["query"]).tolist():
        ranked = [n for n in np.flatnonzero(arrays["gallery"]).tolist() if n != query]
        ranked.sort(key=lambda n, query=query: -(unit[n] @ unit[query]))
        right = arrays["labels"][ranked] == arrays["labels"][query]
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        if relevant := int(right.sum()):
            results[query] = (float((precision * right)[:relevant].sum() / relevant), ranked)
    return results


def test_scores_and_neighbors_are_those_of_a_full_sort_with_any_memory():
    for apart, seed in product([False, True], range(3)):
        arrays = random_arrays(seed, apart=apart)
        expected, queries = by_hand(arrays), rank_queries(arrays, count=3, memory_mib=16)
        for each in queries:
            score, ranked = expected[each.query]
            assert each.map_at_r == pytest.approx(score)
            assert each.neighbors == ranked[: query_gallery.NEIGHBORS]
        for memory_mib in (1, 64):
            assert rank_queries(arrays, count=3, memory_mib=memory_mib) == queries
        # Best and worst are the extremes, typical is closest to the median.
        scores = np.array([score for score, _ in expected.values()])
        first = {each.kind: each.map_at_r for each in queries[::3]}
        assert first["best"] == pytest.approx(scores.max())
        assert first["worst"] == pytest.approx(scores.min())
        distances = abs(scores - np.median(scores))
        assert abs(first["typical"] - np.median(scores)) == pytest.approx(distances.min())


def test_another_method_answers_the_same_queries_with_its_own_neighbors_and_scores():
    first, second = random_arrays(1), random_arrays(1)
    second["embeddings"] = RANDOM.normal(size=(24, 8)).astype(np.float32)
    chosen = [(e.kind, e.query) for e in rank_queries(first, count=2, memory_mib=16)]
    answers, expected = rank_queries(second, chosen, count=2, memory_mib=16), by_hand(second)
    assert [(each.kind, each.query) for each in answers] == chosen
    for each in answers:
        score, ranked = expected[each.query]
        assert each.map_at_r == pytest.approx(score)
        assert each.neighbors == ranked[: query_gallery.NEIGHBORS]


def test_each_kind_has_as_many_queries_as_asked_for_of_distinct_classes_if_possible():
    for classes, count in ((6, 1), (6, 3), (6, 6), (2, 5)):
        arrays = random_arrays(0, classes=classes)
        found = rank_queries(arrays, count=count, memory_mib=16)
        assert [each.kind for each in found] == [kind for kind in KINDS for _ in range(count)]
        for kind in KINDS:
            queries = [each.query for each in found if each.kind == kind]
            assert len(set(queries)) == count
            firsts = arrays["labels"][queries[:classes]]
            assert len(set(firsts)) == len(firsts)


def test_a_query_without_a_match_is_left_out():
    arrays = random_arrays(2)
    arrays["labels"][3] = 99
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    queries, _, _ = query_gallery.score_queries(tensors, 16)
    assert queries.tolist() == [n for n in range(len(arrays["labels"])) if n != 3]


def test_ties_are_broken_by_the_size_of_the_class_then_by_index():
    arrays = random_arrays(0, classes=3)
    arrays["embeddings"][:] = 1
    arrays["labels"] = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 0, 1])
    found = rank_queries(arrays, count=3, memory_mib=16)
    for each in found:
        assert each.map_at_r == 0  # ties count against the query
        assert not (arrays["labels"][each.neighbors] == arrays["labels"][each.query]).any()
    assert [each.query for each in found] == [2, 5, 0] * len(KINDS)


def decode_uri(uri):
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(b64decode(body)))


def test_a_small_image_keeps_every_pixel_and_a_photograph_becomes_a_thumbnail():
    for channels, side in product([1, 3], [8, MAX_PNG_SIDE, 256]):
        image = RANDOM.integers(0, 256, (side, side, channels), dtype=np.uint8)
        uri = data_uri(image)
        head, decoded = decode_uri(uri)
        small = side <= MAX_PNG_SIDE
        assert head == f"data:image/{'png' if small else 'webp'};base64"
        if small:
            assert np.array_equal(np.asarray(decoded).reshape(image.shape), image)
        else:
            assert max(decoded.size) == query_gallery.THUMBNAIL
            assert len(uri) < 20_000  # of noise: the worst case


@pytest.fixture
def ten_images(tmp_path):
    """Ten images that are filled with their index, four of them for training, and embeddings."""
    packed = tmp_path / "packed"
    packed.mkdir()
    labels, tested = np.array([0, 0, 1, 1, 2, 3, 2, 3, 2, 3]), np.arange(10) >= 4
    np.save(packed / "images.npy", np.arange(10, dtype=np.uint8).repeat(64).reshape(10, 8, 8, 1))
    masks = {"train": ~tested, "query": tested, "gallery": tested}
    names = np.array(["ape", "bee", "cat", "dog"])
    index = {"labels": labels, "class_names": names, "tested": np.array("test classes"), **masks}
    write_arrays(packed / "index.npz", **index)
    noise = RANDOM.normal(size=(2, 6, 4))
    vectors = {"hbn": np.eye(4)[labels[tested]] + 0.01 * noise[0], "bn": noise[1]}
    rows = {"labels": labels[tested], "query": np.ones(6, bool), "gallery": np.ones(6, bool)}
    for method, each in vectors.items():
        write_arrays(tmp_path / f"{method}.npz", embeddings=each.astype(np.float32), **rows)
    return packed, {method: tmp_path / f"{method}.npz" for method in vectors}


def test_a_row_of_the_embeddings_is_shown_as_its_test_image(ten_images):
    found = load_gallery(*ten_images, count=2, memory_mib=16)
    assert [each.kind for each in found] == [kind for kind in KINDS for _ in range(2)]
    for each in found:
        assert [row.method for row in each.rows] == ["hbn", "bn"]
        row, other = each.rows
        assert row.map_at_r == 1.0 > other.map_at_r
        assert {image.uri for image in row.neighbors} == {image.uri for image in other.neighbors}
        for image in (each.query, *row.neighbors, *other.neighbors):
            value = int(np.asarray(decode_uri(image.uri)[1])[0, 0])
            assert 4 <= value <= 9
            assert image.class_name == ("cat" if value % 2 == 0 else "dog")
            assert image.matches == (image.class_name == each.query.class_name)
            assert image.pixelated
        assert [image.matches for image in row.neighbors] == [True, True, False, False, False]


def test_a_missing_file_names_its_stage_and_without_queries_none_is_read(ten_images, tmp_path):
    packed, paths = ten_images
    absent = {**paths, "bn": tmp_path / "absent.npz"}
    with pytest.raises(FileNotFoundError, match="'embed'"):
        load_gallery(packed, absent, count=1, memory_mib=16)
    with pytest.raises(FileNotFoundError, match="'split'"):
        load_gallery(tmp_path / "other", paths, count=1, memory_mib=16)
    assert load_gallery(packed, absent, count=0, memory_mib=16) == []
