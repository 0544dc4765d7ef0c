from pathlib import Path

import pytest

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
    for error in (ValueError("x"), KeyError("x"), AssertionError("x")):
        with pytest.raises(type(error)) as raised:
            call(main)
        assert raised.value is error
