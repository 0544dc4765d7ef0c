import math
from itertools import product

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

    def call(given, generator, **options):
        return function(
            given, generator and AugmentationRNG(generator, len(given), slice(None)), **options
        )

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


def test_only_the_generator_decides_and_the_given_images_stay(subtests):
    assert list(OPTIONS) == list(AUGMENTATIONS)
    for name, augment in AUGMENTATIONS.items():
        with subtests.test(name=name):
            given, state, options = images(), torch.get_rng_state(), OPTIONS[name]
            first, again, other = (augment(given, seeded(seed), **options) for seed in (1, 1, 2))
            assert torch.equal(first, again)
            assert not torch.equal(first, other)
            generator = seeded()
            one, two = (augment(given, generator, **options) for _ in range(2))
            assert not torch.equal(one, two)
            center = given[:, :, 1:7, 1:7] if "crop" in name else given
            assert torch.equal(augment(given, None, **options), center)
            assert torch.equal(given, images())
            assert torch.equal(torch.get_rng_state(), state)


def test_a_slice_of_a_batch_is_augmented_as_in_the_whole(subtests):
    for name, part in product(AUGMENTATIONS, [slice(0, 2), slice(2, 5), slice(1, 1)]):
        with subtests.test(name=name, part=part):
            generator, other = seeded(), seeded()
            whole = AUGMENTATIONS[name](images(), generator, **OPTIONS[name])
            rng = AugmentationRNG(other, 5, part)
            piece = transforms.AUGMENTATIONS[name](images()[part], rng, **OPTIONS[name])
            assert torch.equal(piece, whole[part])
            assert torch.equal(generator.get_state(), other.get_state())


# --- crop ------------------------------------------------------------------------------------


