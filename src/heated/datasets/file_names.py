"""Names of files: which are images, which are tools' own, and which are left out."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from heated.common.errors import InputError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
TABLE_SUFFIXES = (".txt", ".mat")  # of the published sets
# Of network drives, recycle bins and macOS; names that begin with a dot are hidden, too.
TOOLS_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"}


def is_image(path: PurePosixPath) -> bool:
    """Return whether a relative path is named as an image, and is not a tool's own file."""
    return path.suffix.lower() in SUFFIXES and not any(map(is_tools_own, path.parts))


def is_tools_own(name: str) -> bool:
    """Return whether a file or folder is hidden or a tool's, such as .ipynb_checkpoints."""
    return (name.startswith(".") and name != "..") or name.casefold() in TOOLS_FOLDERS


def describe_left_out(names: Iterable[str]) -> str:
    """Count files that are not read by their ending, or the tool's folder that they are in.

    >>> describe_left_out(["a/1.heic", "b/2.heic", "@eaDir/1.png"])
    'left out: 2 .heic files such as a/1.heic, 1 @eaDir files such as @eaDir/1.png'
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for path in map(PurePosixPath, names):
        kind = next(filter(is_tools_own, path.parts), path.suffix.lower() or "other")
        counts[kind] += 1
        examples.setdefault(kind, str(path))
    kinds = (f"{n} {kind} files such as {examples[kind]}" for kind, n in counts.most_common(10))
    text = f"left out: {', '.join(kinds)}" if counts else ""
    return text.encode(errors="backslashreplace").decode()


def check_utf8(names: Iterable[str]) -> None:
    """Raise InputError for a name that is not UTF-8, which cannot be written to other files."""
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InputError(f"the name {name!r} is not UTF-8. Rename the file or folder.")


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and tables inside a folder, sorted by name, and the paths left out.

    A link to a directory, which may be a cycle, and a name that is not UTF-8 are errors.
    """
    found: list[Path] = []
    left_out: list[Path] = []
    for path in sorted(folder.iterdir()):
        if is_tools_own(path.name):
            left_out.append(path)
        elif path.is_dir():
            if path.is_symlink():
                raise InputError(f"{path}: got a link to a directory, expected the directory.")
            for paths, more in zip((found, left_out), list_files(path), strict=True):
                paths += more
        elif path.suffix.lower() in (*SUFFIXES, *TABLE_SUFFIXES):
            check_utf8([str(path)])
            if not path.is_file():
                raise InputError(f"{path}: got a broken link or a device, expected a file.")
            found.append(path)
        else:
            left_out.append(path)
    return found, left_out
