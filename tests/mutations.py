"""Seeded mutations of files for `make fuzz`: bytes, nested values, YAML, archives, images, arrays.

Each function takes a random generator first and returns the mutated value.
"""

import copy
import csv
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import numpy as np

SIZES = (0, 1, 2, 127, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308, 1e12, 0.1)
NAMES = (
    *("", ".", "..", "/", "../x.png", "/tmp/heated-fuzz.png", "a/../../b.png", "~/x.png", "a//b.png"),
    *("\\", "a\\b.png", "C:\\x.png", "con", "a:b.png", "a\0b.png", "a\nb.png", "\udce4.png", " .png"),
    *("é/x.png", "e\u0301/x.png", "\u202e.png", "x" * 300, "x/" * 2000 + "y.png", "-rf", "*", "%s"),
    *("__MACOSX/x.png", ".hidden/x.png", "a/x.PNG", "A/x.png", "a.zip", "$HOME", "{0}", "None"),
)
STRINGS = (*NAMES, "1e5", "true", "null", "nan", "\u2028", "😀", "1_000", "0x1f", "x" * 10_000)
VALUES = (*NUMBERS, *STRINGS, None, True, False, [], {}, [[]], {"name": "none"}, float("nan"))
YAML_TEXTS = (
    *("&a ", "*a", "!!int x", "!!python/object:os.system x", "!x ", "!<!> ", "{", "}", "[", "]", "? "),
    *("- ", ": ", "\t", "|", ">", "%YAML 9.9\n---\n", "\n---\n", "\n...\n", "\ufeff", "\0", "\x85"),
    *(".inf", ".nan", "1:1:1", "2001-99-99", "<<: ", "'", '"', "0o9", "1e400", "# ", "\\", "@", "`"),
    *("9" * 5000, "[" * 300, "{a: " * 300, "- " * 3000, "\U0001f600", "!!binary x", "!!set {a, b}"),
    *("!!timestamp 2001-13-45", "!!float x", "!!bool x", "!!omap [a]", "!!null x", "=", "~", "''"),
)


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """Flip bits, insert, delete, repeat or replace ranges, or truncate."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        start = rng.randrange(len(data) + 1) if rng.random() < 0.6 else rng.randrange(65) % (len(data) + 1)
        span = min(rng.choice((1, 2, 4, 16, 300)), len(data) - start)
        match rng.randrange(6):
            case 0 if span:
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[start : start + span] = rng.randbytes(span)
            case 2:
                del data[start : start + span]
            case 3:
                data[start:start] = data[start : start + span] * rng.choice((1, 2, 100))
            case 4:
                form = rng.choice(("<I", ">I", "<H", ">H", "<Q"))
                value = rng.choice(SIZES) % 2 ** (8 * struct.calcsize(form))
                data[start : start + struct.calcsize(form)] = struct.pack(form, value)
            case 5 if rng.random() < 0.3:
                del data[start:]
    return bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested mappings and lists, without the outermost."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def mutate_tree(rng: Random, tree: Any, vocabulary: tuple[Any, ...] = ()) -> Any:
    """Replace, delete, rename, wrap, swap or deepen values; `vocabulary` has further ones."""
    tree = copy.deepcopy(tree)
    if not isinstance(tree, dict | list) or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(VALUES))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        paths = [*places(tree)]
        if not paths:
            return tree
        *outer, key = rng.choice(paths)
        section = tree
        for part in outer:
            section = section[part]
        other = rng.choice([*vocabulary, *VALUES] if rng.random() < 0.5 else VALUES)
        match rng.randrange(8):
            case 0:
                del section[key]
            case 1 if isinstance(section, dict):
                section[other if isinstance(other, str) else str(other)[:50]] = section.pop(key)
            case 2:
                section[key] = [section[key]] if rng.random() < 0.5 else {"name": section[key]}
            case 3:
                source: Any = tree
                for part in rng.choice(paths):
                    source = source[part] if isinstance(source, list) or part in source else None
                    if not isinstance(source, dict | list):
                        break
                section[key] = copy.deepcopy(source)
            case 4:
                for _ in range(rng.choice((3, 90, 200))):
                    section[key] = [section[key]] if rng.random() < 0.5 else {"a": section[key]}
            case 5 if isinstance(section, list):
                section *= rng.choice((2, 50))
            case _:
                section[key] = copy.deepcopy(other)
    return tree


def schema_values(schema: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a JSON schema's keys and choices, and numbers at and beyond each of its limits."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, list):
            for each in node:
                visit(each)
        elif isinstance(node, dict):
            found.extend(node.get("properties", {}))
            found.extend(node.get("enum", [node["const"]] if "const" in node else []))
            for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems"):
                limit = node.get(name)
                if isinstance(limit, int | float):
                    found.extend((limit, limit - 1, limit + 1, float(limit), limit + 1e-9))
            for each in node.values():
                visit(each)

    visit(schema)
    return tuple({repr(value): value for value in found}.values())


def mutate_yaml(rng: Random, text: str) -> bytes:
    """Insert YAML's syntax at random places, repeat lines, or mutate the bytes."""
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(text) + 1)
        if rng.random() < 0.7:
            starts = [0, *(i + 1 for i, letter in enumerate(text) if letter in "\n: [,")]
            at = rng.choice(starts)
        text = text[:at] + rng.choice(YAML_TEXTS) + text[at:]
    if rng.random() < 0.2:
        lines = text.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at:at] = lines[at : at + rng.choice((1, 5))] * rng.choice((1, 1, 20))
        text = "".join(lines)
    content = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(rng, content) if rng.random() < 0.1 else content


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
    file, methods = io.BytesIO(), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(file, "w", rng.choice(methods)) as archive:
        for name, content in files.items():
            entry = name.encode("utf-8", "replace").decode().replace("\0", "_")[:60_000]
            archive.writestr(zipfile.ZipInfo(entry), content, rng.choice(methods))
    return file.getvalue()


