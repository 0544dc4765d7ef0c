import math
from itertools import product

import numpy as np
import pytest
import torch

from heated.common.errors import InputError
from heated.data import transforms
from heated.data.transforms import Draws

OPTIONS = {
    "affine": {"degrees": 20, "scale": 0.2, "shear": 10, "shift": 0.2},
    "crop": {"size": 6},
    "resized_crop": {"size": 6, "smallest": 0.2, "aspect": 4 / 3},
    "flip": {"probability": 0.5},
}
STILL = {"degrees": 0, "scale": 0, "shear": 0, "shift": 0}
MANY = 400


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawing(function):
    """The function, drawing for all images from a generator."""

    def drawn(given, generator, **options):
        return function(given, generator and Draws(generator, len(given), slice(None)), **options)

    return drawn


AUGMENTATIONS = {name: drawing(function) for name, function in transforms.AUGMENTATIONS.items()}
affine, crop, resized_crop, flip = AUGMENTATIONS.values()
prepare = drawing(transforms.prepare)


def images(count=5, channels=2, side=9):
    return torch.rand(count, channels, side, side, generator=seeded(99))


def dots(x, y, *, side=65):
    """MANY images with a soft dot `x` to the right of the centre and `y` below it, in pixels."""
    axis = torch.arange(side) - side // 2
    squared = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    return torch.exp(-squared / 8).expand(MANY, 1, side, side)


def positions(batch):
    """(N,), (N,): each image's centre of mass, in pixels from its centre."""
    axis = torch.arange(batch.shape[-1]) - batch.shape[-1] // 2
    mass = batch.sum(dim=(1, 2, 3))
    across, down = batch.sum(dim=(1, 2)), batch.sum(dim=(1, 3))
    return across @ axis.float() / mass, down @ axis.float() / mass


def close(actual, expected, tolerance):
    # torch's own assert_close takes seconds to start
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)


def assert_fills(values, limit, *, tolerance):
    """Values lie in [-limit, limit] and come near both ends."""
    assert values.abs().max() <= limit + tolerance
    assert values.max() > 0.9 * limit
    assert values.min() < -0.9 * limit


# --- every augmentation ----------------------------------------------------------------------


