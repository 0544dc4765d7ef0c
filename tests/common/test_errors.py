import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from heated.common.errors import InputError, run


@pytest.fixture
def call(monkeypatch):
    """A function that runs a stage's `main` with a command line."""

    def with_arguments(main, *arguments):
        monkeypatch.setattr("sys.argv", ["stages/made_up.py", *arguments])
        run(main)

    return with_arguments


def test_arguments_are_passed_in_order_and_a_wrong_number_ends_with_the_usage(call, capsys):
    def main(dataset: str, packed: Path) -> None:
        print(repr((dataset, packed)))

    call(main, "digits", "data/packed")
    assert capsys.readouterr().out == f"{('digits', Path('data/packed'))}\n"
    for arguments in ((), ("digits",), ("digits", "a", "b")):
        with pytest.raises(SystemExit) as caught:
            call(main, *arguments)
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert (out, err.split("\n")[0]) == ("", "usage: python -m test_errors [-h] DATASET PACKED")


def test_errors_of_the_user_end_with_their_message_and_other_errors_are_raised(call):
    def main() -> None:
        raise error

    for error in (InputError("use `split: halves`"), FileNotFoundError("x"), FloatingPointError()):
        with pytest.raises(SystemExit) as ended:
            call(main)
        assert ended.value.code == str(error)  # a text as code: printed, and status 1
    error = InputError("x" * 60_000)  # such as a list of long names
    with pytest.raises(SystemExit, match=r"^x{10000} ... \(and 50000 more characters\)$"):
        call(main)
    messages = {
        OSError(errno.ENOSPC, "No space left on device", "runs/a"): ("runs/a: No space", "Free"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "runs/a"): ("runs/a: Disk quota", "Free some"),
        SafetensorError("I/O error: No space left on device (os error 28)"): ("No space", "Free"),
        OSError("900 requested and 12 written"): ("900 requested and 12 written", "Free some"),
        OSError(errno.EROFS, "Read-only file system", "report"): (
            "report: Read-only",
            "Use a folder",
        ),
        PermissionError(errno.EACCES, "Permission denied", "a"): ("a: Permission", "owner or perm"),
        MemoryError(): ("Not enough memory. ", "lower batch_size"),
        MemoryError("Unable to allocate 9 GiB"): ("Unable to allocate 9 GiB. ", "fewer JOBS"),
        OSError(errno.ENOMEM, "Cannot allocate memory"): ("Cannot allocate", "lower batch_size"),
        RuntimeError("CUDA out of memory. Tried"): ("CUDA out of memory", "lower batch_size"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"): (
            "CPUAlloc",
            "lower batch_size",
        ),
    }
    for each, parts in messages.items():
        error = each
        with pytest.raises(SystemExit) as ended:
            call(main)
        assert all(part in ended.value.code for part in parts), ended.value.code
    error = KeyboardInterrupt()
    with pytest.raises(SystemExit) as ended:
        call(main)
    assert ended.value.code == 130
    for error in (ValueError("x"), RuntimeError("x"), KeyError("x"), AssertionError("x")):
        with pytest.raises(type(error)) as raised:
            call(main)
        assert raised.value is error
