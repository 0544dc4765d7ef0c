"""Decode an image file or array into a square uint8 image of a given size and color.

A file is processed in this order: the first of several frames; upright by its EXIF orientation;
transparent pixels on white; palettes, 1 bit, CMYK and YCCK (inverted as by Adobe, or not) to RGB or
grayscale, and 16-bit to 8-bit grayscale. Pillow decodes and releases the GIL meanwhile.
"""

import struct
from contextlib import suppress
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from heated.common.errors import InputError
from heated.common.samples import Content

MAX_PIXELS = 89_000_000  # of one image; Pillow's own limit is as high
MAX_SIDE = 1_000_000  # pixels; to resize, Pillow needs some 50 bytes for each
PNG_START, PNG_TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
CHANNELS = {"rgb": 3, "gray": 1, "inverted": 1}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


class DamagedImage(InputError):
    """A file that is no image, incomplete, too large, or of an unknown range of values."""


def decode(
    content: Content, *, size: int, fit: str, color_mode: str, filter: str
) -> NDArray[np.uint8]:
    """Decode a file, or (H, W) or (H, W, 3) uint8, and resize it to (size, size, channels).

    Args:
        content: A file's bytes or an array; raises DamagedImage if a file cannot be decoded.
        size: Pixels per side of the result.
        fit: "squash" ignores the aspect ratio, as the authors' code does; "crop" cuts out the
            centered square of the shorter side.
        color_mode: "rgb" (3 channels; gray is repeated), "gray" (1), or "inverted" (1: 255 - gray).
        filter: "bilinear" or "lanczos" (the authors'), both antialiased.
    """
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
    else:
        image = load_image(content, size)
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if color_mode != "rgb":
        image = image.convert("L")
    pixels = np.asarray(image.resize((size, size), FILTERS[filter]))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None].repeat(CHANNELS[color_mode], axis=2)
    return 255 - pixels if color_mode == "inverted" else pixels


def load_image(content: bytes, size: int) -> Image.Image:
    """Load a file's image, upright, RGB or L.

    A JPEG may be decoded at a half, a quarter or an eighth, with sides of at least twice `size`.
    """
    try:
        return open_image(content, size)
    except (DamagedImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage("no image, or of an unknown format") from error
    except Exception as error:  # decoders raise about every kind there is
        if content != (stripped := without_png_texts(content)):
            return load_image(stripped, size)
        raise DamagedImage(f"{type(error).__name__}: {error}") from error


def open_image(content: bytes, size: int) -> Image.Image:
    """Load an image as `load_image`; raise any error for a damaged file."""
    with Image.open(BytesIO(content)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DamagedImage(
                f"got {image.width} x {image.height} pixels, expected at most {MAX_PIXELS}"
            )
        if max(image.size) > MAX_SIDE:
            raise DamagedImage(f"got a side of {max(image.size)} pixels, expected <= {MAX_SIDE}")
        image.draft(None, (2 * size, 2 * size))
        image.load()
        return to_8_bit(image)


def without_png_texts(content: bytes) -> bytes:
    """Return a PNG without its texts and color profile: Pillow refuses large ones."""
    kept, start = [content[:8]], 8
    while content.startswith(PNG_START) and start < len(content):
        length = int.from_bytes(content[start : start + 4])
        end = start + 12 + length  # length, kind, data, checksum
        if content[start + 4 : start + 8] not in PNG_TEXTS:
            kept.append(content[start:end])
        start = end
    return b"".join(kept) if len(kept) > 1 else content


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB or L, upright, on white; it may be changed."""
    kind = image.format
    if image.mode in ("P", "PA"):
        image = image.copy()  # has a palette even if the file lacks it
    # an orientation that cannot be read is upright
    with suppress(SyntaxError, ValueError, TypeError, OSError, LookupError, struct.error):
        ImageOps.exif_transpose(image, in_place=True)  # copies of a large image are large
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            raise DamagedImage(f"got gray values from {low} to {high}, expected 0 to 65535")
        scaled = values.astype(np.uint32)
        scaled += 128
        scaled //= 257
        return Image.fromarray(scaled.astype(np.uint8))
    if image.mode == "F":
        raise DamagedImage("got floating-point pixels, expected integers")
    if image.has_transparency_data:
        return on_white(image)
    if image.mode == "CMYK" and kind == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow assumes that every CMYK JPEG is Adobe's
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def on_white(image: Image.Image, rows: int = 512) -> Image.Image:
    """Convert a transparent image to RGB on white, some rows at a time: copies of it are large."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", part.size, "white")
        result.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return result
