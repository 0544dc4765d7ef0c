"""Seeded mutations of archives and images, by their structure and by their bytes."""

import bz2
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from random import Random

from mutations import NAMES, SIZES, mutate_bytes


def mutate_archive(rng: Random, files: Mapping[str, bytes], suffix: str) -> bytes:
    """Write an archive of the files with odd names and headers, truncated or with flipped bits."""
    names = {}
    for name, content in files.items():
        odd = rng.choice((name, *NAMES)) if rng.random() < 0.15 else name
        names[odd if rng.random() < 0.5 else f"{name.rpartition('/')[0]}/{odd}"] = content
    names = dict(files) if rng.random() < 0.5 else names
    plain = zip_bytes(rng, names) if suffix == ".zip" else tar_bytes(rng, names)
    kind = rng.randrange(4)
    if kind == 0:
        plain = mutate_zip(rng, plain) if suffix == ".zip" else mutate_tar(rng, plain)
    elif kind == 1:
        plain = mutate_bytes(rng, plain)
    packed = COMPRESSIONS[suffix](plain)
    return mutate_bytes(rng, packed) if kind == 2 else packed


def zip_bytes(rng: Random, files: Mapping[str, bytes]) -> bytes:
    file, methods = (
        io.BytesIO(),
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA),
    )
    with zipfile.ZipFile(file, "w", rng.choice(methods)) as archive:
        for name, content in files.items():
            entry = name.encode("utf-8", "replace").decode().replace("\0", "_")[:60_000]
            archive.writestr(zipfile.ZipInfo(entry), content, rng.choice(methods))
    return file.getvalue()


def mutate_zip(rng: Random, content: bytes) -> bytes:
    """Overwrite fields of local headers, the central directory and its end."""
    data = bytearray(content)
    marks = [
        i
        for i in range(len(data) - 4)
        if data[i : i + 2] == b"PK" and data[i + 2] in (1, 3, 5, 6, 7)
    ]
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.choice(marks) + rng.randrange(4, 50)
        size = rng.choice((1, 2, 4, 8))
        value = rng.choice((*SIZES, rng.getrandbits(64))) % 2 ** (8 * size)
        data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data[: len(content) + 8])


def tar_bytes(rng: Random, files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("\0", "_"))
            entry.size = len(content)
            try:
                archive.addfile(entry, io.BytesIO(content))
            except ValueError:  # too long for the format
                continue
    return file.getvalue()


def mutate_tar(rng: Random, content: bytes) -> bytes:
    """Overwrite fields of headers, with a right checksum: type, size, name, links, sparse maps."""
    data = bytearray(content)
    heads = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    for head in rng.sample(heads, min(len(heads), rng.choice((1, 1, 3)))):
        match rng.randrange(4):
            case 0:
                data[head + 156] = rng.choice(b"0123456789LKxgSVMD\0\xff")
            case 1:
                sizes = (*SIZES, len(content), 3 * 2**30, 7, 512)
                data[head + 124 : head + 136] = b"%011o\0" % (rng.choice(sizes) % 8**11)
            case 2:
                data[head + 124 : head + 136] = bytes([rng.choice((0x80, 0xFF))]) + rng.randbytes(
                    11
                )
            case 3:
                at = rng.choice((0, 100, 108, 136, 157, 257, 265, 345, 386, 482, 483))
                data[head + at : head + at + 8] = rng.randbytes(8)
        data[head + 148 : head + 156] = b" " * 8
        data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])
    return bytes(data)


def gzip_bytes(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(content) + packer.flush()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    **dict.fromkeys((".zip", ".tar"), bytes),
    **dict.fromkeys((".tar.gz", ".tgz"), gzip_bytes),
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def mutate_image(rng: Random, content: bytes) -> bytes:
    """Mutate a PNG by its chunks half of the time, and any image by its bytes."""
    if content.startswith(b"\x89PNG") and rng.random() < 0.7:
        return mutate_png(rng, content)
    return mutate_bytes(rng, content)


def mutate_png(rng: Random, content: bytes) -> bytes:
    """Change, repeat, remove, reorder or add chunks, with right checksums."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.choice((1, 1, 3))):
        index = rng.randrange(len(chunks))
        name, body = chunks[index]
        match rng.randrange(6):
            case 0:
                sides = (0, 1, 8, 9433, 9434, 65535, 2**31 - 1, 2**32 - 1)
                size = struct.pack(">II", rng.choice(sides), rng.choice(sides))
                depth = bytes([rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 5))])
                chunks[0] = (b"IHDR", size + depth + chunks[0][1][10:])
            case 1:
                chunks[index] = (name, mutate_bytes(rng, body) if body else b"x")
            case 2:
                chunks.insert(rng.randrange(len(chunks) + 1), (name, body))
            case 3:
                del chunks[index]
                chunks = chunks or [(name, body)]
            case 4:
                rng.shuffle(chunks)
            case 5:
                text = b"k\0\0" + zlib.compress(bytes(rng.choice((10, 10**6, 10**8))), 1)
                kinds = (
                    b"zTXt",
                    b"iCCP",
                    b"tEXt",
                    b"iTXt",
                    b"eXIf",
                    b"tRNS",
                    b"acTL",
                    b"fdAT",
                    b"IDAT",
                    b"PLTE",
                )
                chunks.insert(rng.randrange(len(chunks)), (rng.choice(kinds), text))
    parts = (
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    )
    return content[:8] + b"".join(parts)


def blank_png(rng: Random) -> bytes:
    """Return a small PNG file of a huge image: one value everywhere."""
    width = rng.choice((1, 3000, 9433, 89_000_000, 65_535, 12_000))
    height = max(1, min(rng.choice((1, 3000, 9433, 7416, 100_000)), 95_000_000 // width))
    depth, (kind, channels) = (
        rng.choice((8, 16, 1)),
        rng.choice(((0, 1), (2, 3), (4, 2), (6, 4), (3, 1))),
    )
    depth = 8 if kind in (2, 4, 6) and depth == 1 or kind == 3 else depth
    rows = height * (1 + -(-width * channels * depth // 8))
    packer = zlib.compressobj(1)
    body = b"".join(
        packer.compress(bytes(min(1 << 24, rows - at))) for at in range(0, rows, 1 << 24)
    )
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [
        (b"IHDR", head),
        (b"PLTE", bytes(768)),
        (b"IDAT", body + packer.flush()),
        (b"IEND", b""),
    ]
    if kind in (0, 4):
        del chunks[1]
    parts = (
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
