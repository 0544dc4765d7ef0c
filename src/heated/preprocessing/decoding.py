"""An image, as a file's bytes or an array, becomes a square of one size and colour, uint8.

Whatever the file holds, in this order: the first frame of several; turned upright as its EXIF
orientation says; what is transparent lies on white; palettes, 1 bit, CMYK and YCCK (inverted, as
Adobe writes them, or not) become RGB or grey, and 16 bits of grey become 8. A JPEG of plain RGB or
grey is decoded by torchvision, to the same pixels as by Pillow in two thirds of the time; one
whose header holds nothing that Pillow would have to judge never comes to Pillow.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from struct import Struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from heated.common.errors import InputError
from heated.common.samples import Content

Pixels = NDArray[np.uint8]  # (H, W) grey or (H, W, 3) RGB

LARGEST = 89_000_000  # pixels of one image; Pillow's own limit is as high
CHANNELS = {"rgb": 3, "grey": 1, "inverted": 1}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
ORIENTATION = 0x0112  # EXIF's number for it
SEGMENT = Struct(">BBH")  # of a JPEG begins with 255, its kind, and its length without these two
FRAME = Struct(">BHHB")  # is in the segment that tells bits, height, width, and components
FRAMES = (0xC0, 0xC1, 0xC2)  # of Huffman codes: baseline, extended, progressive
SCAN = 0xDA  # after its segment come the pixels
# tables, restarts, remarks, and what programs add, but for EXIF and XMP, which may turn the image
HARMLESS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xE1}
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


class DamagedImage(InputError):
    """A file that is no image, not a whole one, too large, or of a kind whose white is unknown."""


def decode(content: Content, *, size: int, fit: str, colour: str, filter: str) -> Pixels:
    """(size, size, channels) uint8; DamagedImage when a file cannot be decoded.

    fit: "squash" to the square whatever the aspect, as in the authors' code, or "crop" the centred
    square of the shorter side. colour: "rgb" (3 channels; grey is repeated), "grey" (1), or
    "inverted" (1: 255 - grey). filter: "bilinear" or "lanczos" (the authors'), both antialiased;
    bilinear is within 1 grey level of Pillow's.
    """
    pixels = content if isinstance(content, np.ndarray) else opened(content)
    if fit == "crop":
        pixels = centre(pixels)
    if pixels.ndim == 3 and colour != "rgb":
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    pixels = resized(pixels, size, filter)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None].repeat(CHANNELS[colour], axis=2)
    return 255 - pixels if colour == "inverted" else pixels


def centre(pixels: Pixels) -> Pixels:
    """The centred square of the shorter side."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def resized(pixels: Pixels, size: int, filter: str) -> Pixels:
    """(size, size) or (size, size, 3). RGB is shrunk bilinearly by torch, three times as fast as
    by Pillow; the rest by Pillow, so that small grey images do not wait for torch to load."""
    if pixels.shape[:2] == (size, size):
        return pixels
    if pixels.ndim == 3 and filter == "bilinear":
        return interpolated(pixels, size)
    return np.asarray(Image.fromarray(pixels).resize((size, size), FILTERS[filter]))


def interpolated(pixels: Pixels, size: int) -> Pixels:
    """(size, size, 3), by a triangle filter as wide as the shrinkage."""
    import torch
    from torch.nn.functional import interpolate

    # numpy turns the axes, as each operator of torch lets another thread take the interpreter; with
    # [None] torch would not see that channels are last
    image = np.require(pixels, requirements=["C", "W"]).reshape(1, *pixels.shape)
    planes = torch.from_numpy(image.transpose(0, 3, 1, 2))
    square = interpolate(planes, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(square.numpy()[0].transpose(1, 2, 0))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch takes one thread for each of those that are started in the block and decode."""
    import torch

    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def opened(content: bytes) -> Pixels:
    """A file's pixels, upright; DamagedImage when there are none, or not all."""
    channels = plain(content)
    pixels = jpeg(content, channels) if channels else None
    return judged(content) if pixels is None else pixels


def plain(content: bytes) -> int:
    """Channels, 1 or 3, of a JPEG that lies upright and has 8 bits, an allowed size and nothing
    unusual before its pixels; 0 for any other file. In a sixth of the time that Pillow takes."""
    channels, place = 0, 2
    while content[:2] == b"\xff\xd8" and place + SEGMENT.size + FRAME.size <= len(content):
        mark, kind, length = SEGMENT.unpack_from(content, place)
        if mark != 0xFF or kind == SCAN:
            return channels if mark == 0xFF else 0
        if kind in FRAMES:
            bits, height, width, channels = FRAME.unpack_from(content, place + SEGMENT.size)
            if bits != 8 or channels not in (1, 3) or not 0 < height * width <= LARGEST:
                return 0
        elif kind not in HARMLESS:
            return 0
        place += 2 + length
    return 0


def judged(content: bytes) -> Pixels:
    """A file's pixels, upright, as Pillow understands it; DamagedImage as above."""
    try:
        with Image.open(BytesIO(content)) as image:
            check(image)
            pixels = unturned(content, image)
            turned = UPRIGHT.get(orientation(image))  # now, as Pillow turns a TIFF when it loads it
    except (DamagedImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage("no image, or of an unknown format") from error
    except Exception as error:  # decoders raise about every kind there is
        raise DamagedImage(f"{type(error).__name__}: {error}") from error
    return np.ascontiguousarray(turned(pixels)) if turned else pixels


def unturned(content: bytes, image: Image.Image) -> Pixels:
    """Pixels of an opened image as it lies. What torchvision refuses Pillow judges, and Pillow
    decodes all of them where torchvision no longer decodes images, as it has announced."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return flattened(image)
    pixels = jpeg(content, len(image.mode))
    return np.asarray(image) if pixels is None else pixels


def check(image: Image.Image) -> None:
    """DamagedImage when the image is larger than any of a data set may be."""
    if image.width * image.height > LARGEST:
        raise DamagedImage(f"{image.width} x {image.height} pixels; allowed: {LARGEST} in all")


def orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1, upright, where the file does not say it or not legibly."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, OSError, LookupError):
        return 1


def jpeg(content: bytes, channels: int) -> Pixels | None:
    """Pixels of a JPEG of plain RGB (3) or grey (1); None where torchvision does not decode it."""
    import torch

    try:
        from torchvision.io import ImageReadMode

        mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        # the operator, as the function around it warns at every call
        decoded = torch.ops.image.decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), mode.value, False
        )
    except (ImportError, AttributeError, RuntimeError):
        return None
    pixels: Pixels = decoded.numpy().transpose(1, 2, 0)
    return pixels if channels == 3 else pixels[:, :, 0]


def flattened(image: Image.Image) -> Pixels:
    """Pixels of any image that Pillow opens, on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return eight_bits(np.asarray(image))
    if image.mode == "F":
        raise DamagedImage("floating-point pixels, whose white is unknown")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, coloured).convert("RGB"))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every JPEG of CMYK for Adobe's
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def eight_bits(values: NDArray[np.integer]) -> Pixels:
    """0 to 65535 as 0 to 255, rounded; DamagedImage for values beyond."""
    if values.min() < 0 or values.max() > 65535:
        raise DamagedImage(f"grey from {values.min()} to {values.max()}; allowed: 0 to 65535")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
