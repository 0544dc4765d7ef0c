"""Keep what a build made, and compare a later build with it, to the last bit.

    python tests/compare_builds.py keep KEPT.json [FOLDER]
    python tests/compare_builds.py compare KEPT.json [FOLDER]

Arrays and tensors are compared by their values: their names, and the bytes around them, may change.
On another processor, or with another version of torch, the last digits differ.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

ARRAYS = ("data/packed/*/*.np[yz]", "runs/*/*/models/*", "runs/*/*/embeddings/*")
FILES = ("metrics.json", "report/claims.json", "runs/*/*/*.json", "runs/*/*/*.csv")
NOT_RESULTS = ("provenance.json", "tuned.json")  # they hold times


def hashes(folder: Path) -> dict[str, Any]:
    """Return a hash of every result below a build's folder, by path."""
    found: dict[str, Any] = {}
    for path in matching(folder, ARRAYS):
        values = [*arrays(path)]
        found[str(path.relative_to(folder))] = sorted(map(array_hash, values))
    for path in matching(folder, FILES):
        if path.name not in NOT_RESULTS:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files that match any of the patterns."""
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def arrays(path: Path) -> Iterator[np.ndarray]:
    """Yield every array in a file."""
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            yield from (file.get_tensor(name) for name in file.keys())  # noqa: SIM118
    elif path.suffix in (".npy", ".npz"):
        loaded = np.load(path, allow_pickle=False)
        yield from loaded.values() if path.suffix == ".npz" else [loaded]


def array_hash(values: np.ndarray) -> str:
    """Return a hash of type, shape and values."""
    kind = f"{values.dtype} {values.shape} ".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(values).tobytes()).hexdigest()


def main(command: str, kept: str, folder: str = ".") -> int:
    """Keep or compare; return 1 and list the differing files if there are any."""
    found = hashes(Path(folder))
    if command == "keep":
        Path(kept).write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"{len(found)} results kept in {kept}")
        return 0
    expected = json.loads(Path(kept).read_text(encoding="utf-8"))
    different = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    for name in different:
        lost = "missing" if name not in found else "new" if name not in expected else "different"
        print(f"{lost}: {name}")
    print(f"{len(expected) - len(different)} of {len(expected)} results are equal")
    return int(bool(different))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("keep", "compare"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