def mutate_zip(rng: Random, content: bytes) -> bytes:
    """Overwrite fields of local headers, the central directory and its end."""
    data = bytearray(content)
    marks = [i for i in range(len(data) - 4) if data[i : i + 2] == b"PK" and data[i + 2] in (1, 3, 5, 6, 7)]
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
                data[head + 124 : head + 136] = bytes([rng.choice((0x80, 0xFF))]) + rng.randbytes(11)
            case 3:
                at = rng.choice((0, 100, 108, 136, 157, 257, 265, 345, 386, 482, 483))
                data[head + at : head + at + 8] = rng.randbytes(8)
        data[head + 148 : head + 156] = b" " * 8
        data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])
    return bytes(data)


def gzip_bytes(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(content) + packer.flush()


def bz2_bytes(content: bytes) -> bytes:
    import bz2

    return bz2.compress(content)


def xz_bytes(content: bytes) -> bytes:
    import lzma

    return lzma.compress(content, preset=0)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    **dict.fromkeys((".zip", ".tar"), bytes),
    **dict.fromkeys((".tar.gz", ".tgz"), gzip_bytes),
    ".tar.bz2": bz2_bytes,
    ".tar.xz": xz_bytes,
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
                kinds = (b"zTXt", b"iCCP", b"tEXt", b"iTXt", b"eXIf", b"tRNS", b"acTL", b"fdAT", b"IDAT", b"PLTE")
                chunks.insert(rng.randrange(len(chunks)), (rng.choice(kinds), text))
    parts = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return content[:8] + b"".join(parts)


def blank_png(rng: Random) -> bytes:
    """Return a small PNG file of a huge image: one value everywhere."""
    width = rng.choice((1, 3000, 9433, 89_000_000, 65_535, 12_000))
    height = max(1, min(rng.choice((1, 3000, 9433, 7416, 100_000)), 95_000_000 // width))
    depth, (kind, channels) = rng.choice((8, 16, 1)), rng.choice(((0, 1), (2, 3), (4, 2), (6, 4), (3, 1)))
    depth = 8 if kind in (2, 4, 6) and depth == 1 or kind == 3 else depth
    rows = height * (1 + -(-width * channels * depth // 8))
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(min(1 << 24, rows - at))) for at in range(0, rows, 1 << 24))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"PLTE", bytes(768)), (b"IDAT", body + packer.flush()), (b"IEND", b"")]
    if kind in (0, 4):
        del chunks[1]
    parts = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mutate_array(rng: Random, array: np.ndarray) -> np.ndarray:
    """Change an array's type, shape or values."""
    match rng.randrange(7):
        case 0:
            return array.astype(rng.choice((np.float16, np.float64, np.int8, np.complex64, "S3", "U3")))
        case 1:
            return array[: rng.randrange(len(array) + 1)] if array.ndim else array
        case 2:
            return array[None] if rng.random() < 0.5 else array.reshape(-1)
        case 3:
            return array[:0] if array.ndim else np.array([])
        case 4 if array.dtype.kind == "f":
            filled = array.copy()
            filled.flat[rng.randrange(filled.size)] = rng.choice((np.nan, np.inf, -np.inf, 0, 1e38))
            return filled
        case 5 if array.dtype.kind in "iu":
            filled = array.copy()
            filled.flat[rng.randrange(filled.size)] = rng.choice((-1, 2**40, 10**6, 0)) % 2**62
            return filled
        case _:
            return np.zeros_like(array)


def mutate_npz(rng: Random, content: bytes) -> bytes:
    """Mutate, drop, rename or add arrays, or the bytes of the file or of one array's."""
    kind = rng.randrange(5)
    if kind == 0:
        return mutate_bytes(rng, content)
    arrays = dict(np.load(io.BytesIO(content)))
    name, file = rng.choice([*arrays]), io.BytesIO()
    if kind == 1:
        arrays[rng.choice([*arrays, "x", ""])] = arrays.pop(name)
    elif kind == 2:
        arrays[name] = np.array([{}]) if rng.random() < 0.3 else mutate_array(rng, arrays[name])
    elif kind == 3:
        del arrays[name]
    else:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
            for entry in old.namelist():
                body = old.read(entry)
                new.writestr(entry, mutate_bytes(rng, body) if entry == f"{name}.npy" else body)
        return file.getvalue()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def mutate_safetensors(rng: Random, content: bytes) -> bytes:
    """Mutate the header's JSON, or the bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    (size,) = struct.unpack("<Q", content[:8])
    header = mutate_tree(rng, json.loads(content[8 : 8 + size]), ("F16", "I64", "BOOL", "shape"))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def mutate_json(rng: Random, content: bytes) -> bytes:
    """Mutate the tree, or the bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    return json.dumps(mutate_tree(rng, json.loads(content))).encode()


def mutate_csv(rng: Random, content: bytes) -> bytes:
    """Change cells, columns or lines, or the bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    rows = [*csv.reader(io.StringIO(content.decode()))]
    for _ in range(rng.choice((1, 3))):
        row = rng.choice(rows)
        match rng.randrange(4):
            case 0 if row:
                row[rng.randrange(len(row))] = str(rng.choice(VALUES))[:200].replace("\0", "")
            case 1 if row:
                del row[rng.randrange(len(row))]
            case 2 if len(rows) > 1:
                rows.remove(row)
            case _:
                rows.append(list(row))
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


BY_SUFFIX: dict[str, Callable[[Random, bytes], bytes]] = {
    ".npz": mutate_npz,
    ".npy": mutate_bytes,
    ".safetensors": mutate_safetensors,
    ".json": mutate_json,
    ".csv": mutate_csv,
}
