import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageChops

from heated.preprocessing import decoding
from heated.preprocessing.decoding import (
    LARGEST,
    UPRIGHT,
    DamagedImage,
    decode,
    judged,
    one_thread,
    opened,
    plain,
)

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(COLOUR).resize((500, 375), Image.Resampling.BICUBIC))


def file(image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(content, size=8, *, fit="squash", colour="rgb", filter="bilinear"):
    return decode(content, size=size, fit=fit, colour=colour, filter=filter)


def flat(mode, value, size=(9, 7)):
    return Image.new(mode, size, value)


def one_colour(content):
    """The only colour of the image, as its channels."""
    (colour,) = {tuple(pixel) for pixel in square(content).reshape(-1, 3).tolist()}
    return colour


def test_every_choice_gives_a_square_of_its_channels(subtests):
    for colour, fit, filter, given in product(
        ["rgb", "grey", "inverted"],
        ["squash", "crop"],
        ["bilinear", "lanczos"],
        [COLOUR, GREY, file(COLOUR, "PNG"), file(GREY, "JPEG")],
    ):
        with subtests.test(colour=colour, fit=fit, filter=filter, given=given):
            image = square(given, 11, fit=fit, colour=colour, filter=filter)
            assert image.shape == (11, 11, 3 if colour == "rgb" else 1)
            assert image.dtype == np.uint8


def test_squashing_is_pillows_within_one_level(subtests):
    for size, filter in product([7, 64, 256, 600], ["bilinear", "lanczos"]):
        with subtests.test(size=size, filter=filter):
            for pixels in (SMOOTH, COLOUR):
                image = square(pixels, size, filter=filter).astype(int)
                pillows = Image.fromarray(pixels).resize((size, size), decoding.FILTERS[filter])
                assert np.abs(image - np.asarray(pillows)).max() <= (
                    1 if filter == "bilinear" else 0
                )


def test_the_filters_differ():
    assert (square(SMOOTH, 64) != square(SMOOTH, 64, filter="lanczos")).any()


def test_shrinking_averages_where_a_pick_of_pixels_would_flicker():
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for given in (board, np.stack([board] * 3, axis=2)):
        assert np.abs(square(given).astype(int) - 127).max() < 40


def test_a_crop_is_the_centred_square_and_a_squash_is_all():
    sides = np.zeros((10, 30, 3), dtype=np.uint8)
    sides[:, 10:20] = 200
    assert set(square(sides, fit="crop").ravel()) == {200}
    assert set(square(sides.swapaxes(0, 1), fit="crop").ravel()) == {200}
    squashed = square(sides, fit="squash")
    assert squashed.min() == 0
    assert 190 < squashed.max() <= 200


def test_grey_becomes_rgb_by_repetition():
    image = square(GREY)
    np.testing.assert_array_equal(image, square(GREY, colour="grey").repeat(3, axis=2))


def test_inverted_is_255_less_the_grey():
    for given in (GREY, COLOUR, file(COLOUR, "JPEG")):
        image = square(given, colour="inverted")
        np.testing.assert_array_equal(image, 255 - square(given, colour="grey"))


def test_rgb_becomes_the_grey_of_its_luma():
    for colour, luma in (("red", 76), ("lime", 150), ("blue", 29), ("white", 255)):
        image = square(file(flat("RGB", colour), "PNG"), colour="grey")
        assert set(image.ravel()) == {luma}


def test_an_image_of_the_size_is_left_as_it_is():
    np.testing.assert_array_equal(square(COLOUR[:, :20], 20), COLOUR[:, :20])
    np.testing.assert_array_equal(square(file(GREY[:, :20], "PNG"), 20)[..., 0], GREY[:, :20])


def test_palette_and_one_bit_become_colours():
    assert one_colour(file(flat("RGB", (10, 200, 30)).quantize(4), "GIF")) == (10, 200, 30)
    assert one_colour(file(flat("RGB", (10, 200, 30)).quantize(4), "PNG")) == (10, 200, 30)
    assert one_colour(file(flat("1", 1), "PNG")) == (255, 255, 255)
    assert one_colour(file(flat("1", 0), "PNG")) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65278, 65535]], dtype=np.uint16)
    pixels = opened(file(values, kind))
    np.testing.assert_array_equal(pixels, [[0, 0, 1, 1, 128, 254, 255]])


