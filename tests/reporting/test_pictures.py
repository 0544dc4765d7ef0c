import io
from base64 import b64decode
from itertools import product

import numpy as np
import pytest
from PIL import Image

from heated.common.io import write_arrays
from heated.reporting.pictures import SMALL, THUMBNAIL, by_kind, data_uri, examples

RANDOM = np.random.default_rng(0)


def opened(uri):
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(b64decode(body)))


def test_a_small_image_keeps_every_pixel(subtests):
    for channels, side in product([1, 3], [8, 28, SMALL]):
        with subtests.test(channels=channels, side=side):
            image = RANDOM.integers(0, 256, (side, side, channels), dtype=np.uint8)
            head, read = opened(data_uri(image))
            assert head == "data:image/png;base64"
            assert np.array_equal(np.asarray(read).reshape(image.shape), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_becomes_a_thumbnail_of_a_few_kilobytes(channels):
    image = RANDOM.integers(0, 256, (256, 256, channels), dtype=np.uint8)  # noise: the worst case
    uri = data_uri(image)
    head, read = opened(uri)
    assert head == "data:image/webp;base64"
    assert max(read.size) == THUMBNAIL
    assert len(uri) < 20_000


@pytest.fixture
def written(tmp_path):
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


def test_a_row_of_the_embeddings_is_shown_by_the_test_image_it_is_of(written):
    found = examples(written / "packed", written / "seed-0.npz", count=2, memory=16)
    assert [*by_kind(found)] == ["best", "typical", "worst"]
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


def test_none_asked_for_reads_nothing(tmp_path):
    assert examples(tmp_path, tmp_path / "absent.npz", count=0, memory=16) == []


def test_a_missing_file_names_the_stage_that_makes_it(written):
    with pytest.raises(FileNotFoundError, match="the stage 'embed' makes it"):
        examples(written / "packed", written / "seed-1.npz", count=1, memory=16)
    with pytest.raises(FileNotFoundError, match="the stage 'split' makes it"):
        examples(written / "other", written / "seed-0.npz", count=1, memory=16)
