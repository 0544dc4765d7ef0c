"""Keep a copy of dvc.lock, and restore it after a kill.

DVC writes dvc.lock in place, so that a kill may cut it off: a copy that DVC could read is kept, and
replaces such a file. A cut between two outputs leaves a file that DVC can read. It is found if it
is the start of the copy; DVC takes the results that other ones lack from its cache.
"""

import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

LOCK, LOCK_COPY = Path("dvc.lock"), Path(".dvc/tmp/dvc.lock.copy")
LOCK_END = re.compile(rb"\n      (md5|size|nfiles|isexec): \S+\r?\n\Z")  # of an entry


def keep_lock_file() -> None:
    """Copy dvc.lock, which DVC has just read."""
    if LOCK.exists():
        part = LOCK_COPY.with_suffix(".part")
        shutil.copyfile(LOCK, part)
        part.replace(LOCK_COPY)


def restore_lock_file() -> None:
    """Replace a dvc.lock that a kill cut off by the copy; exit with advice if there is none."""
    copy = LOCK_COPY.read_bytes() if LOCK_COPY.exists() else b""
    if not LOCK.exists() or not is_cut_off(LOCK.read_bytes(), copy):
        return
    if not copy:
        sys.exit(
            "dvc.lock is cut off, probably by a kill. Run `git checkout dvc.lock` if it is "
            "committed, or delete it: DVC takes unchanged results from its cache."
        )
    shutil.copyfile(LOCK_COPY, LOCK)
    print("dvc.lock was cut off, probably by a kill: replaced by its last good copy.")


def is_cut_off(lock: bytes, copy: bytes) -> bool:
    """Whether a lock file ends within an entry, or is the start of its copy and not committed."""
    if not LOCK_END.search(lock):
        return True
    return lock != copy and copy.startswith(lock) and lock != committed_lock()


def committed_lock() -> bytes | None:
    """Return dvc.lock of the current commit, None if there is none; it may lack later stages."""
    with suppress(OSError):
        done = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None
    return None
