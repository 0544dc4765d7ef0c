"""Print an entry of the parameters with everything filled in."""

import json
from collections.abc import Iterator

from heated.common.errors import suggestion
from heated.config import ParamsError, Sources
from heated.config.entries import Entry


def shown(sources: Sources, name: str) -> str:
    """Return an entry as lines `key: value  # entry that the value comes from`.

    Args:
        sources: The sections of all files.
        name: Path of the entry, such as `methods.hbn` or `datasets.sop`.

    Raises:
        ParamsError: If there is no such entry.
    """
    known = {
        f"{kind}.{key}": e for kind, found in sources.entries.items() for key, e in found.items()
    }
    if name not in known:
        names = ", ".join(known)
        hint = suggestion(name, list(known))
        raise ParamsError(f"--show: got {name!r}, expected one of {names}.{hint}")
    rows = [*leaves(known[name])]
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in rows)


def leaves(entry: Entry, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield `key: value` and the origin of everything in an entry that is no mapping itself."""
    for key, inner in entry.written.items():
        if isinstance(inner.written, dict):
            yield from leaves(inner, f"{path}{key}.")
        else:
            value = inner.value
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{path}{key}: {text}", inner.writer
