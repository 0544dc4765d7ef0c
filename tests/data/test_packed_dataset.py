import numpy as np
import pytest
import torch

from heated.data.packed_dataset import InMemoryImages, MemmapImages, device_images

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