def test_grey_whose_white_is_unknown_is_refused():
    for values in (np.array([[70000]], np.int32), np.array([[-1]], np.int32)):
        with pytest.raises(DamagedImage, match="allowed: 0 to 65535"):
            opened(file(values, "TIFF"))
    with pytest.raises(DamagedImage, match="white is unknown"):
        opened(file(np.ones((3, 3), np.float32), "TIFF"))


def test_what_is_transparent_lies_on_white():
    assert one_colour(file(flat("RGBA", (200, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert one_colour(file(flat("RGBA", (200, 0, 0, 255)), "PNG")) == (200, 0, 0)
    assert one_colour(file(flat("LA", (0, 51)), "PNG")) == (204, 204, 204)
    assert one_colour(file(flat("LA", (0, 0)), "TIFF")) == (255, 255, 255)
    palette = flat("RGB", (10, 200, 30)).quantize(4)
    assert one_colour(file(palette, "PNG", transparency=palette.getpixel((0, 0)))) == (255,) * 3
    assert one_colour(file(flat("RGB", (9, 8, 7)), "PNG", transparency=(9, 8, 7))) == (255,) * 3


# The Adobe segment of a JPEG: its last byte says how the four components are to be read.
def adobe(content):
    start = content.index(b"\xff\xee")
    return start, start + 16


def test_cmyk_jpegs_become_rgb_inverted_as_adobe_writes_them_or_not():
    given = flat("CMYK", (200, 100, 50, 20))
    expected = np.array(given.convert("RGB").getpixel((0, 0)))
    inverted = file(given, "JPEG", quality=95)
    start, end = adobe(inverted)
    assert np.abs(one_colour(inverted) - expected).max() <= 2
    plain = file(ImageChops.invert(given), "JPEG", quality=95)
    assert np.abs(one_colour(plain[:start] + plain[end:]) - expected).max() <= 2


def test_ycck_jpegs_become_rgb():
    # libjpeg stores 255 less an inverted ink, which is the ink, as if it were RGB, in YCbCr; Pillow
    # stores 255 less what it is given.
    inks = (180, 90, 40)
    stored = (*Image.new("RGB", (1, 1), inks).convert("YCbCr").getpixel((0, 0)), 255)
    given = flat("CMYK", tuple(255 - value for value in stored))
    content = bytearray(file(given, "JPEG", quality=95))
    content[adobe(content)[1] - 1] = 2
    assert np.abs(np.add(one_colour(bytes(content)), inks) - 255).max() <= 3


def test_images_are_turned_upright(subtests):
    for kind, orientation in product(["JPEG", "PNG", "TIFF"], range(1, 9)):
        with subtests.test(kind=kind, orientation=orientation):
            from PIL import ImageOps

            exif = Image.Exif()
            exif[decoding.ORIENTATION] = orientation
            content = file(COLOUR, kind, exif=exif)
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
            np.testing.assert_array_equal(opened(content), upright)
            assert (orientation in UPRIGHT) == (orientation > 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0no such thing", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_an_orientation_that_cannot_be_read_is_upright(exif):
    np.testing.assert_array_equal(
        opened(file(COLOUR, "JPEG", exif=exif)), opened(file(COLOUR, "JPEG"))
    )


def test_of_several_frames_the_first_is_taken(subtests):
    for kind in ["GIF", "PNG", "WEBP", "TIFF"]:
        with subtests.test(kind=kind):
            options = {"lossless": True} if kind == "WEBP" else {}
            frames = [flat("RGB", (10, 200, 30)), flat("RGB", (1, 2, 3)), flat("RGB", (7, 7, 7))]
            content = file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            assert Image.open(io.BytesIO(content)).n_frames == 3
            assert one_colour(content) == (10, 200, 30)


def test_jpegs_have_the_pixels_that_pillow_gives_them(subtests):
    for options, pixels in product(
        [{}, {"progressive": True}, {"subsampling": 0}], [SMOOTH, SMOOTH[..., 0]]
    ):
        with subtests.test(options=options, pixels=pixels):
            content = file(pixels, "JPEG", quality=90, **options)
            np.testing.assert_array_equal(opened(content), Image.open(io.BytesIO(content)))


def test_a_plain_jpeg_does_not_come_to_pillow(monkeypatch, subtests):
    for options, pixels in product(
        [{}, {"progressive": True}, {"comment": b"by hand"}], [SMOOTH, SMOOTH[..., 0]]
    ):
        with subtests.test(options=options, pixels=pixels), monkeypatch.context() as patch:
            content = file(pixels, "JPEG", **options)
            expected = judged(content)
            patch.delattr(decoding.Image, "open")
            np.testing.assert_array_equal(opened(content), expected)


def test_a_jpeg_that_is_not_plain_comes_to_pillow():
    content = file(SMOOTH, "JPEG")
    frame = content.index(b"\xff\xc0")
    assert plain(content) == 3
    assert plain(file(SMOOTH[..., 0], "JPEG")) == 1
    turned = Image.Exif()
    turned[decoding.ORIENTATION] = 6
    for other in (
        file(SMOOTH, "JPEG", exif=turned),
        file(SMOOTH, "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
        file(flat("CMYK", (1, 2, 3, 4)), "JPEG"),
        content[:frame] + b"\xff\xc3" + content[frame + 2 :],  # of another coding
        content[: frame + 4] + b"\x0c" + content[frame + 5 :],  # of 12 bits
        content[: frame + 5] + b"\0\0" + content[frame + 7 :],  # whose height comes later
        content[: frame + 5] + b"\xff\xff\xff\xff" + content[frame + 9 :],  # too large
        b"\xff\xd8\0" + content[2:],
        content[: frame + 8],
        file(SMOOTH, "PNG"),
        b"",
    ):
        assert plain(other) == 0


@pytest.mark.slow
@pytest.mark.parametrize("value", [0x00, 0xE1, 0xFF])
def test_a_jpeg_with_a_wrong_byte_before_its_pixels_is_what_pillow_makes_of_it(value):
    def made(open_it, content):
        try:
            return open_it(content).tolist()
        except DamagedImage as error:
            return str(error)

    content = file(COLOUR, "JPEG")
    for place in range(0, content.index(b"\xff\xda") + 14, 5):
        wrong = content[:place] + bytes([value]) + content[place + 1 :]
        assert made(opened, wrong) == made(judged, wrong), place


def test_jpegs_are_decoded_without_torchvisions_decoder_too(monkeypatch):
    content = file(SMOOTH, "JPEG")
    expected = opened(content)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    np.testing.assert_array_equal(opened(content), expected)


def test_a_truncated_file_is_damaged(subtests):
    for kind, share in product(
        ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"], [0.0, 0.1, 0.5, 0.9, 0.999]
    ):
        with subtests.test(kind=kind, share=share):
            content = file(SMOOTH, kind)
            with pytest.raises(DamagedImage):
                square(content[: int(len(content) * share)])


def test_what_is_no_image_is_damaged(subtests):
    for content in [b"", b"no image", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG"]:
        told = "no image, or of an unknown format"
        with subtests.test(content=content), pytest.raises(DamagedImage, match=told):
            square(content)


def test_an_image_too_large_is_refused_before_it_is_decoded():
    side = int(LARGEST**0.5)
    for height in (side + 1, 2 * side):
        content = file(flat("1", 0, (side + 1, height)), "PNG")
        with pytest.raises(DamagedImage, match=rf"{side + 1} x {height} pixels|exceeds limit"):
            square(content)
        assert len(content) < 100_000


def test_damage_is_an_error_of_input():
    from heated.common.errors import InputError

    assert issubclass(DamagedImage, InputError)


def test_small_grey_images_load_neither_torch_nor_torchvision():
    code = (
        "import sys, numpy as np; from heated.preprocessing.decoding import decode; "
        "decode(np.zeros((9, 8), np.uint8), size=8, fit='squash', colour='grey', "
        "filter='bilinear'); assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torch_takes_one_thread_for_each_that_is_started_and_then_as_many_as_before():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with one_thread(), ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # so it is the block that makes it one
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_one_thread_ends_with_its_block_even_if_that_fails():
    import torch

    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == before
