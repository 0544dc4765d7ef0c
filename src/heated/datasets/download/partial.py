"""A half file: bytes of an address, with which a later connection or a later process goes on.

What it is of stands beside it in `<name>.json`; without that it is begun anew.
"""

import re
import shutil
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from http.client import HTTPResponse
from pathlib import Path
from time import sleep

from tqdm import tqdm

from heated.common.io import read_json, write_json
from heated.datasets.download.http import CHUNK, Refusal, ask, chunks

TRIES = 4  # in a row that bring less than CHUNK
BACKOFF = 1.0  # seconds before the second of them, doubled before each further one


@dataclass(frozen=True)
class Origin:
    """What a half file is of; bytes with another validator or total do not go on with it."""

    address: str
    validator: str | None  # the strong ETag, else Last-Modified
    total: int | None  # bytes


def receive(address: str, half: Path, *, title: str, checked: bool) -> None:
    """All bytes at the address in the file `half`, after those it holds of them already.

    checked: whether the whole is held against a checksum afterwards; only then are bytes joined of
    which the server tells neither ETag nor Last-Modified.
    Refusal where the address does not give them, after TRIES tries in a row that brought next to
    nothing if it might have; OSError where they cannot be stored. What came stays in `half`.
    """
    most, failures = begun(half, address), 0
    while True:
        try:
            return attempt(address, half, title=title, checked=checked)
        except Refusal as refusal:
            if refusal.stale:
                discard(half)
            if refusal.again is None:
                raise
            now = begun(half, address)
            failures = 1 if now >= most + CHUNK else failures + 1
            most = max(most, now)
            if failures >= TRIES:
                raise Refusal(f"{refusal} (tried {failures} times)") from refusal
            seconds = max(refusal.again, BACKOFF * 2 ** (failures - 1))
            print(f"{title}: {refusal}; the next try is in {seconds:.0f} s", file=sys.stderr)
            sleep(seconds)


def attempt(address: str, half: Path, *, title: str, checked: bool) -> None:
    """One connection's bytes added to `half`; Refusal if it is not whole then."""
    known, start = origin(half, address), begun(half, address)
    if known and start and start == known.total:
        return
    with closing(ask(address, wanted(start, known))) as response:
        total = response.length
        if response.status == 206:
            total = total_of_rest(response, start, known)
        elif response.status != 200:
            raise Refusal(f"HTTP status {response.status}, not 200 OK")
        check_room(half.parent, (total or 0) - length(half))
        if response.status == 200:
            begin(half, response, address, checked=checked)
        pour(response, half, title=title, total=total)
    if total is not None and length(half) != total:
        raise Refusal(f"came {length(half)} of {total} bytes", again=0)


def wanted(start: int, known: Origin | None) -> dict[str, str]:
    """Headers that ask for the bytes from `start` on, or for all of them if they have changed."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and known and known.validator:
        headers["If-Range"] = known.validator
    return headers


def total_of_rest(response: HTTPResponse, start: int, known: Origin | None) -> int | None:
    """Bytes of the whole file; Refusal unless the answer is the known file's rest from `start`."""
    told = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told)
    if known and match and int(match[1]) == start:
        total = known.total if match[3] == "*" else int(match[3])
        same = validator(response) in (None, known.validator) and known.total in (None, total)
        fits = response.length in (None, int(match[2]) + 1 - start)
        if same and fits and (total is None or int(match[2]) < total):
            return total
    raise Refusal(
        f"asked for bytes from {start}, came '{told}' with {response.length} bytes",
        again=0,
        stale=True,
    )


def validator(response: HTTPResponse) -> str | None:
    """What tells one version of a file from the next; a weak ETag does not."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def begin(half: Path, response: HTTPResponse, address: str, *, checked: bool) -> None:
    """An empty half file, and beside it what it will be of, if it could be gone on with."""
    half.write_bytes(b"")
    sidecar(half).unlink(missing_ok=True)
    known = Origin(address, validator(response), response.length)
    if known.validator or (checked and response.headers.get("Accept-Ranges") == "bytes"):
        write_json(sidecar(half), asdict(known))


def pour(response: HTTPResponse, half: Path, *, title: str, total: int | None) -> None:
    """The answer's bytes after those of the half file."""
    bar = tqdm(
        desc=title, initial=length(half), total=total, unit="B", unit_scale=True, disable=None
    )
    with half.open("ab") as sink, bar:
        for chunk in chunks(response):
            sink.write(chunk)
            bar.update(len(chunk))


def check_room(folder: Path, needed: int) -> None:
    """OSError unless so many bytes more fit into the folder's file system."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{needed:,} bytes more are needed in {folder}, {free:,} are free there")


def origin(half: Path, address: str) -> Origin | None:
    """What the half file is of, if that is known and at this address."""
    try:
        known = Origin(**read_json(sidecar(half)))
    except (FileNotFoundError, TypeError, ValueError):
        return None
    return known if known.address == address else None


def begun(half: Path, address: str) -> int:
    """How many of the address's bytes the half file has."""
    return length(half) if origin(half, address) else 0


def length(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def sidecar(half: Path) -> Path:
    """Where it stands what a half file is of."""
    return half.with_name(f"{half.name}.json")


def discard(half: Path) -> None:
    """Remove a half file and what it is of."""
    half.unlink(missing_ok=True)
    sidecar(half).unlink(missing_ok=True)
