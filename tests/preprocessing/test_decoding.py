import io
import subprocess
import sys
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps

from heated.common.errors import InputError
from heated.preprocessing.decoding import (
    FILTERS,
    MAX_PIXELS,
    MAX_SIDE,
    DamagedImage,
    decode,
    load_image,
    on_white,
)

RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAYS = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(COLORS).resize((500, 375), Image.Resampling.BICUBIC))


def file(image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(content, size=8, *, fit="squash", color_mode="rgb", filter="bilinear"):
    return decode(content, size=size, fit=fit, color_mode=color_mode, filter=filter)


def load(content):
    """The pixels of a file, neither resized nor cropped."""
    return np.asarray(load_image(content, 1000))


def flat(mode, value, size=(9, 7)):
    return Image.new(mode, size, value)


def color_of(content):
    """The only color of the image."""
    (color,) = {tuple(pixel) for pixel in square(content).reshape(-1, 3).tolist()}
    return color


def chunk(kind, data):
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


TEXTS = {
    "tEXt": chunk(b"tEXt", b"note\0" + b"a" * 3_000_000),
    "zTXt": chunk(b"zTXt", b"note\0\0" + zlib.compress(b"a" * 3_000_000)),
    "iTXt": chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
    "many": chunk(b"zTXt", b"note\0\0" + zlib.compress(b"a" * 900_000)) * 80,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_large_texts_of_a_png_do_not_hide_its_pixels(kind):
    plain = file(COLORS, "PNG")
    start = 8 + 25  # of the chunk after the header
    for place in (start, len(plain) - 12):  # before the pixels, and after them
        content = plain[:place] + TEXTS[kind] + plain[place:]
        np.testing.assert_array_equal(load(content), COLORS)
    with pytest.raises(DamagedImage):  # without some of the pixels
        load((plain[:start] + TEXTS[kind] + plain[start:])[:-200])


def test_every_choice_gives_a_square_of_its_channels():
    modes = ["rgb", "gray", "inverted"]
    contents = [COLORS, GRAYS, file(COLORS, "PNG"), file(GRAYS, "JPEG")]
    for mode, fit, filter, content in product(modes, ["squash", "crop"], FILTERS, contents):
        image = square(content, 11, fit=fit, color_mode=mode, filter=filter)
        assert image.shape == (11, 11, 3 if mode == "rgb" else 1)
        assert image.dtype == np.uint8


def test_squashing_is_pillows_resize_and_keeps_an_image_of_the_size():
    for size, filter, pixels in product([7, 64, 256, 600], FILTERS, [SMOOTH, COLORS]):
        expected = Image.fromarray(pixels).resize((size, size), FILTERS[filter])
        np.testing.assert_array_equal(square(pixels, size, filter=filter), expected)
    assert (square(SMOOTH, 64) != square(SMOOTH, 64, filter="lanczos")).any()
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)  # is averaged
    assert np.abs(square(board).astype(int) - 127).max() < 40
    np.testing.assert_array_equal(square(COLORS[:, :20], 20), COLORS[:, :20])
    np.testing.assert_array_equal(square(file(GRAYS[:, :20], "PNG"), 20)[..., 0], GRAYS[:, :20])


def test_a_large_jpeg_is_decoded_at_a_lower_resolution_to_a_similar_square():
    large = np.asarray(Image.fromarray(COLORS).resize((2000, 1500), Image.Resampling.BICUBIC))
    content = file(large, "JPEG", quality=95)
    for size, expected in [(64, (250, 188)), (250, (1000, 750)), (500, (2000, 1500))]:
        assert load_image(content, size).size == expected
    for fit in ("squash", "crop"):
        image, expected = square(content, 64, fit=fit), square(load(content), 64, fit=fit)
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.995


def test_a_crop_is_the_centered_square_and_a_squash_everything():
    sides = np.zeros((10, 30, 3), dtype=np.uint8)
    sides[:, 10:20] = 200
    for pixels in (sides, sides.swapaxes(0, 1)):
        assert set(square(pixels, fit="crop").ravel()) == {200}
        assert square(pixels, fit="squash").min() == 0
        assert 190 < square(pixels, fit="squash").max() <= 200


def test_gray_and_color_are_converted_and_inverted():
    np.testing.assert_array_equal(square(GRAYS), square(GRAYS, color_mode="gray").repeat(3, axis=2))
    for pixels in (GRAYS, COLORS, file(COLORS, "JPEG")):
        inverted = square(pixels, color_mode="inverted")
        np.testing.assert_array_equal(inverted, 255 - square(pixels, color_mode="gray"))
    for color, luma in (("red", 76), ("lime", 150), ("blue", 29), ("white", 255)):
        image = square(file(flat("RGB", color), "PNG"), color_mode="gray")
        assert set(image.ravel()) == {luma}


def test_palettes_one_bit_and_transparency_become_colors_on_white():
    color = (10, 200, 30)
    palette = flat("RGB", color).quantize(4)
    transparent = {"transparency": palette.getpixel((0, 0))}
    for image, kind, options, expected in [
        (palette, "GIF", {}, color),
        (palette, "PNG", {}, color),
        (flat("1", 1), "PNG", {}, (255, 255, 255)),
        (flat("1", 0), "PNG", {}, (0, 0, 0)),
        (flat("RGBA", (200, 0, 0, 0)), "PNG", {}, (255, 255, 255)),
        (flat("RGBA", (200, 0, 0, 255)), "PNG", {}, (200, 0, 0)),
        (flat("LA", (0, 51)), "PNG", {}, (204, 204, 204)),
        (flat("LA", (0, 0)), "TIFF", {}, (255, 255, 255)),
        (palette, "PNG", transparent, (255, 255, 255)),
        (flat("RGB", (9, 8, 7)), "PNG", {"transparency": (9, 8, 7)}, (255, 255, 255)),
    ]:
        assert color_of(file(image, kind, **options)) == expected


def test_16_bit_gray_is_scaled_to_8_and_gray_of_an_unknown_range_is_an_error():
    values = np.array([[0, 128, 129, 257, 32768, 65278, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(load(file(values, kind)), [[0, 0, 1, 1, 128, 254, 255]])
    for value in (70000, -1):
        with pytest.raises(DamagedImage, match=f"got gray values from {value} to .*expected 0 to"):
            load(file(np.array([[value]], np.int32), "TIFF"))
    with pytest.raises(DamagedImage, match="got floating-point pixels"):
        load(file(np.ones((3, 3), np.float32), "TIFF"))


def test_cmyk_and_ycck_jpegs_become_rgb_inverted_as_adobe_writes_them_or_not():
    cmyk = flat("CMYK", (200, 100, 50, 20))
    expected = np.array(cmyk.convert("RGB").getpixel((0, 0)))
    adobe = file(cmyk, "JPEG", quality=95)
    start = adobe.index(b"\xff\xee")
    end = start + 16  # of Adobe's segment, whose last byte is the color transform
    plain = file(ImageChops.invert(cmyk), "JPEG", quality=95)
    for content in (adobe, plain[:start] + plain[end:]):
        assert np.abs(color_of(content) - expected).max() <= 2
    # libjpeg stores the ink, as if it were RGB, in YCbCr; Pillow stores 255 minus its input.
    inks = (180, 90, 40)
    stored = (*Image.new("RGB", (1, 1), inks).convert("YCbCr").getpixel((0, 0)), 255)
    ycck = bytearray(file(flat("CMYK", tuple(255 - v for v in stored)), "JPEG", quality=95))
    ycck[end - 1] = 2
    assert np.abs(np.add(color_of(bytes(ycck)), inks) - 255).max() <= 3


def test_images_of_every_kind_are_rotated_upright(subtests):
    color, gray = Image.fromarray(COLORS), Image.fromarray(GRAYS.astype(np.uint16) * 257)
    translucent = Image.fromarray(np.dstack([COLORS, GRAYS]))
    kinds = [("JPEG", color), ("JPEG", color.convert("CMYK")), ("TIFF", color), ("PNG", color)]
    kinds += [("PNG", translucent), ("PNG", gray)]
    for (kind, image), orientation in product(kinds, range(1, 9)):
        with subtests.test(kind=kind, mode=image.mode, orientation=orientation):
            exif = Image.Exif()
            exif[0x0112] = orientation
            upright = Image.fromarray(load(file(image, kind)))
            upright.info["exif"] = exif.tobytes()
            turned = load(file(image, kind, exif=exif))
            np.testing.assert_array_equal(turned, ImageOps.exif_transpose(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_orientation_that_cannot_be_read_is_ignored():
    for exif in (b"Exif\0\0no such thing", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        content = file(COLORS, "JPEG", exif=exif)
        np.testing.assert_array_equal(load(content), load(file(COLORS, "JPEG")))


def test_of_several_frames_the_first_is_used():
    for kind in ["GIF", "PNG", "WEBP", "TIFF", "MPO"]:
        options = {"WEBP": {"lossless": True}, "MPO": {"quality": 100}}.get(kind, {})
        frames = [flat("RGB", (10, 200, 30)), flat("RGB", (1, 2, 3)), flat("RGB", (7, 7, 7))]
        content = file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(content)).n_frames == 3
        assert np.abs(np.subtract(color_of(content), (10, 200, 30))).max() <= (kind == "MPO")


def test_a_truncated_file_and_one_that_is_no_image_are_damaged():
    for kind in ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]:
        content = file(SMOOTH, kind)
        for share in [0.0, 0.1, 0.5, 0.9, 0.999]:
            with pytest.raises(DamagedImage):
                square(content[: int(len(content) * share)])
    for content in [b"", b"no image", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG"]:
        with pytest.raises(DamagedImage, match="no image, or of an unknown format"):
            square(content)
    assert issubclass(DamagedImage, InputError)


def test_an_image_that_is_too_large_is_not_decoded():
    side = int(MAX_PIXELS**0.5)
    for height in (side + 1, 2 * side):
        content = file(flat("1", 0, (side + 1, height)), "PNG")
        with pytest.raises(DamagedImage, match=rf"{side + 1} x {height} pixels|exceeds limit"):
            square(content)
        assert len(content) < 100_000


def test_a_long_thin_image_is_refused_before_it_fills_the_memory():
    for size, refused in (
        ((MAX_SIDE + 1, 1), True),
        ((1, MAX_SIDE + 1), True),
        ((99_999, 1), False),
    ):
        content = file(flat("1", 0, size), "PNG")
        if refused:
            with pytest.raises(DamagedImage, match=f"side of {MAX_SIDE + 1} pixels"):
                load_image(content, 8)
        else:
            assert load_image(content, 8).size == size


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_transparent_image_takes_little_more_than_two_copies_of_four_bytes_a_pixel():
    """Its pixels, and the result, which Pillow pads to as many bytes."""
    code = (
        "from heated.preprocessing.decoding import load_image as f; import sys; from re import *\n"
    )
    code += "read = lambda: int(search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    code += "content, start = sys.stdin.buffer.read(), read(); f(content, 8); print(read() - start)"
    side = 6000
    content = file(flat("RGBA", (1, 2, 3, 4), (side, side)), "PNG", compress_level=1)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    assert 8 < 1024 * int(done.stdout) / side**2 < 10.5


def test_a_transparent_image_is_the_same_on_white_by_any_number_of_rows():
    image = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    palette = flat("P", 1, (30, 20))
    palette.putpalette(bytes(range(6)))
    palette.info["transparency"] = 1
    for each in (image, image.convert("LA"), palette):
        white = Image.new("RGBA", each.size, "white")
        whole = Image.alpha_composite(white, each.convert("RGBA")).convert("RGB")
        for rows in (1, 7, 20, 512):
            assert np.array_equal(on_white(each, rows), whole)