def test_every_augmentation_is_tested_here():
    assert list(OPTIONS) == list(AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_alone_decides_and_moves_on_and_the_images_given_stay(name):
    given, state = images(), torch.get_rng_state()
    first, again, other = (
        AUGMENTATIONS[name](given, seeded(seed), **OPTIONS[name]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = seeded()
    one, two = (AUGMENTATIONS[name](given, generator, **OPTIONS[name]) for _ in range(2))
    assert not torch.equal(one, two)
    plain = AUGMENTATIONS[name](given, None, **OPTIONS[name])
    centre = given[:, :, 1:7, 1:7] if "crop" in name else given
    assert torch.equal(plain, centre)
    assert torch.equal(given, images())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_part_of_a_batch_is_augmented_as_in_the_whole(subtests):
    for name, part in product(AUGMENTATIONS, [slice(0, 2), slice(2, 5), slice(1, 1)]):
        with subtests.test(name=name, part=part):
            generator, other = seeded(), seeded()
            whole = AUGMENTATIONS[name](images(), generator, **OPTIONS[name])
            draws = Draws(other, 5, part)
            piece = transforms.AUGMENTATIONS[name](images()[part], draws, **OPTIONS[name])
            assert torch.equal(piece, whole[part])
            assert torch.equal(generator.get_state(), other.get_state())


# --- crop ------------------------------------------------------------------------------------


def test_a_crop_is_a_window_of_its_own_image():
    for height, width in ((12, 12), (10, 14)):
        given = torch.arange(30 * 3 * height * width).float().view(30, 3, height, width)
        out = crop(given, seeded(), size=8)
        assert out.shape == (30, 3, 8, 8)
        offsets = set()
        for before, after in zip(given, out, strict=True):
            top, left = divmod(int(after[0, 0, 0] - before[0, 0, 0]), width)
            assert torch.equal(after, before[:, top : top + 8, left : left + 8])
            offsets.add((top, left))
        assert len(offsets) > 3


def test_a_crop_takes_every_offset_but_the_last_as_in_the_authors_code():
    given = torch.arange(MANY * 100).float().view(MANY, 1, 10, 10)
    corners = (crop(given, seeded(), size=6) - given[:, :, :6, :6])[:, 0, 0, 0].int()
    assert set((corners // 10).tolist()) == {0, 1, 2, 3}
    assert set((corners % 10).tolist()) == {0, 1, 2, 3}
    assert len(set(corners.tolist())) == 16  # rows and columns are drawn apart


def test_a_crop_of_the_whole_image_is_the_image_and_a_larger_one_is_refused():
    for generator in (None, seeded()):
        assert torch.equal(crop(images(), generator, size=9), images())
        with pytest.raises(InputError, match="crop: size 10 is larger than the images, 9 x 9"):
            crop(images(), generator, size=10)


# --- resized crop and flip -------------------------------------------------------------------


def ramps(count, side):
    """(count, 2, side, side): each pixel's place from left and from top, in [0, 1]."""
    places = (torch.arange(side) + 0.5) / side
    ramp = torch.stack([places.expand(side, side), places[:, None].expand(side, side)])
    return ramp.expand(count, 2, side, side)


def windows(**options):
    """(MANY,) width, height, left and top of the windows drawn, as shares of a side of 64."""
    drawn = resized_crop(ramps(MANY, 64), seeded(), size=32, **options)
    across, down = drawn[:, 0].mean(dim=1), drawn[:, 1].mean(dim=2)
    inner = 32 / 20  # from six pixels inside of either edge, where nothing is cut off
    width, height = ((edge[:, 25] - edge[:, 5]) * inner for edge in (across, down))
    return width, height, across[:, 5] - 5.5 / 32 * width, down[:, 5] - 5.5 / 32 * height


def test_a_resized_crop_is_an_upright_window_of_its_own_image():
    drawn = resized_crop(ramps(50, 64), seeded(), size=32, smallest=0.2, aspect=4 / 3)
    assert drawn[:, 0].std(dim=1).max() < 1e-5
    assert drawn[:, 1].std(dim=2).max() < 1e-5


def test_a_window_fills_its_ranges_of_area_aspect_and_place():
    width, height, left, top = windows(smallest=0.2, aspect=4 / 3)
    area, aspect = width * height, width / height
    assert 0.19 < area.min() < 0.23
    assert 0.93 < area.max() < 1.01
    close(area.mean(), torch.tensor(0.6), 0.03)
    assert 3 / 4 - 0.01 < aspect.min() < 0.78
    assert 1.29 < aspect.max() < 4 / 3 + 0.01
    for side, start in ((width, left), (height, top)):
        room = 1 - side
        place = (start / room)[room > 0.1]
        assert -0.02 < place.min() < 0.05
        assert 0.95 < place.max() < 1.02
        close(place.mean(), torch.tensor(0.5), 0.05)


def test_a_window_of_the_whole_image_is_the_image():
    given = images(side=6)
    close(resized_crop(given, seeded(), size=6, smallest=1, aspect=1), given, 1e-5)


def test_a_flip_mirrors_left_to_right_with_its_probability():
    out = flip(images(), seeded(), probability=1.0)
    np.testing.assert_array_equal(out.numpy(), images().numpy()[:, :, :, ::-1])
    assert torch.equal(flip(images(), seeded(), probability=0.0), images())


def test_each_image_is_flipped_whole_and_by_itself_with_the_probability():
    given = images(count=2000, side=3)
    out = flip(given, seeded(), probability=0.2)
    mirrored = (out == given.flip(3)).flatten(1).all(dim=1)
    same = (out == given).flatten(1).all(dim=1)
    assert bool((mirrored ^ same).all())
    assert mirrored.float().mean().item() == pytest.approx(0.2, abs=0.03)


# --- affine ----------------------------------------------------------------------------------


def test_an_affine_of_no_limits_is_the_identity():
    out = affine(images(side=28), seeded(), **STILL)
    close(out, images(side=28), 1e-5)


def test_a_rotation_keeps_the_radius_and_fills_its_range_of_degrees():
    x, y = positions(affine(dots(16, 0), seeded(), **{**STILL, "degrees": 40}))
    close(torch.hypot(x, y), 16, 0.1)
    assert_fills(torch.atan2(y, x) * 180 / math.pi, 40, tolerance=0.2)


def test_a_scale_keeps_the_direction_and_fills_its_range():
    x, y = positions(affine(dots(12, 12), seeded(), **{**STILL, "scale": 0.3}))
    close(x, y, 0.1)
    assert_fills(x / 12 - 1, 0.3, tolerance=0.01)


def test_a_shear_keeps_the_row_and_fills_its_range_of_degrees():
    x, y = positions(affine(dots(0, 16), seeded(), **{**STILL, "shear": 30}))
    close(y, 16, 0.1)
    assert_fills(torch.atan(x / 16) * 180 / math.pi, 30, tolerance=0.2)


def test_a_shift_fills_its_share_of_a_side_both_ways_and_apart():
    x, y = positions(affine(dots(0, 0), seeded(), **{**STILL, "shift": 0.25}))
    for moved in (x, y):
        assert_fills(moved / 65, 0.25, tolerance=0.002)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_what_comes_in_from_outside_is_0_and_channels_move_together():
    out = affine(torch.ones(MANY, 1, 8, 8), seeded(), **{**STILL, "shift": 0.5})
    assert out.min() == 0
    assert out.max() <= 1 + 1e-6
    given = images(channels=1).expand(-1, 3, -1, -1)
    out = affine(given, seeded(), **OPTIONS["affine"])
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


# --- prepare ---------------------------------------------------------------------------------


def bytes_of(*shape):
    return torch.randint(256, shape, generator=seeded(), dtype=torch.uint8)


def test_prepare_turns_channels_and_scales_by_mean_and_deviation():
    given = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    out = prepare(given, None, steps=[], mean=0.5, std=0.5)
    assert out.dtype == torch.float32
    close(out[0, :, 0, 0], [-1, 1, -0.6], 1e-6)
    given = bytes_of(4, 6, 5, 3)
    out = prepare(given, None, steps=[], mean=0.4, std=0.2)
    expected = (given.numpy().transpose(0, 3, 1, 2) / 255 - 0.4) / 0.2
    close(out, expected, 1e-5)


def test_the_steps_are_taken_in_order_before_the_scaling():
    steps = [("affine", OPTIONS["affine"]), ("crop", {"size": 6}), ("flip", {"probability": 0.5})]
    given = bytes_of(4, 9, 9, 1)
    out = prepare(given, seeded(), steps=steps, mean=0.5, std=0.25)
    batch, generator = given.permute(0, 3, 1, 2) / 255, seeded()
    for name, options in steps:
        batch = AUGMENTATIONS[name](batch, generator, **options)
    close(out, (batch - 0.5) / 0.25, 1e-5)


def test_every_step_is_a_test_time_step_without_a_generator():
    steps = [("affine", OPTIONS["affine"]), ("crop", {"size": 6}), ("flip", {"probability": 1})]
    given = bytes_of(4, 10, 10, 1)
    plain = prepare(given, None, steps=[], mean=0.5, std=0.5)
    out = prepare(given, None, steps=steps, mean=0.5, std=0.5)
    assert torch.equal(out, plain[:, :, 2:8, 2:8])
