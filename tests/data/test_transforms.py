import numpy as np
import pytest
import torch

from heated.common.errors import InputError
from heated.data import transforms
from heated.data.transforms import AugmentationRNG

OPTIONS = {
    "affine": {"degrees": 20, "scale": 0.2, "shear": 10, "translate": 0.2},
    "crop": {"size": 6},
    "resized_crop": {"size": 6, "min_scale": 0.2, "max_ratio": 4 / 3},
    "flip": {"p": 0.5},
}
IDENTITY = {"degrees": 0, "scale": 0, "shear": 0, "translate": 0}
MANY = 400


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def with_generator(function):
    """The function with random numbers for all images from a generator."""

    def call(batch, generator, **options):
        rng = generator and AugmentationRNG(generator, len(batch), slice(None))
        return function(batch, rng, **options)

    return call


AUGMENTATIONS = {name: with_generator(each) for name, each in transforms.AUGMENTATIONS.items()}
affine, crop, resized_crop, flip = AUGMENTATIONS.values()
preprocess = with_generator(transforms.preprocess)


def images(count=5, channels=2, side=9):
    return torch.rand(count, channels, side, side, generator=seeded(99))


def positions_after(x, y, **options):
    """(MANY,), (MANY,): centers of dots after an affine map, in pixels from an image's center.

    Each dot is in an image of 65 pixels a side, `x` right of the center and `y` below it.
    """
    axis = torch.arange(65) - 32
    dots = torch.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
    batch = affine(dots.expand(MANY, 1, 65, 65), seeded(), **{**IDENTITY, **options})
    mass = batch.sum(dim=(1, 2, 3))
    right, down = batch.sum(dim=(1, 2)), batch.sum(dim=(1, 3))
    return right @ axis.float() / mass, down @ axis.float() / mass


def close(actual, expected, tolerance):
    # torch's own assert_close takes seconds to start
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)


def assert_fills(values, limit, *, tolerance):
    """Assert that values are in [-limit, limit] and near both ends."""
    assert values.abs().max() <= limit + tolerance
    assert values.max() > 0.9 * limit
    assert values.min() < -0.9 * limit


def test_only_the_generator_decides_and_its_input_stays(subtests):
    assert list(OPTIONS) == list(AUGMENTATIONS)
    for name, augment in AUGMENTATIONS.items():
        with subtests.test(name=name):
            batch, options, generator = images(), OPTIONS[name], seeded()
            state = torch.get_rng_state()
            first, other = (augment(batch, seeded(seed), **options) for seed in (0, 1))
            assert not torch.equal(first, other)
            assert torch.equal(augment(batch, generator, **options), first)
            after = generator.get_state()
            assert not torch.equal(augment(batch, generator, **options), first)
            center = batch[:, :, 1:7, 1:7] if "crop" in name else batch
            assert torch.equal(augment(batch, None, **options), center)
            assert torch.equal(batch, images())
            assert torch.equal(torch.get_rng_state(), state)
            for part in (slice(0, 2), slice(2, 5), slice(1, 1)):  # of the batch
                rng = AugmentationRNG(seeded(), 5, part)
                piece = transforms.AUGMENTATIONS[name](batch[part], rng, **options)
                assert torch.equal(piece, first[part])
                assert torch.equal(rng.generator.get_state(), after)