def test_a_crop_is_a_window_at_every_offset_but_the_last_as_in_the_authors_code():
    for height, width in ((12, 12), (10, 14)):
        given = torch.arange(30 * 3 * height * width).float().view(30, 3, height, width)
        out = crop(given, seeded(), size=8)
        assert out.shape == (30, 3, 8, 8)
        for before, after in zip(given, out, strict=True):
            top, left = divmod(int(after[0, 0, 0] - before[0, 0, 0]), width)
            assert torch.equal(after, before[:, top : top + 8, left : left + 8])
    given = torch.arange(MANY * 100).float().view(MANY, 1, 10, 10)
    corners = (crop(given, seeded(), size=6) - given[:, :, :6, :6])[:, 0, 0, 0].int()
    assert set((corners // 10).tolist()) == {0, 1, 2, 3}
    assert set((corners % 10).tolist()) == {0, 1, 2, 3}
    assert len(set(corners.tolist())) == 16  # rows and columns are independent


def test_a_crop_of_the_whole_image_is_the_image_and_a_larger_one_an_error():
    for generator in (None, seeded()):
        assert torch.equal(crop(images(), generator, size=9), images())
        with pytest.raises(InputError, match="crop: got size 10, expected at most .* 9 x 9"):
            crop(images(), generator, size=10)


# --- resized crop and flip -------------------------------------------------------------------


def ramps(count, side):
    """(count, 2, side, side): each pixel's position from left and from top, in [0, 1]."""
    positions = (torch.arange(side) + 0.5) / side
    ramp = torch.stack([positions.expand(side, side), positions[:, None].expand(side, side)])
    return ramp.expand(count, 2, side, side)


def test_a_resized_crop_is_an_upright_window_that_fills_its_ranges():
    out = resized_crop(ramps(MANY, 64), seeded(), size=32, min_scale=0.2, max_ratio=4 / 3)
    assert out[:, 0].std(dim=1).max() < 1e-5
    assert out[:, 1].std(dim=2).max() < 1e-5
    right, down = out[:, 0].mean(dim=1), out[:, 1].mean(dim=2)
    inner = 32 / 20  # from six pixels inside of either edge, where nothing is cut off
    width, height = ((edge[:, 25] - edge[:, 5]) * inner for edge in (right, down))
    left, top = right[:, 5] - 5.5 / 32 * width, down[:, 5] - 5.5 / 32 * height
    area, aspect = width * height, width / height
    assert 0.19 < area.min() < 0.23
    assert 0.93 < area.max() < 1.01
    close(area.mean(), torch.tensor(0.6), 0.03)
    assert 3 / 4 - 0.01 < aspect.min() < 0.78
    assert 1.29 < aspect.max() < 4 / 3 + 0.01
    for side, start in ((width, left), (height, top)):
        room = 1 - side
        position = (start / room)[room > 0.1]
        assert -0.02 < position.min() < 0.05
        assert 0.95 < position.max() < 1.02
        close(position.mean(), torch.tensor(0.5), 0.05)
    given = images(side=6)
    close(resized_crop(given, seeded(), size=6, min_scale=1, max_ratio=1), given, 1e-5)


def test_each_image_is_flipped_left_to_right_with_the_probability():
    out = flip(images(), seeded(), p=1.0)
    np.testing.assert_array_equal(out.numpy(), images().numpy()[:, :, :, ::-1])
    assert torch.equal(flip(images(), seeded(), p=0.0), images())
    given = images(count=2000, side=3)
    out = flip(given, seeded(), p=0.2)
    flipped = (out == given.flip(3)).flatten(1).all(dim=1)
    same = (out == given).flatten(1).all(dim=1)
    assert bool((flipped ^ same).all())
    assert flipped.float().mean().item() == pytest.approx(0.2, abs=0.03)


# --- affine ----------------------------------------------------------------------------------


def test_an_affine_map_fills_each_of_its_ranges_and_changes_nothing_else():
    close(affine(images(side=28), seeded(), **IDENTITY), images(side=28), 1e-5)
    x, y = positions_after(16, 0, degrees=40)
    close(torch.hypot(x, y), 16, 0.1)
    assert_fills(torch.atan2(y, x) * 180 / math.pi, 40, tolerance=0.2)
    x, y = positions_after(12, 12, scale=0.3)
    close(x, y, 0.1)
    assert_fills(x / 12 - 1, 0.3, tolerance=0.01)
    x, y = positions_after(0, 16, shear=30)
    close(y, 16, 0.1)
    assert_fills(torch.atan(x / 16) * 180 / math.pi, 30, tolerance=0.2)
    x, y = positions_after(0, 0, translate=0.25)
    for moved in (x, y):
        assert_fills(moved / 65, 0.25, tolerance=0.002)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_pixels_outside_the_image_are_0_and_channels_move_together():
    out = affine(torch.ones(MANY, 1, 8, 8), seeded(), **{**IDENTITY, "translate": 0.5})
    assert out.min() == 0
    assert out.max() <= 1 + 1e-6
    out = affine(images(channels=1).expand(-1, 3, -1, -1), seeded(), **OPTIONS["affine"])
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


# --- preprocess ------------------------------------------------------------------------------


def random_bytes(*shape):
    return torch.randint(256, shape, generator=seeded(), dtype=torch.uint8)


def test_preprocess_moves_channels_and_normalizes_by_mean_and_deviation():
    given = random_bytes(4, 6, 5, 3)
    out = preprocess(given, None, steps=[], mean=0.4, std=0.2)
    assert out.dtype == torch.float32
    close(out, (given.numpy().transpose(0, 3, 1, 2) / 255 - 0.4) / 0.2, 1e-5)


def test_the_steps_are_applied_in_order_and_at_test_time_without_a_generator():
    steps = [("affine", OPTIONS["affine"]), ("crop", {"size": 6}), ("flip", {"p": 0.5})]
    given = random_bytes(4, 10, 10, 1)
    out = preprocess(given, seeded(), steps=steps, mean=0.5, std=0.25)
    batch, generator = given.permute(0, 3, 1, 2) / 255, seeded()
    for name, options in steps:
        batch = AUGMENTATIONS[name](batch, generator, **options)
    close(out, (batch - 0.5) / 0.25, 1e-5)
    plain = preprocess(given, None, steps=[], mean=0.5, std=0.25)
    out = preprocess(given, None, steps=steps, mean=0.5, std=0.25)
    assert torch.equal(out, plain[:, :, 2:8, 2:8])
