"""Seeded mutations of files for `make fuzz`: bytes, nested values, YAML, arrays, tables.

Each function takes a random generator first and returns the mutated value.
"""

import copy
import csv
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

SIZES = (0, 1, 2, 127, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308, 1e12, 0.1)
NAMES = (
    *(
        "",
        ".",
        "..",
        "/",
        "../x.png",
        "/tmp/heated-fuzz.png",
        "a/../../b.png",
        "~/x.png",
        "a//b.png",
    ),
    *(
        "\\",
        "a\\b.png",
        "C:\\x.png",
        "con",
        "a:b.png",
        "a\0b.png",
        "a\nb.png",
        "\udce4.png",
        " .png",
    ),
    *("é/x.png", "e\u0301/x.png", "\u202e.png", "x" * 300, "x/" * 2000 + "y.png", "-rf", "*", "%s"),
    *("__MACOSX/x.png", ".hidden/x.png", "a/x.PNG", "A/x.png", "a.zip", "$HOME", "{0}", "None"),
)
STRINGS = (*NAMES, "1e5", "true", "null", "nan", "\u2028", "😀", "1_000", "0x1f", "x" * 10_000)
VALUES = (*NUMBERS, *STRINGS, None, True, False, [], {}, [[]], {"name": "none"}, float("nan"))
YAML_TEXTS = (
    *(
        "&a ",
        "*a",
        "!!int x",
        "!!python/object:os.system x",
        "!x ",
        "!<!> ",
        "{",
        "}",
        "[",
        "]",
        "? ",
    ),
    *("- ", ": ", "\t", "|", ">", "%YAML 9.9\n---\n", "\n---\n", "\n...\n", "\ufeff", "\0", "\x85"),
    *(
        ".inf",
        ".nan",
        "1:1:1",
        "2001-99-99",
        "<<: ",
        "'",
        '"',
        "0o9",
        "1e400",
        "# ",
        "\\",
        "@",
        "`",
    ),
    *("9" * 5000, "[" * 300, "{a: " * 300, "- " * 3000, "\U0001f600", "!!binary x", "!!set {a, b}"),
    *("!!timestamp 2001-13-45", "!!float x", "!!bool x", "!!omap [a]", "!!null x", "=", "~", "''"),
)


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """Flip bits, insert, delete, repeat or replace ranges, or truncate."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        start = (
            rng.randrange(len(data) + 1)
            if rng.random() < 0.6
            else rng.randrange(65) % (len(data) + 1)
        )
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
    """Replace, delete, rename, wrap, copy or deepen values; `vocabulary` has further ones."""
    tree = copy.deepcopy(tree)
    if not isinstance(tree, dict | list) or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(VALUES))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        paths = [*places(tree)]
        if paths:
            *outer, key = rng.choice(paths)
            value = rng.choice([*vocabulary, *VALUES] if rng.random() < 0.5 else VALUES)
            other = inner_value(tree, rng.choice(paths)) if rng.random() < 0.2 else value
            mutate_key(rng, inner_value(tree, outer), key, copy.deepcopy(other))
    return tree


def inner_value(tree: Any, path: Sequence[Any]) -> Any:
    """Return the value at a path."""
    for part in path:
        tree = tree[part]
    return tree


def mutate_key(rng: Random, section: Any, key: Any, value: Any) -> None:
    """Change one key of a mapping, or one entry of a list, if need be to `value`."""
    match rng.randrange(7):
        case 0:
            del section[key]
        case 1 if isinstance(section, dict):
            section[value if isinstance(value, str) else str(value)[:50]] = section.pop(key)
        case 2:
            section[key] = [section[key]] if rng.random() < 0.5 else {"name": section[key]}
        case 3:
            for _ in range(rng.choice((3, 90, 200))):
                section[key] = [section[key]] if rng.random() < 0.5 else {"a": section[key]}
        case 4 if isinstance(section, list):
            section *= rng.choice((2, 50))
        case _:
            section[key] = value


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


def mutate_array(rng: Random, array: np.ndarray) -> np.ndarray:
    """Change an array's type, shape or values."""
    match rng.randrange(7):
        case 0:
            return array.astype(
                rng.choice((np.float16, np.float64, np.int8, np.complex64, "S3", "U3"))
            )
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
