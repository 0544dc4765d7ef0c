from pathlib import Path

import pytest

from heated.common.cli import run
from heated.common.errors import InputError


@pytest.fixture
def call(monkeypatch):
    """Runs a stage's function with a command line."""

    def with_arguments(main, *arguments):
        monkeypatch.setattr("sys.argv", ["stages/made_up.py", *arguments])
        run(main)

    return with_arguments


def test_arguments_come_in_order_and_paths_as_paths(call):
    given = []

    def main(dataset: str, packed: Path) -> None:
        given.extend([dataset, packed])

    call(main, "digits", "data/packed")
    assert given == ["digits", Path("data/packed")]
    assert isinstance(given[0], str)


def test_a_wrong_number_of_arguments_ends_with_the_usage_and_status_2(call, capsys):
    def main(dataset: str, packed: Path) -> None:
        raise AssertionError("called")

    for arguments in ((), ("digits",), ("digits", "a", "b")):
        with pytest.raises(SystemExit) as ended:
            call(main, *arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("usage: python -m test_cli [-h] DATASET PACKED\n")


def test_what_a_user_can_fix_ends_with_its_message_alone_and_another_error_is_raised(call):
    def main() -> None:
        raise error

    for error in (
        InputError("write `split: halves`"),
        FileNotFoundError("x"),
        FloatingPointError(),
    ):
        with pytest.raises(SystemExit) as ended:
            call(main)
        assert ended.value.code == str(error)  # a text as code: printed, and status 1
    for error in (ValueError("x"), KeyError("x"), AssertionError("x")):
        with pytest.raises(type(error)) as raised:
            call(main)
        assert raised.value is error
