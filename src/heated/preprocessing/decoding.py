"""An image, as a file's bytes or an array, becomes a square of one size and color, uint8.

Of a file, in this order: the first of several frames; upright as its EXIF orientation says;
transparent pixels on white; palettes, 1 bit, CMYK and YCCK (inverted, as Adobe writes them, or
not) as RGB or grey, and 16 bits of grey as 8. Pillow decodes; it lets other threads run meanwhile.
"""

import struct
from contextlib import suppress
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from heated.common.errors import InputError
from heated.common.samples import Content

LARGEST = 89_000_000  # pixels of one image; Pillow's own limit is as high
CHANNELS = {"rgb": 3, "grey": 1, "inverted": 1}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
# A JPEG of this many times the size or more is decoded at a half, a quarter or an eighth of it.
GAP = 2


class DamagedImage(InputError):
    """A file that is no image, not a whole one, too large, or of a kind whose white is unknown."""


def decode(content: Content, *, size: int, fit: str, colour: str, filter: str) -> NDArray[np.uint8]:
    """Decode and resize an image.

    Args:
        fit: "squash" to the square whatever the aspect, as in the authors' code, or "crop" the
            centered square of the shorter side.
        colour: "rgb" (3 channels; grey is repeated), "grey" (1), or "inverted" (1: 255 - grey).
        filter: "bilinear" or "lanczos" (the authors'), both antialiased.

    Returns:
        (size, size, channels).

    Raises:
        DamagedImage: If a file cannot be decoded.
    """
    image = Image.fromarray(content) if isinstance(content, np.ndarray) else opened(content, size)
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if colour != "rgb":
        image = image.convert("L")
    pixels = np.asarray(image.resize((size, size), FILTERS[filter]))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None].repeat(CHANNELS[colour], axis=2)
    return 255 - pixels if colour == "inverted" else pixels


def opened(content: bytes, size: int) -> Image.Image:
    """Return a file's image, upright, RGB or L; DamagedImage if there is none or not all of it.

    A JPEG may come smaller, with sides of at least GAP times `size`.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            if image.width * image.height > LARGEST:
                raise DamagedImage(
                    f"{image.width} x {image.height} pixels; allowed: {LARGEST} in all"
                )
            image.draft(None, (GAP * size, GAP * size))
            image.load()
            with suppress(SyntaxError, ValueError, TypeError, OSError, LookupError, struct.error):
                ImageOps.exif_transpose(image, in_place=True)  # not where EXIF is illegible
            return flattened(image)
    except (DamagedImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage("no image, or of an unknown format") from error
    except Exception as error:  # decoders raise about every kind there is
        raise DamagedImage(f"{type(error).__name__}: {error}") from error


def flattened(image: Image.Image) -> Image.Image:
    """Return any image that Pillow opens as RGB or L, on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(eight_bits(np.asarray(image)))
    if image.mode == "F":
        raise DamagedImage("floating-point pixels, whose white is unknown")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every JPEG of CMYK for Adobe's
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def eight_bits(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Scale 0 to 65535 to 0 to 255, rounded; DamagedImage for values beyond."""
    if values.min() < 0 or values.max() > 65535:
        raise DamagedImage(f"grey from {values.min()} to {values.max()}; allowed: 0 to 65535")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
