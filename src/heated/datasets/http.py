"""Fetch a file from a URL and resume interrupted downloads (RFC 9110).

The sidecar `<name>.json` of a partial file identifies the file that its bytes belong to: address
(SHA-256 of the URL, which may contain a password), validator (the strong ETag, else Last-Modified)
and total (bytes). Without it the download restarts.
"""

import re
import shutil
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any

import requests
from requests.exceptions import ConnectionError, SSLError, Timeout
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from heated.common.errors import redacted_message
from heated.common.io import read_json, remove, write_json
from heated.common.progress import progress_bar

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20  # bytes
MAX_TRIES = 4  # consecutive tries that bring less than CHUNK
TEMPORARY = {408, 416, 425, 429}  # and 5xx


class DownloadFailed(OSError):
    """A file could not be fetched."""

    def __init__(self, text: str, *, retry_after: float | None = None, stale: bool = False) -> None:
        super().__init__(text)
        self.retry_after = retry_after  # seconds, None if a retry is useless
        self.stale = stale  # the partial file is not the beginning of this file


def fetch_url(url: str, path: Path, *, title: str, has_checksum: bool) -> None:
    """Fetch the bytes at `url` that the partial file `path` lacks; an error keeps those received.

    Without a checksum, bytes of two connections are joined only if the server identifies the
    version of its file.
    """
    most, failures = resumable_bytes(path, url), 0
    while True:
        try:
            return fetch_once(url, path, title=title, has_checksum=has_checksum)
        except DownloadFailed as error:
            if error.stale:
                discard(path)
            if error.retry_after is None:
                raise
            received = resumable_bytes(path, url)
            failures = 1 if received >= most + CHUNK else failures + 1
            most = max(most, received)
            if failures >= MAX_TRIES:
                raise DownloadFailed(f"{error} (tried {failures} times)") from error
            seconds = max(error.retry_after, 2.0 ** (failures - 1))
            print(f"{title}: {error}; retrying in {seconds:.0f} s", file=sys.stderr)
            sleep(seconds)


def fetch_once(url: str, path: Path, *, title: str, has_checksum: bool) -> None:
    """Append the bytes of one connection to `path`; raise DownloadFailed if some are missing."""
    known, start = load_sidecar(path, url), resumable_bytes(path, url)
    if start and start == known["total"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    with get(url, headers) as response:
        total = response.raw.length_remaining
        if response.status_code == 206:
            total = total_size(response, start, known)
        check_free_space(path.parent, (total or 0) - file_size(path))
        if response.status_code == 200:
            discard(path)
            path.touch()
            address = sha256(url.encode()).hexdigest()
            known = {"address": address, "validator": validator(response), "total": total}
            ranges = response.headers.get("Accept-Ranges")
            if known["validator"] or (has_checksum and ranges == "bytes"):
                write_json(Path(f"{path}.json"), known)
        append_body(response, path, title=title, total=total)
    if total is not None and file_size(path) != total:
        raise DownloadFailed(f"got {file_size(path)} of {total} bytes", retry_after=0)


def get(url: str, headers: dict[str, str]) -> requests.Response:
    """Return the response after redirects; raise DownloadFailed if its status is not 200 or 206."""
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.RequestException, HTTPError, ValueError) as error:  # the last for bad URLs
        cause = getattr(error.args[0] if error.args else error, "reason", None) or error
        temporary = isinstance(error, (ConnectionError, Timeout, HTTPError))
        temporary &= not (isinstance(error, SSLError) and "CERTIFICATE_VERIFY" in str(error))
        text = redacted_message(cause, url)
        raise DownloadFailed(text, retry_after=0 if temporary else None) from error
    status, retry_after = response.status_code, 0.0
    if status in (200, 206):
        return response
    response.close()
    with suppress(InvalidHeader, ValueError, OverflowError):  # as for a date of no calendar
        requested = Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
        retry_after = min(requested, 60.0)  # the longest wait that a server may request
    raise DownloadFailed(
        f"HTTP status {status} {response.reason}",
        retry_after=retry_after if status in TEMPORARY or status >= 500 else None,
        stale=status == 416,
    )


def total_size(response: requests.Response, start: int, known: dict[str, Any]) -> int | None:
    """Return the bytes of the whole file; raise DownloadFailed if the response is not its rest."""
    header, length = response.headers.get("Content-Range", ""), response.raw.length_remaining
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header)
    if known and match and int(match[1]) == start:
        total = known["total"] if match[3] == "*" else int(match[3])
        same = validator(response) in (None, known["validator"]) and known["total"] in (None, total)
        fits = length in (None, int(match[2]) + 1 - start)
        if same and fits and (total is None or int(match[2]) < total):
            return total
    raise DownloadFailed(
        f"Content-Range: got {header!r} with {length} bytes, expected the rest from {start} on",
        retry_after=0,
        stale=True,
    )


def validator(response: requests.Response) -> str | None:
    """Return the header that identifies the file's version; a weak ETag does not."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def append_body(response: requests.Response, path: Path, *, title: str, total: int | None) -> None:
    """Append the response's bytes as they arrive, without decoding Content-Encoding."""
    start = file_size(path)
    bar = progress_bar(None, title, initial=start, total=total, unit="B", unit_scale=True)
    with path.open("ab") as file, bar:
        while True:
            try:
                chunk = response.raw.read1(CHUNK, decode_content=False)
            except HTTPError as error:
                got = f"got {file_size(path)} of {total} bytes" if total else "connection cut"
                raise DownloadFailed(f"{got}: {error}", retry_after=0) from error
            if not chunk:
                return
            file.write(chunk)
            file.flush()
            bar.update(len(chunk))


def check_free_space(folder: Path, needed: int) -> None:
    """Raise OSError if `needed` more bytes do not fit into the folder's file system."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{folder}: got {free:,} bytes of free space, expected {needed:,}")


def load_sidecar(path: Path, url: str) -> dict[str, Any]:
    """Return the content of a partial file's sidecar, empty unless it is valid and of this URL."""
    address = sha256(url.encode()).hexdigest()
    with suppress(FileNotFoundError, ValueError):
        known = read_json(Path(f"{path}.json"))
        if isinstance(known, dict) and known.get("address") == address:
            return {"validator": None, "total": None, **known}
    return {}


def resumable_bytes(path: Path, url: str) -> int:
    """Return how many bytes of the URL's file the partial file has."""
    return file_size(path) if load_sidecar(path, url) else 0


def file_size(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def discard(path: Path) -> None:
    """Delete a partial file and its sidecar."""
    remove(path)
    remove(Path(f"{path}.json"))
