"""Errors that a user can fix, and commands that end with their messages and no traceback."""

import errno
import inspect
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit


class InputError(ValueError):
    """A message with the given value, the expected one, and what to do."""


def suggestion(name: object, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" if an allowed name is similar, else an empty string."""
    similar = get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {similar[0]!r}?" if similar else ""


def check_choice(option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise InputError, with the most similar name, if an option's value is not allowed."""
    names = [*allowed]
    if value not in names:
        expected = f"one of {', '.join(names)}.{suggestion(value, names)}"
        raise InputError(f"{option}: got {value!r}, expected {expected}")


def redact_url(address: str) -> str:
    """Return an address without user, password and query, which may be secrets.

    >>> redact_url("https://me:secret@example.org/a?token=b"), redact_url("../mirror")
    ('https://example.org/a?...', '../mirror')
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        return address
    try:
        parts = urlsplit(address)
        _ = parts.port  # no number if a password has a slash, which ends the host's part
    except ValueError:
        return f"{scheme}://..."
    query = "?..." if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def redacted_message(error: BaseException, address: str) -> str:
    """Return an error's text without the secrets of an address.

    It is only the error's type if the text has them in another form: libraries quote addresses, or
    name a part of them.
    """
    redacted = redact_url(address)
    text = str(error).replace(address, redacted)
    _, _, rest = address.partition("://")
    user, _, host = rest.rpartition("@")
    secrets = {user, user.partition(":")[2], host.partition("?")[2]}
    forms = {form(secret) for secret in secrets - {""} for form in (str, quote, unquote)}
    if redacted.endswith("://...") or any(form in text for form in forms):
        return type(error).__name__
    return text


def run(main: Callable[..., None], parser: ArgumentParser | None = None) -> None:
    """Call `main` with the command line's arguments, by default one per parameter of `main`."""
    if parser is None:
        spec = sys.modules[main.__module__].__spec__
        prog = f"python -m {spec.name}" if spec else None
        parser = ArgumentParser(prog, description=main.__doc__)
        for name, each in inspect.signature(main).parameters.items():
            kind = Path if each.annotation is Path else str
            parser.add_argument(name, metavar=name.upper(), type=kind)
    arguments = vars(parser.parse_args())
    with exit_on_error():
        main(**arguments)


FULL = "Free some space: checkpoints/ and downloads/ may be deleted, `dvc gc --workspace` deletes "
FULL += "results of earlier settings. Then run the command again."
LITTLE_MEMORY = "Close other programs, run fewer JOBS, or lower batch_size or memory_mib in "
LITTLE_MEMORY += "datasets.yaml. Then run the command again."
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), FULL),
    errno.ENOMEM: LITTLE_MEMORY,
    errno.EROFS: "Use a folder on a file system that can be written.",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Change its owner or permissions."),
    errno.EISDIR: "Put the file in place of the folder, or delete it and run `dvc repro`.",
    errno.EMFILE: "Run `ulimit -n 4096`, then the command again.",
    errno.EIO: "Check the disk, and copy the project to another one.",
}
TEXTS = {  # of errors by libraries, which have no errno
    errno.ENOSPC: ("No space left on device", "requested and"),  # safetensors, numpy
    errno.ENOMEM: (
        "out of memory",
        "can't allocate memory",
        "start new thread",
    ),  # torch, threading
}
MAX_MESSAGE = 10_000  # characters: names in an archive may be of any length


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit with a message and status 1 on trouble that a user can end; raise any other error."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = error_message(error)
        if message is None:
            raise
        cut = f" ... (and {len(message) - MAX_MESSAGE} more characters)"
        sys.exit(message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + cut)


def error_message(error: Exception) -> str | None:
    """Return the message of an error that a user can fix, None if the program is to blame.

    >>> error_message(InputError("x: got 1, expected 2."))
    'x: got 1, expected 2.'
    >>> error_message(PermissionError(13, "Permission denied", "report"))
    'report: Permission denied. Change its owner or permissions.'
    >>> error_message(KeyError("x")) is None
    True
    """
    if isinstance(error, InputError | FloatingPointError):
        return str(error)
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif number is None and (
        isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"
    ):
        texts = (n for n, parts in TEXTS.items() if any(part in str(error) for part in parts))
        number = next(texts, None)
    if number in ADVICE:
        what = getattr(error, "strerror", None) or str(error) or "Not enough memory"
        file = getattr(error, "filename", None)
        return f"{f'{file}: ' if file else ''}{what}. {ADVICE[number]}"
    return str(error) if isinstance(error, OSError) else None
