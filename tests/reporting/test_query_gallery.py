import io
from base64 import b64decode
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from heated.common.io import write_arrays
from heated.reporting.gallery import (
    NEAREST,
    SMALL,
    THUMBNAIL,
    chosen_of,
    data_uri,
    examples,
    gallery,
    orders,
    scored,
)

KINDS = ["best", "typical", "worst"]
RANDOM = np.random.default_rng(0)


def drawn(seed, *, classes=6, size=4, apart=False):
    """Embeddings of noisy classes; where query and gallery are apart, each image is in one."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), size))
    centres = random.normal(size=(classes, 8))
    embeddings = centres[labels] + random.normal(size=(len(labels), 8))
    query = random.random(len(labels)) < 0.5 if apart else np.ones(len(labels), bool)
    return {
        "embeddings": embeddings.astype(np.float32),
        "labels": labels,
        "query": query,
        "gallery": ~query if apart else query,
    }


def by_hand(arrays):
    """MAP@R of each query that can be answered from a full sort, and all the gallery nearest
    first."""
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


def test_scores_and_neighbours_are_those_of_a_full_sort():
    for apart, seed in product([False, True], range(3)):
        arrays = drawn(seed, apart=apart)
        expected = by_hand(arrays)
        for shown in gallery(arrays, count=3, memory=16):
            score, others = expected[shown.query]
            assert shown.score == pytest.approx(score)
            assert shown.nearest == others[:NEAREST]
            assert shown.query not in shown.nearest
            assert arrays["query"][shown.query]
            assert arrays["gallery"][shown.nearest].all()
            same = arrays["labels"][shown.nearest] == arrays["labels"][shown.query]
            assert shown.right == same.tolist()


def test_best_and_worst_are_the_extremes_and_typical_is_next_to_the_median():
    for seed in range(3):
        arrays = drawn(seed)
        scores = [score for score, _ in by_hand(arrays).values()]
        first = {shown.kind: shown.score for shown in gallery(arrays, count=1, memory=16)}
        assert first["best"] == pytest.approx(max(scores))
        assert first["worst"] == pytest.approx(min(scores))
        nearest = min(abs(score - np.median(scores)) for score in scores)
        assert abs(first["typical"] - np.median(scores)) == pytest.approx(nearest)


def test_as_many_of_each_kind_are_shown_as_asked_for_of_different_classes_while_there_are_any():
    for classes, count in ((6, 1), (6, 3), (6, 6), (2, 5)):
        arrays = drawn(0, classes=classes)
        found = gallery(arrays, count=count, memory=16)
        assert [shown.kind for shown in found] == [kind for kind in KINDS for _ in range(count)]
        for kind in KINDS:
            queries = [shown.query for shown in found if shown.kind == kind]
            assert len(set(queries)) == count
            firsts = arrays["labels"][queries[:classes]]
            assert len(set(firsts)) == len(firsts)
    assert chosen_of(np.arange(5), np.array([0, 0, 1, 1, 2]), 4).tolist() == [0, 2, 4, 1]


def test_a_query_that_nothing_matches_is_left_out():
    arrays = drawn(2)
    lonely = int(np.flatnonzero(arrays["labels"] == 0)[0])
    arrays["labels"][lonely] = 99
    queries, _, _ = scored({k: torch.from_numpy(v) for k, v in arrays.items()}, 16)
    assert lonely not in queries
    assert len(queries) == len(arrays["labels"]) - 1


def test_equal_queries_are_ordered_by_the_size_of_their_class_then_by_number():
    scores = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    queries, relevant = np.array([4, 5, 7, 8, 9]), np.array([2, 3, 3, 1, 2])
    found = orders(queries, scores, relevant)
    assert queries[found["best"]].tolist() == [5, 7, 4, 9, 8]
    assert queries[found["worst"]].tolist() == [9, 8, 5, 7, 4]


def test_the_gallery_is_the_same_when_chosen_twice_and_with_any_memory():
    for seed in range(5):
        expected = gallery(drawn(seed), count=2, memory=16)
        for memory in (1, 16, 64):
            assert gallery(drawn(seed), count=2, memory=memory) == expected


def test_embeddings_that_are_all_alike_have_a_gallery_too():
    arrays = drawn(0)
    arrays["embeddings"][:] = 1
    found = gallery(arrays, count=2, memory=16)
    assert {shown.score for shown in found} == {0.0}
    assert not any(right for shown in found for right in shown.right)  # ties count against it


def opened(uri):
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(b64decode(body)))


def test_a_small_image_keeps_every_pixel_and_a_photograph_becomes_a_thumbnail():
    for channels, side in product([1, 3], [8, 28, SMALL, 256]):
        image = RANDOM.integers(0, 256, (side, side, channels), dtype=np.uint8)
        uri = data_uri(image)
        head, read = opened(uri)
        if side <= SMALL:
            assert head == "data:image/png;base64"
            assert np.array_equal(np.asarray(read).reshape(image.shape), image)
        else:
            assert head == "data:image/webp;base64"
            assert max(read.size) == THUMBNAIL
            assert len(uri) < 20_000  # of noise: the worst case


@pytest.fixture
def packed(tmp_path):
    """Ten images, of which the first four train and the others are tested, with embeddings in which
    the classes are apart; each image is filled with its number."""
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


def test_a_row_of_the_embeddings_is_shown_by_the_test_image_it_is_of(packed):
    found = examples(packed / "packed", packed / "seed-0.npz", count=2, memory=16)
    assert [each.kind for each in found] == [kind for kind in KINDS for _ in range(2)]
    shades = set()
    for each in found:
        assert each.score == 1.0
        for picture in (each.query, *each.nearest):
            shade = int(np.asarray(opened(picture.uri)[1])[0, 0])
            shades.add(shade)
            assert picture.class_name == ("cat" if shade % 2 == 0 else "dog")
            assert picture.right == (picture.class_name == each.query.class_name)
            assert picture.small
        assert [picture.right for picture in each.nearest] == [True, True, False, False, False]
    assert shades <= {4, 5, 6, 7, 8, 9}


def test_none_asked_for_reads_nothing_and_a_missing_file_names_the_stage_that_makes_it(packed):
    assert examples(packed, packed / "absent.npz", count=0, memory=16) == []
    for data, seed, stage in (("packed", 1, "embed"), ("other", 0, "split")):
        with pytest.raises(FileNotFoundError, match=f"the stage '{stage}' makes it"):
            examples(packed / data, packed / f"seed-{seed}.npz", count=1, memory=16)
