import numpy as np
import pytest
import torch

from heated.data.batches import InMemoryImages, MemmapImages, device_images

CPU = torch.device("cpu")


def packed(count=20):
    images = np.random.default_rng(0).integers(256, size=(count, 4, 5, 3), dtype=np.uint8)
    return images, np.array([1, 3, 5, 7, 9, 11, 13])


PIECES = [torch.tensor(piece) for piece in ([6, 0], [1], [], [2, 3, 4], [5, 5])]


def test_held_and_mapped_images_give_the_same_batches_in_order(tmp_path):
    images, indices = packed()
    np.save(tmp_path / "images.npy", images)
    source = device_images(np.load(tmp_path / "images.npy", mmap_mode="r"), indices, CPU)
    assert isinstance(source, MemmapImages)
    assert isinstance(source.images, np.memmap)  # not loaded
    assert len(source) == len(indices)
    for count in range(len(PIECES) + 1):
        pieces = [piece.long() for piece in PIECES[:count]]
        held = list(InMemoryImages(torch.from_numpy(images[indices])).iter_batches(pieces))
        mapped = list(source.iter_batches(pieces))
        assert len(held) == len(mapped) == count
        for piece, one, other in zip(pieces, held, mapped, strict=True):
            expected = torch.from_numpy(images[indices[piece.numpy()]])
            assert torch.equal(one, expected)
            assert torch.equal(other, expected)
    with pytest.raises(IndexError):  # raised in the reading thread
        list(source.iter_batches([torch.tensor([0]), torch.tensor([99])]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_holds_what_fits_and_reads_the_same_from_a_map():
    images, indices = packed()
    device = torch.device("cuda")
    held = device_images(images, indices, device)
    assert isinstance(held, InMemoryImages)
    pieces = [piece.long() for piece in PIECES]
    mapped = MemmapImages(images, indices, device).iter_batches(pieces)
    for one, other in zip(held.iter_batches(pieces), mapped, strict=True):
        assert one.device.type == other.device.type == "cuda"
        assert torch.equal(one, other)