def test_a_crop_is_a_window_at_every_offset_but_the_last_as_in_the_authors_code():
    for height, width in ((12, 12), (10, 14)):
        batch = torch.arange(30 * 3 * height * width).float().view(30, 3, height, width)
        out = crop(batch, seeded(), size=8)
        assert out.shape == (30, 3, 8, 8)
        for before, after in zip(batch, out, strict=True):
            top, left = divmod(int(after[0, 0, 0] - before[0, 0, 0]), width)
            assert torch.equal(after, before[:, top : top + 8, left : left + 8])
    batch = torch.arange(MANY * 100).float().view(MANY, 1, 10, 10)
    corners = (crop(batch, seeded(), size=6) - batch[:, :, :6, :6])[:, 0, 0, 0].int()
    assert set((corners // 10).tolist()) == {0, 1, 2, 3}
    assert set((corners % 10).tolist()) == {0, 1, 2, 3}
    assert len(set(corners.tolist())) == 16  # rows and columns are independent


def test_a_crop_of_the_whole_image_is_the_image_and_a_larger_one_an_error():
    for generator in (None, seeded()):
        assert torch.equal(crop(images(), generator, size=9), images())
        with pytest.raises(InputError, match="crop: got size 10, expected at most .* 9 x 9"):
            crop(images(), generator, size=10)


def test_a_resized_crop_is_an_upright_window_that_fills_its_ranges():
    positions = (torch.arange(64) + 0.5) / 64
    ramps = torch.stack(torch.meshgrid(positions, positions, indexing="xy"))  # from left, from top
    batch = ramps.expand(MANY, 2, 64, 64)
    out = resized_crop(batch, seeded(), size=32, min_scale=0.2, max_ratio=4 / 3)
    assert out[:, 0].std(dim=1).max() < 1e-5
    assert out[:, 1].std(dim=2).max() < 1e-5
    right, down = out[:, 0].mean(dim=1), out[:, 1].mean(dim=2)
    inner = 32 / 20  # from six pixels inside of either edge, where nothing is cut off
    width, height = ((edge[:, 25] - edge[:, 5]) * inner for edge in (right, down))
    left, top = right[:, 5] - 5.5 / 32 * width, down[:, 5] - 5.5 / 32 * height
    area, aspect = width * height, width / height
    assert 0.19 < area.min() < 0.23
    assert 0.93 < area.max() < 1.01
    close(area.mean(), 0.6, 0.03)
    assert 3 / 4 - 0.01 < aspect.min() < 0.78
    assert 1.29 < aspect.max() < 4 / 3 + 0.01
    for side, start in ((width, left), (height, top)):
        room = 1 - side
        position = (start / room)[room > 0.1]
        assert -0.02 < position.min() < 0.05
        assert 0.95 < position.max() < 1.02
        close(position.mean(), 0.5, 0.05)
    batch = images(side=6)
    close(resized_crop(batch, seeded(), size=6, min_scale=1, max_ratio=1), batch, 1e-5)


def test_each_image_is_flipped_left_to_right_with_the_probability():
    out = flip(images(), seeded(), p=1.0)
    np.testing.assert_array_equal(out.numpy(), images().numpy()[:, :, :, ::-1])
    assert torch.equal(flip(images(), seeded(), p=0.0), images())
    batch = images(count=2000, side=3)
    out = flip(batch, seeded(), p=0.2)
    flipped = (out == batch.flip(3)).flatten(1).all(dim=1)
    same = (out == batch).flatten(1).all(dim=1)
    assert bool((flipped ^ same).all())
    assert flipped.float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_an_affine_map_fills_each_of_its_ranges_and_changes_nothing_else():
    close(affine(images(side=28), seeded(), **IDENTITY), images(side=28), 1e-5)
    x, y = positions_after(16, 0, degrees=40)
    close(torch.hypot(x, y), 16, 0.1)
    assert_fills(torch.atan2(y, x).rad2deg(), 40, tolerance=0.2)
    x, y = positions_after(12, 12, scale=0.3)
    close(x, y, 0.1)
    assert_fills(x / 12 - 1, 0.3, tolerance=0.01)
    x, y = positions_after(0, 16, shear=30)
    close(y, 16, 0.1)
    assert_fills(torch.atan(x / 16).rad2deg(), 30, tolerance=0.2)
    x, y = positions_after(0, 0, translate=0.25)
    assert_fills(x / 65, 0.25, tolerance=0.002)
    assert_fills(y / 65, 0.25, tolerance=0.002)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_pixels_outside_the_image_are_0_and_channels_move_together():
    out = affine(torch.ones(MANY, 1, 8, 8), seeded(), **{**IDENTITY, "translate": 0.5})
    assert out.min() == 0
    assert out.max() <= 1 + 1e-6
    out = affine(images(channels=1).expand(-1, 3, -1, -1), seeded(), **OPTIONS["affine"])
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


def test_preprocess_normalizes_after_the_steps_in_order_and_without_random_ones_at_test_time():
    steps = [("affine", OPTIONS["affine"]), ("crop", {"size": 6}), ("flip", {"p": 0.5})]
    pixels = torch.randint(256, (4, 10, 12, 3), generator=seeded(), dtype=torch.uint8)
    plain = preprocess(pixels, None, steps=[], mean=0.4, std=0.2)
    assert plain.dtype == torch.float32
    close(plain, (pixels.numpy().transpose(0, 3, 1, 2) / 255 - 0.4) / 0.2, 1e-5)
    out = preprocess(pixels, None, steps=steps, mean=0.4, std=0.2)
    assert torch.equal(out, plain[:, :, 2:8, 3:9])
    out = preprocess(pixels, seeded(), steps=steps, mean=0.4, std=0.2)
    batch, generator = pixels.permute(0, 3, 1, 2) / 255, seeded()
    for name, options in steps:
        batch = AUGMENTATIONS[name](batch, generator, **options)
    close(out, (batch - 0.4) / 0.2, 1e-5)
