import time

import pytest
import torch

from heated.common.history import joined
from heated.runtime import system_metrics as measuring
from heated.runtime.system_metrics import SHORTEST, Usage
from heated.training.provenance import with_results

CPU = {
    "system/cpu_utilization_percentage",
    "system/process_cpu_percentage",
    "system/process_memory_megabytes",
}


class Rows(dict):
    """A logger that keeps the rows of each seed."""

    def log(self, seed, row):
        self.setdefault(seed, []).append(row)


def work():
    """Keep a processor busy for longer than what can be measured, however long we wait for one."""
    end = time.process_time() + 2 * SHORTEST
    while time.process_time() < end:
        pass


def test_a_row_has_beside_it_what_the_machine_did_since_the_row_before():
    logged = Rows()
    usage = Usage(torch.device("cpu"), logged)
    for epoch in range(2):
        work()
        usage.log(7, {"epoch": epoch, "loss": 1.0})
    assert [row.keys() for row in logged[7]] == [{"epoch", "loss"} | CPU] * 2
    assert all(row["system/process_cpu_percentage"] > 0 for row in logged[7])
    assert all(row["system/process_memory_megabytes"] > 50 for row in logged[7])
    assert usage.rows == {7: [{k: v for k, v in row.items() if k != "loss"} for row in logged[7]]}


def test_rows_that_come_at_once_were_trained_before_and_measure_nothing(monkeypatch):
    monkeypatch.setattr(measuring, "SHORTEST", float("inf"))  # at once, on any machine
    logged = Rows()
    usage = Usage(torch.device("cpu"), logged)
    rows = [{"epoch": epoch, "loss": 1.0} for epoch in range(3)]
    for row in rows:
        usage.log(0, row)
    assert logged == {0: rows}
    assert usage.rows == {0: []}


def test_a_history_is_joined_with_what_was_measured():
    history = {0: [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0}], 1: [{"epoch": 0}]}
    usage = {"0": [{"epoch": 1, "system/x": 5.0}]}
    assert joined(history, usage) == {
        0: [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0, "system/x": 5.0}],
        1: [{"epoch": 0}],
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_memory_is_measured_where_there_is_one():
    logged = Rows()
    usage = Usage(torch.device("cuda"), logged)
    held = torch.zeros(10**7, device="cuda")
    work()
    usage.log(0, {"epoch": 0})
    assert logged[0][0]["system/gpu_memory_megabytes"] >= held.nbytes / 1e6


def test_a_record_keeps_what_the_epochs_took_that_were_trained_now():
    rows = [{"epoch": epoch, "system/cpu_utilization_percentage": 50.0} for epoch in range(3)]
    history = [{"epoch": epoch} for epoch in range(3)]
    done = {
        0: {"history": history, "epochs_trained": 1},
        7: {"history": history, "epochs_trained": 0},
    }
    record = with_results({}, done, {0: rows, 7: rows[:1]})
    assert record["usage"] == {"0": rows[2:]}
    assert record["seeds"] == {"0": {"epochs_trained": 1}, "7": {"epochs_trained": 0}}
