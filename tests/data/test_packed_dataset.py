import numpy as np
import pytest
import torch

from heated.common.errors import InputError
from heated.common.io import write_arrays
from heated.data.packed_dataset import InMemoryImages, MemmapImages, device_images, load_packed

IMAGES = np.random.default_rng(0).integers(256, size=(20, 4, 5, 3), dtype=np.uint8)
INDICES = np.array([1, 3, 5, 7, 9, 11, 13])
BATCHES = [torch.tensor(batch).long() for batch in ([6, 0], [1], [], [2, 3, 4], [5, 5])]


def test_images_in_memory_and_in_a_map_give_the_same_batches_in_order(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    mapped = device_images(images, INDICES, torch.device("cpu"))
    assert isinstance(mapped, MemmapImages)
    assert isinstance(mapped.images, np.memmap)  # not loaded
    assert len(mapped) == len(INDICES)
    in_memory = InMemoryImages(torch.from_numpy(IMAGES[INDICES]))
    for count in range(len(BATCHES) + 1):
        expected = [torch.from_numpy(IMAGES[INDICES[batch.numpy()]]) for batch in BATCHES[:count]]
        for source in (in_memory, mapped):
            batches = source.iter_batches(BATCHES[:count])
            assert all(torch.equal(*pair) for pair in zip(expected, batches, strict=True))
    with pytest.raises(IndexError):  # raised in the reading thread
        list(mapped.iter_batches([torch.tensor([0]), torch.tensor([99])]))


MASK = np.arange(20) < 10
INDEX = {
    "labels": np.arange(20) % 4,
    "class_names": np.array(list("abcd")),
    "tested": np.array("test classes"),
    **{"train": MASK, "query": ~MASK, "gallery": ~MASK},
}
WRONG = {  # by what is wrong: arrays of the two files
    "fewer images": {"images": IMAGES[:19]},
    "images of another type": {"images": IMAGES.astype(np.float32)},
    "images without channels": {"images": IMAGES[..., 0]},
    "fewer labels": {"labels": INDEX["labels"][:19]},
    "labels of another type": {"labels": INDEX["labels"].astype(np.int32)},
    "a label without a class": {"labels": INDEX["labels"] + 1},
    "a negative label": {"labels": INDEX["labels"] - 1},
    "a mask of another size": {"train": MASK[:5]},
    "a mask of numbers": {"query": MASK.astype(np.int64)},
    "no mask": {"gallery": None},
    "no classes": {"class_names": None},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arrays_of_a_wrong_shape_or_type_are_refused(tmp_path, wrong):
    folder = tmp_path / "data/packed/digits"
    arrays = {"images": IMAGES, **INDEX, **WRONG[wrong]}
    write_arrays(folder / "index.npz", **{k: v for k, v in arrays.items() if v is not None})
    np.save(folder / "images.npy", arrays["images"])
    with pytest.raises(InputError, match=r"data/packed/digits/\w+\.np[yz] is damaged .*'split'"):
        load_packed(folder)


def test_damaged_images_and_those_of_another_shape_than_the_settings_are_refused(tmp_path):
    folder = tmp_path / "data/packed/digits"
    write_arrays(folder / "index.npz", **INDEX)
    np.save(folder / "images.npy", IMAGES)
    assert load_packed(folder, [4, 5, 3]).images.shape == IMAGES.shape
    with pytest.raises(InputError, match=r"got uint8 of shape \(20, 4, 5, 3\), expected .*8, 8, 1"):
        load_packed(folder, [8, 8, 1])
    content = (folder / "images.npy").read_bytes()
    for broken in (content[:-1], content[:9], b"", b"<html>", b"\0" * 999):
        (folder / "images.npy").write_bytes(broken)
        with pytest.raises(InputError, match=r"images\.npy is damaged .*runs the stage 'split'"):
            load_packed(folder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_holds_what_fits_and_reads_the_same_from_a_map():
    device = torch.device("cuda")
    in_memory = device_images(IMAGES, INDICES, device)
    assert isinstance(in_memory, InMemoryImages)
    mapped = MemmapImages(IMAGES, INDICES, device).iter_batches(BATCHES)
    for one, other in zip(in_memory.iter_batches(BATCHES), mapped, strict=True):
        assert one.device.type == other.device.type == "cuda"
        assert torch.equal(one, other)
