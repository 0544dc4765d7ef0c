"""Save hashes of a build's results, and compare a later build with them, to the last bit.

    python tests/compare_builds.py keep HASHES.json [FOLDER]
    python tests/compare_builds.py compare HASHES.json [FOLDER]

Arrays and tensors are compared by value; their names and the files' other bytes may change. On
another processor, or with another version of torch, the last digits differ.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ARRAYS = ("data/packed/*/*.np[yz]", "runs/*/*/models/*", "runs/*/*/embeddings/*")
FILES = ("metrics/*/*.json", "report/claims.json", "runs/*/*/*.json", "runs/*/*/*.csv")
EXCLUDED = ("provenance.json", "tuned.json")  # they hold times


def hash_results(folder: Path) -> dict[str, Any]:
    """Return a hash of every result in a build's folder, by path; of arrays, a sorted list."""
    found: dict[str, Any] = {}
    for path in sorted(path for pattern in ARRAYS for path in folder.glob(pattern)):
        arrays = load_file(path) if path.suffix == ".safetensors" else np.load(path)
        values = [arrays] if path.suffix == ".npy" else arrays.values()
        found[str(path.relative_to(folder))] = sorted(map(hash_array, values))
    for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
        if path.name not in EXCLUDED:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def hash_array(values: np.ndarray) -> str:
    """Return a hash of type, shape and values."""
    kind = f"{values.dtype} {values.shape} ".encode()
    return hashlib.sha256(kind + values.tobytes()).hexdigest()


def main(command: str, path: str, folder: str = ".") -> int:
    """Save or compare hashes; return 1 and list the differing files if there are any."""
    found = hash_results(Path(folder))
    if command == "keep":
        Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"hashes of {len(found)} results saved to {path}")
        return 0
    expected = json.loads(Path(path).read_text(encoding="utf-8"))
    names = sorted(expected.keys() | found.keys())
    different = [name for name in names if expected.get(name) != found.get(name)]
    for name in different:
        kind = "missing" if name not in found else "new" if name not in expected else "different"
        print(f"{kind}: {name}")
    print(f"{len(expected) - len(different)} of {len(expected)} results are equal")
    return int(bool(different))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("keep", "compare"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
