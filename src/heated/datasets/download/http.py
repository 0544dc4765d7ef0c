"""One answer of one http(s) address, and what went wrong with it (RFC 9110)."""

import ssl
import urllib.request as web
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import cast
from urllib.error import HTTPError, URLError

TIMEOUT = 30.0  # seconds without a byte
PATIENCE = 60.0  # seconds, the longest wait that a server may ask for
CHUNK = 1 << 20  # bytes


class Refusal(OSError):
    """What a place answered in place of the file.

    again: seconds after which it may answer otherwise; None where it will not.
    stale: the half file is not the beginning of what the place has.
    """

    def __init__(self, answer: str, *, again: float | None = None, stale: bool = False) -> None:
        super().__init__(answer)
        self.again, self.stale = again, stale


def ask(address: str, headers: Mapping[str, str]) -> HTTPResponse:
    """The answer of an address, 2xx, after redirects; anything else is a Refusal."""
    with network():
        if not address.startswith(("http://", "https://")):
            raise ValueError("allowed are addresses with http:// and https://")
        request = web.Request(address, headers=dict(headers))
        return cast(HTTPResponse, opener().open(request, timeout=TIMEOUT))


def opener() -> web.OpenerDirector:
    """urllib's, which follows redirects, without what opens file:, ftp: and data:."""
    opener = web.OpenerDirector()
    for handler in (
        web.ProxyHandler,
        web.UnknownHandler,
        web.HTTPHandler,
        web.HTTPSHandler,
        web.HTTPDefaultErrorHandler,
        web.HTTPRedirectHandler,
        web.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


@contextmanager
def network() -> Iterator[None]:
    """Whatever goes wrong with a connection becomes a Refusal."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise refusal(error) from error
    except URLError as error:
        passing = isinstance(error.reason, OSError)
        passing &= not isinstance(error.reason, ssl.SSLCertVerificationError)
        raise Refusal(str(error.reason), again=0 if passing else None) from error
    except (InvalidURL, ValueError) as error:
        raise Refusal(str(error)) from error
    except (OSError, HTTPException) as error:
        raise Refusal(str(error) or type(error).__name__, again=0) from error


def refusal(error: HTTPError) -> Refusal:
    """A status other than 2xx; those of an overload or a bad range may pass."""
    passing = error.code in (408, 416, 425, 429) or error.code >= 500
    again = wait(error.headers.get("Retry-After")) if passing else None
    return Refusal(str(error), again=again, stale=error.code == 416)


def wait(header: str | None) -> float:
    """Seconds of a Retry-After, which is a number of them or a date, at most PATIENCE.

    >>> wait("7"), wait("86400"), wait("Fri, 31 Dec 1999 23:59:59 GMT"), wait("soon"), wait(None)
    (7.0, 60.0, 0.0, 0.0, 0.0)
    """
    try:
        if header and not header.isdecimal():
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        else:
            seconds = float(header or 0)
    except (TypeError, ValueError):  # neither, or a date without its zone
        return 0.0
    return min(max(seconds, 0.0), PATIENCE)


def chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it comes, no more of it than its Content-Length says."""
    left = response.length
    while left is None or left > 0:
        with network():
            chunk = response.read1(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            return
        yield chunk
        left = None if left is None else left - len(chunk)
