import io
from base64 import b64decode
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from heated.common.io import write_arrays
from heated.reporting import query_gallery
from heated.reporting.query_gallery import MAX_PNG_SIDE, data_uri, load_gallery, select_queries

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
        expected, queries = by_hand(arrays), select_queries(arrays, count=3, memory_mib=16)
        for each in queries:
            score, ranked = expected[each.query]
            assert each.map_at_r == pytest.approx(score)
            assert each.neighbors == ranked[: query_gallery.NEIGHBORS]
        for memory_mib in (1, 64):
            assert select_queries(arrays, count=3, memory_mib=memory_mib) == queries
        # Best and worst are the extremes, typical is closest to the median.
        scores = np.array([score for score, _ in expected.values()])
        first = {each.kind: each.map_at_r for each in queries[::3]}
        assert first["best"] == pytest.approx(scores.max())
        assert first["worst"] == pytest.approx(scores.min())
        distances = abs(scores - np.median(scores))
        assert abs(first["typical"] - np.median(scores)) == pytest.approx(distances.min())


def test_each_kind_has_as_many_queries_as_asked_for_of_distinct_classes_if_possible():
    for classes, count in ((6, 1), (6, 3), (6, 6), (2, 5)):
        arrays = random_arrays(0, classes=classes)
        found = select_queries(arrays, count=count, memory_mib=16)
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
    found = select_queries(arrays, count=3, memory_mib=16)
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


def test_a_row_of_the_embeddings_is_shown_as_its_test_image(tmp_path):
    """Ten images are filled with their index, four of them for training."""
    packed, path = tmp_path / "packed", tmp_path / "seed-0.npz"
    packed.mkdir()
    labels, tested = np.array([0, 0, 1, 1, 2, 3, 2, 3, 2, 3]), np.arange(10) >= 4
    np.save(packed / "images.npy", np.arange(10, dtype=np.uint8).repeat(64).reshape(10, 8, 8, 1))
    masks = {"train": ~tested, "query": tested, "gallery": tested}
    names = np.array(["ape", "bee", "cat", "dog"])
    index = {"labels": labels, "class_names": names, "tested": np.array("test classes"), **masks}
    write_arrays(packed / "index.npz", **index)
    embeddings = np.eye(4, dtype=np.float32)[labels[tested]]
    embeddings += 0.01 * RANDOM.normal(size=embeddings.shape).astype(np.float32)
    every = np.ones(len(embeddings), bool)
    rows = {"labels": labels[tested], "query": every, "gallery": every}
    write_arrays(path, embeddings=embeddings, **rows)
    found = load_gallery(packed, path, count=2, memory_mib=16)
    assert [each.kind for each in found] == [kind for kind in KINDS for _ in range(2)]
    for each in found:
        assert each.map_at_r == 1.0
        for image in (each.query, *each.neighbors):
            value = int(np.asarray(decode_uri(image.uri)[1])[0, 0])
            assert 4 <= value <= 9
            assert image.class_name == ("cat" if value % 2 == 0 else "dog")
            assert image.matches == (image.class_name == each.query.class_name)
            assert image.pixelated
        assert [image.matches for image in each.neighbors] == [True, True, False, False, False]
    with pytest.raises(FileNotFoundError, match="'embed'"):
        load_gallery(packed, tmp_path / "seed-1.npz", count=1, memory_mib=16)
    with pytest.raises(FileNotFoundError, match="'split'"):
        load_gallery(tmp_path / "other", path, count=1, memory_mib=16)
    assert load_gallery(packed, tmp_path / "absent.npz", count=0, memory_mib=16) == []  # none read
