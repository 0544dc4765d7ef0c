"""Errors that a user can fix: shown without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches
from urllib.parse import urlsplit


class InputError(ValueError):
    """A message with what was given, what is allowed, and what to do."""


def suggestion(name: object, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" if an allowed name is near, else an empty string."""
    near = get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def one_of(option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise InputError, with the nearest name, unless an option's value is allowed."""
    names = [*allowed]
    if value not in names:
        hint = suggestion(value, names)
        raise InputError(f"{option}: came {value!r}; allowed: {', '.join(names)}.{hint}")


def without_secrets(address: str) -> str:
    """An address as it may be printed: without user, password and query, which may be secrets.

    >>> without_secrets("https://me:secret@example.org/a?token=b"), without_secrets("../mirror")
    ('https://example.org/a?...', '../mirror')
    """
    if "://" not in address:
        return address
    parts = urlsplit(address)
    query = "?..." if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"
