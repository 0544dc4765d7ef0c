import io
from base64 import b64decode
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from heated.common.io import write_arrays
from heated.reporting.query_gallery import (
    MAX_PNG_SIDE,
    NEIGHBORS,
    THUMBNAIL,
    data_uri,
    load_gallery,
    prefer_distinct,
    score_queries,
    select_queries,
)

KINDS = ["best", "typical", "worst"]
RANDOM = np.random.default_rng(0)


def random_arrays(seed, *, classes=6, size=4, apart=False):
    """Return embeddings of noisy classes; with `apart` no query is in the gallery."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), size))
    centers = random.normal(size=(classes, 8))
    embeddings = centers[labels] + random.normal(size=(len(labels), 8))
    query = random.random(len(labels)) < 0.5 if apart else np.ones(len(labels), bool)
    return {
        "embeddings": embeddings.astype(np.float32),
        "labels": labels,
        "query": query,
        "gallery": ~query if apart else query,
    }


def by_hand(arrays):
    """Return MAP@R and the sorted gallery of each query with a match, from a full sort."""
    unit = arrays["embeddings"].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = {}
    for query in np.flatnonzero(arrays["query"]):
        others = [n for n in np.flatnonzero(arrays["gallery"]) if n != query]
        others.sort(key=lambda n, query=query: -(unit[n] @ unit[query]))
        right = arrays["labels"][others] == arrays["labels"][query]
        relevant = int(right.sum())
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        if relevant:
            score = float((precision * right)[:relevant].sum() / relevant)
            found[int(query)] = (score, [int(n) for n in others])
    return found


def test_scores_and_neighbors_are_those_of_a_full_sort_with_any_memory():
    for apart, seed in product([False, True], range(3)):
        arrays = random_arrays(seed, apart=apart)
        expected, found = by_hand(arrays), select_queries(arrays, count=3, memory_mib=16)
        for each in found:
            score, others = expected[each.query]
            assert each.map_at_r == pytest.approx(score)
            assert each.neighbors == others[:NEIGHBORS]
            assert each.query not in each.neighbors
            assert arrays["query"][each.query]
            assert arrays["gallery"][each.neighbors].all()
        for memory_mib in (1, 64):
            assert select_queries(arrays, count=3, memory_mib=memory_mib) == found


def test_best_and_worst_are_the_extremes_and_typical_is_closest_to_the_median():
    for seed in range(3):
        arrays = random_arrays(seed)
        scores = np.array([score for score, _ in by_hand(arrays).values()])
        first = {q.kind: q.map_at_r for q in select_queries(arrays, count=1, memory_mib=16)}
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
    assert prefer_distinct(np.arange(5), np.array([0, 0, 1, 1, 2]), 4).tolist() == [0, 2, 4, 1]


def test_a_query_without_a_match_is_left_out():
    arrays = random_arrays(2)
    single = int(np.flatnonzero(arrays["labels"] == 0)[0])
    arrays["labels"][single] = 99
    queries, _, _ = score_queries({k: torch.from_numpy(v) for k, v in arrays.items()}, 16)
    assert single not in queries
    assert len(queries) == len(arrays["labels"]) - 1


def test_ties_are_broken_by_the_size_of_the_class_then_by_index():
    arrays = random_arrays(0, classes=3)
    arrays["embeddings"][:] = 1
    arrays["labels"] = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 0, 1])
    found = select_queries(arrays, count=3, memory_mib=16)
    assert {each.map_at_r for each in found} == {0.0}  # ties count against the query
    for kind in KINDS:
        assert [each.query for each in found if each.kind == kind] == [2, 5, 0]
    for each in found:
        assert not (arrays["labels"][each.neighbors] == arrays["labels"][each.query]).any()


def decode_uri(uri):
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(b64decode(body)))


def test_a_small_image_keeps_every_pixel_and_a_photograph_becomes_a_thumbnail():
    for channels, side in product([1, 3], [8, 28, MAX_PNG_SIDE, 256]):
        image = RANDOM.integers(0, 256, (side, side, channels), dtype=np.uint8)
        uri = data_uri(image)
        head, read = decode_uri(uri)
        if side <= MAX_PNG_SIDE:
            assert head == "data:image/png;base64"
            assert np.array_equal(np.asarray(read).reshape(image.shape), image)
        else:
            assert head == "data:image/webp;base64"
            assert max(read.size) == THUMBNAIL
            assert len(uri) < 20_000  # of noise: the worst case


@pytest.fixture
def packed(tmp_path):
    """Ten images filled with their index, four of them for training, with separated embeddings."""
    labels = np.array([0, 0, 1, 1, 2, 3, 2, 3, 2, 3])
    tested = np.arange(10) >= 4
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 8, 8, 1))
    (tmp_path / "packed").mkdir()
    np.save(tmp_path / "packed/images.npy", images)
    masks = {"train": ~tested, "query": tested, "gallery": tested}
    names = np.array(["ape", "bee", "cat", "dog"])
    index = {"labels": labels, "class_names": names, "tested": np.array("test classes"), **masks}
    write_arrays(tmp_path / "packed/index.npz", **index)
    kept = {"labels": labels[tested], "query": masks["query"][tested]}
    embeddings = np.eye(4, dtype=np.float32)[kept["labels"]]
    embeddings += 0.01 * RANDOM.normal(size=embeddings.shape).astype(np.float32)
    write_arrays(tmp_path / "seed-0.npz", embeddings=embeddings, gallery=kept["query"], **kept)
    return tmp_path


def test_a_row_of_the_embeddings_is_shown_as_its_test_image(packed):
    found = load_gallery(packed / "packed", packed / "seed-0.npz", count=2, memory_mib=16)
    assert [each.kind for each in found] == [kind for kind in KINDS for _ in range(2)]
    values = set()
    for each in found:
        assert each.map_at_r == 1.0
        for image in (each.query, *each.neighbors):
            value = int(np.asarray(decode_uri(image.uri)[1])[0, 0])
            values.add(value)
            assert image.class_name == ("cat" if value % 2 == 0 else "dog")
            assert image.matches == (image.class_name == each.query.class_name)
            assert image.pixelated
        assert [image.matches for image in each.neighbors] == [True, True, False, False, False]
    assert values <= {4, 5, 6, 7, 8, 9}


def test_a_count_of_0_reads_nothing_and_an_error_names_the_stage_of_a_missing_file(packed):
    assert load_gallery(packed, packed / "absent.npz", count=0, memory_mib=16) == []
    for data, seed, stage in (("packed", 1, "embed"), ("other", 0, "split")):
        with pytest.raises(FileNotFoundError, match=f"'{stage}'"):
            load_gallery(packed / data, packed / f"seed-{seed}.npz", count=1, memory_mib=16)
