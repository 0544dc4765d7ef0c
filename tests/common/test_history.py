import pytest
from hypothesis import given
from hypothesis import strategies as st

from heated.common.io import add_system_metrics, read_history, write_history

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
OPTIONAL = {"recall_at_1": NUMBERS, "inter_class_distance": NUMBERS}
ROWS = st.lists(st.fixed_dictionaries({"loss": NUMBERS}, optional=OPTIONAL), min_size=1, max_size=4)


@given(histories=st.dictionaries(st.integers(0, 2**32 - 1), ROWS, min_size=1, max_size=3))
def test_histories_round_trip_to_the_last_digit(tmp_path_factory, histories):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    numbered = {
        seed: [{"epoch": epoch, **row} for epoch, row in enumerate(rows)]
        for seed, rows in histories.items()
    }
    write_history(path, numbered)
    assert [*read_history(path).items()] == [*numbered.items()]


def test_the_file_is_csv_with_a_row_per_seed_and_epoch_and_empty_cells_are_left_out(tmp_path):
    path = tmp_path / "history.csv"
    with pytest.raises(FileNotFoundError, match=r"history.csv is missing: the stage 'train'"):
        read_history(path)
    rows = [{"epoch": 0, "alpha": 16.0}, {"epoch": 1, "alpha": 4.0, "recall_at_1": 0.5}]
    write_history(path, {3: rows, 7: rows[:1]})
    expected = "seed,epoch,alpha,recall_at_1\n3,0,16.0,\n3,1,4.0,0.5\n7,0,16.0,\n"
    assert path.read_bytes() == expected.encode()
    path.write_text("seed,epoch,alpha,recall_at_1\n3,10,16,\n", encoding="utf-8")
    ((seed, (row,)),) = read_history(path).items()
    assert (seed, row) == (3, {"epoch": 10, "alpha": 16.0})
    assert [type(value) for value in row.values()] == [int, float]


def test_system_metrics_are_added_to_the_row_of_their_epoch():
    history = {0: [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0}], 1: [{"epoch": 0}]}
    metrics = {"0": [{"epoch": 1, "system/x": 5.0}]}
    assert add_system_metrics(history, metrics) == {
        0: [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0, "system/x": 5.0}],
        1: [{"epoch": 0}],
    }
