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
    came = []

    def main(dataset: str, packed: Path, models: Path) -> None:
        came.extend([dataset, packed, models])

    call(main, "digits", "data/packed", "runs/models")
    assert came == ["digits", Path("data/packed"), Path("runs/models")]
    assert isinstance(came[0], str)
    assert isinstance(came[1], Path)


@pytest.mark.parametrize("arguments", [(), ("digits",), ("digits", "a", "b")])
def test_a_wrong_number_of_arguments_ends_with_the_usage_and_status_2(call, capsys, arguments):
    def main(dataset: str, packed: Path) -> None:
        raise AssertionError("called")

    with pytest.raises(SystemExit) as ended:
        call(main, *arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "usage: python -m stages.made_up DATASET PACKED\n"


@pytest.mark.parametrize(
    "error", [InputError("write `split: halves`"), FileNotFoundError("x"), FloatingPointError("y")]
)
def test_what_a_user_can_put_right_ends_with_its_message_alone(call, error):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        call(main)
    assert ended.value.code == str(error)  # a text as code: printed, and status 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError("x")])
def test_any_other_error_keeps_its_traceback(call, error):
    def main() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call(main)
    assert raised.value is error
