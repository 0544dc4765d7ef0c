"""A file from a URL. A partial file lets a later connection or process fetch the rest (RFC 9110).

Beside a partial file, `<name>.json` says which bytes it holds; without it the file starts anew.
"""

import re
import shutil
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import sleep

import requests
from requests.exceptions import ConnectionError, SSLError, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from heated.common.errors import without_secrets
from heated.common.io import read_json, remove, write_json

TIMEOUT = 30.0  # seconds without a byte
PATIENCE = 60.0  # seconds, the longest wait that a server may ask for
CHUNK = 1 << 20  # bytes
TRIES = 4  # in a row that bring less than CHUNK
BACKOFF = 1.0  # seconds before the second of them, doubled before each further one
TEMPORARY = {408, 416, 425, 429}  # and 5xx


class Refusal(OSError):
    """The answer of a place that did not give the file.

    again: seconds after which to try once more; None if that is useless.
    stale: the partial file is not the beginning of this file.
    """

    def __init__(self, answer: str, *, again: float | None = None, stale: bool = False) -> None:
        super().__init__(answer)
        self.again, self.stale = again, stale


@dataclass(frozen=True)
class Origin:
    """The file that a partial file belongs to."""

    address: str  # its identity
    validator: str | None  # the strong ETag, else Last-Modified
    total: int | None  # bytes


def receive(address: str, partial: Path, *, title: str, checked: bool) -> None:
    """Fetch the bytes at the address that `partial` lacks.

    Args:
        checked: Whether the caller verifies a checksum. If not, bytes are joined only where the
            server identifies the version of its file.

    Raises:
        Refusal: If the address fails, or TRIES tries in a row bring next to nothing.
        OSError: If the bytes cannot be stored. Those received stay in `partial`.
    """
    most, failures = begun(partial, address), 0
    while True:
        try:
            return attempt(address, partial, title=title, checked=checked)
        except Refusal as refusal:
            if refusal.stale:
                discard(partial)
            if refusal.again is None:
                raise
            now = begun(partial, address)
            failures = 1 if now >= most + CHUNK else failures + 1
            most = max(most, now)
            if failures >= TRIES:
                raise Refusal(f"{refusal} (tried {failures} times)") from refusal
            seconds = max(refusal.again, BACKOFF * 2 ** (failures - 1))
            print(f"{title}: {refusal}; the next try is in {seconds:.0f} s", file=sys.stderr)
            sleep(seconds)


def attempt(address: str, partial: Path, *, title: str, checked: bool) -> None:
    """Add the bytes of one connection to `partial`; Refusal if it is still incomplete."""
    known, start = origin(partial, address), begun(partial, address)
    if known and start and start == known.total:
        return
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known and known.validator:
            headers["If-Range"] = known.validator
    with ask(address, headers) as response:
        total = response.raw.length_remaining
        if response.status_code == 206:
            total = total_of_rest(response, start, known)
        check_room(partial.parent, (total or 0) - length(partial))
        if response.status_code == 200:
            begin(partial, response, address, checked=checked)
        pour(response, partial, title=title, total=total)
    if total is not None and length(partial) != total:
        raise Refusal(f"came {length(partial)} of {total} bytes", again=0)


def ask(address: str, headers: dict[str, str]) -> requests.Response:
    """Return the response 200 or 206 of an address, after redirects; else raise Refusal."""
    try:
        response = requests.get(address, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.RequestException, HTTPError) as error:
        cause = getattr(error.args[0] if error.args else error, "reason", None) or error
        passing = isinstance(error, (ConnectionError, Timeout, HTTPError))
        passing &= not (isinstance(error, SSLError) and "CERTIFICATE_VERIFY" in str(error))
        told = str(cause).replace(address, without_secrets(address))
        raise Refusal(told, again=0 if passing else None) from error
    status = response.status_code
    if status in (200, 206):
        return response
    response.close()
    passing = status in TEMPORARY or status >= 500
    raise Refusal(
        f"HTTP status {status} {response.reason}",
        again=retry_after(response.headers.get("Retry-After")) if passing else None,
        stale=status == 416,
    )


def retry_after(header: str | None) -> float:
    """Return the seconds of a Retry-After header, at most PATIENCE.

    >>> retry_after("7"), retry_after("86400"), retry_after("soon"), retry_after(None)
    (7.0, 60.0, 0.0, 0.0)
    >>> retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), retry_after("Fri, 31 Dec 99999 23:59:59 GMT")
    (0.0, 0.0)
    """
    try:
        return float(min(Retry().parse_retry_after(header or "0"), PATIENCE))
    except (InvalidHeader, ValueError, OverflowError):  # or a date that no calendar has
        return 0.0


def total_of_rest(response: requests.Response, start: int, known: Origin | None) -> int | None:
    """Return the file's bytes; Refusal unless the response is its rest from `start` on."""
    told, came = response.headers.get("Content-Range", ""), response.raw.length_remaining
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told)
    if known and match and int(match[1]) == start:
        total = known.total if match[3] == "*" else int(match[3])
        same = validator(response) in (None, known.validator) and known.total in (None, total)
        fits = came in (None, int(match[2]) + 1 - start)
        if same and fits and (total is None or int(match[2]) < total):
            return total
    raise Refusal(
        f"asked for bytes from {start}, came '{told}' with {came} bytes", again=0, stale=True
    )


def validator(response: requests.Response) -> str | None:
    """Return what identifies the file's version; a weak ETag does not."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def begin(partial: Path, response: requests.Response, address: str, *, checked: bool) -> None:
    """Empty the partial file, and write its origin if it could be resumed."""
    discard(partial)
    partial.touch()
    known = Origin(identity(address), validator(response), response.raw.length_remaining)
    if known.validator or (checked and response.headers.get("Accept-Ranges") == "bytes"):
        write_json(sidecar(partial), asdict(known))


def pour(response: requests.Response, partial: Path, *, title: str, total: int | None) -> None:
    """Append the response's bytes as they arrive, as they are stored on the server."""
    start = length(partial)
    bar = tqdm(desc=title, initial=start, total=total, unit="B", unit_scale=True, disable=None)
    with partial.open("ab") as sink, bar:
        while True:
            try:
                chunk = response.raw.read1(CHUNK, decode_content=False)
            except HTTPError as error:
                came = f"came {length(partial)} of {total} bytes" if total else "the body was cut"
                raise Refusal(f"{came}: {error}", again=0) from error
            if not chunk:
                return
            sink.write(chunk)
            sink.flush()
            bar.update(len(chunk))


def check_room(folder: Path, needed: int) -> None:
    """OSError unless so many more bytes fit into the folder's file system."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{needed:,} bytes more are needed in {folder}, {free:,} are free there")


def origin(partial: Path, address: str) -> Origin | None:
    """Return the partial file's origin if it is known and has this address."""
    try:
        known = Origin(**read_json(sidecar(partial)))
    except (FileNotFoundError, TypeError, ValueError):
        return None
    return known if known.address == identity(address) else None


def identity(address: str) -> str:
    """What tells an address from others; it may hold a password, so it is not written down."""
    return sha256(address.encode()).hexdigest()


def begun(partial: Path, address: str) -> int:
    """Return how many of the address's bytes the partial file has."""
    return length(partial) if origin(partial, address) else 0


def length(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def sidecar(partial: Path) -> Path:
    """Return the path of a partial file's origin."""
    return partial.with_name(f"{partial.name}.json")


def discard(partial: Path) -> None:
    """Remove a partial file and its origin."""
    remove(partial)
    remove(sidecar(partial))
