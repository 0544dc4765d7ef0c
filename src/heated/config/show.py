"""Print an entry of the parameters with everything filled in."""

from collections.abc import Iterator
from typing import Any

from heated.config import ParamsError, Sources
from heated.config.error_messages import suggestion


def shown(sources: Sources, name: str) -> str:
    """Return an entry as lines `key: value  # entry that the value comes from`.

    Args:
        sources: The sections of all files.
        name: Path of the entry, such as `methods.hbn` or `datasets.sop`.

    Raises:
        ParamsError: If there is no such entry.
    """
    section, _, key = name.partition(".")
    entries = sources.entries.get(section, {})
    if (entry := entries.get(key)) is None:
        known = [f"{kind}.{each}" for kind, found in sources.entries.items() for each in found]
        raise ParamsError(
            f"--show: got {name!r}, expected one of {', '.join(known)}.{suggestion(name, known)}"
        )
    rows = [
        (f"{'.'.join(path)}: {text(value)}", entry.origin(path))
        for path, value in leaves(entry.value)
    ]
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in rows)


def leaves(
    value: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of everything in a mapping that is no mapping itself."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


def text(value: Any) -> str:
    """Return a value as YAML writes it in one line."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
