import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.common.history import add_system_metrics, read_history, write_history

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
OPTIONAL = {"recall_at_1": NUMBERS, "inter_class_distance": NUMBERS}
ROWS = st.lists(st.fixed_dictionaries({"loss": NUMBERS}, optional=OPTIONAL), min_size=1, max_size=4)


@given(seeds=st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=3), rows=ROWS)
def test_histories_round_trip_to_the_last_digit(tmp_path_factory, seeds, rows):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    numbered = {seed: [{"epoch": epoch, **row} for epoch, row in enumerate(rows)] for seed in seeds}
    write_history(path, numbered)
    assert [*read_history(path).items()] == [*numbered.items()]


def test_the_file_is_csv_with_a_row_per_seed_and_epoch_and_empty_cells_are_left_out(tmp_path):
    path = tmp_path / "history.csv"
    with pytest.raises(FileNotFoundError, match=r"history.csv is missing: the stage 'train'"):
        read_history(path)
    rows = [{"epoch": 0, "alpha": 16.0}, {"epoch": 1, "alpha": 4.0, "recall_at_1": 0.5}]
    write_history(path, {3: rows, 7: rows})
    expected = "seed,epoch,alpha,recall_at_1\n3,0,16.0,\n3,1,4.0,0.5\n7,0,16.0,\n7,1,4.0,0.5\n"
    assert path.read_bytes() == expected.encode()
    path.write_text("seed,epoch,alpha,recall_at_1\n3,0,16,\n", encoding="utf-8")
    ((seed, (row,)),) = read_history(path).items()
    assert (seed, row) == (3, {"epoch": 0, "alpha": 16.0})
    assert [type(value) for value in row.values()] == [int, float]


HEAD = "seed,epoch,loss\n"
WRONG_HISTORIES = {
    "": "got no epochs",
    HEAD: "got no epochs",
    HEAD + "0,0,1\n0,1,nan\n": "seed 0: got loss nan, expected finite",
    HEAD + "0,0,inf\n": "seed 0: got loss inf, expected finite",
    HEAD + "0,0,1\n0,1,1\n1,0,1\n": r"seed 1: got epochs \[0\], expected 0 to 1",
    HEAD + "0,1,1\n": r"seed 0: got epochs \[1\], expected 0 to 0",
    HEAD + "0,0,1\n0,0,1\n": r"got epochs \[0, 0\], expected 0 to 1",
}


@pytest.mark.parametrize("text", WRONG_HISTORIES)
def test_an_empty_short_or_not_finite_history_is_neither_written_nor_read(text, tmp_path):
    path, rows = tmp_path / "history.csv", list(csv.DictReader(text.splitlines()))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"history.csv.*{WRONG_HISTORIES[text]}.*'train' again"):
        read_history(path)
    histories = {}
    for row in rows:
        numbers = {"epoch": int(row["epoch"]), "loss": float(row["loss"])}
        histories.setdefault(int(row["seed"]), []).append(numbers)
    path.unlink()
    with pytest.raises(InputError, match=WRONG_HISTORIES[text]):
        write_history(path, histories)
    assert not path.exists()


def test_a_history_has_as_many_epochs_as_the_training(tmp_path):
    write_history(tmp_path / "history.csv", {0: [{"epoch": 0, "loss": 1.0}]})
    assert read_history(tmp_path / "history.csv", 1)
    with pytest.raises(InputError, match=r"got epochs \[0\], expected 0 to 7"):
        read_history(tmp_path / "history.csv", 8)


def test_system_metrics_are_added_to_the_row_of_their_epoch():
    history = {0: [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0}], 1: [{"epoch": 0}]}
    metrics = {"0": [{"epoch": 1, "system/x": 5.0}]}
    assert add_system_metrics(history, metrics) == {
        0: [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0, "system/x": 5.0}],
        1: [{"epoch": 0}],
    }
