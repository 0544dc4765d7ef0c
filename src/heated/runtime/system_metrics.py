"""What training takes of the machine, epoch by epoch, under the names that MLflow's page for it
expects: `system/...`. Measured since the row before, as `psutil` does it."""

import time
from importlib.util import find_spec

import psutil
import torch

from heated.common.history import Logger, Row

SHORTEST = 0.1  # seconds; in less, the share of a processor's time cannot be told
MB = 1e6


class Usage:
    """A logger that adds what the machine did to each row before it passes the row on.

    Attributes:
        rows: What was measured, by seed: rows of the epochs that were trained now, and took long
            enough.
    """

    def __init__(self, device: torch.device, logger: Logger) -> None:
        self.device, self.logger, self.process = device, logger, psutil.Process()
        self.rows: dict[int, list[Row]] = {}
        self.since = time.monotonic()
        self.measured()  # from here on

    def log(self, seed: int, row: Row) -> None:
        """Pass a row on, with what the machine did since the row before."""
        rows = self.rows.setdefault(seed, [])
        self.logger.log(seed, {**row, **self.sample(row, rows)})

    def sample(self, row: Row, rows: list[Row]) -> Row:
        """What is measured at a row, which `rows` then has too; nothing where it came at once, as
        those do that were trained before."""
        if time.monotonic() - self.since < SHORTEST:
            return {}
        values, self.since = self.measured(), time.monotonic()
        rows.append({"epoch": row["epoch"], **values})
        return values

    def measured(self) -> Row:
        """Percent of all processors, of one by this process; its memory; the GPU's."""
        values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/process_cpu_percentage": self.process.cpu_percent(),
            "system/process_memory_megabytes": self.process.memory_info().rss / MB,
        }
        if self.device.type != "cuda":
            return values
        values["system/gpu_memory_megabytes"] = torch.cuda.memory_reserved(self.device) / MB
        if find_spec("pynvml"):
            values["system/gpu_utilization_percentage"] = torch.cuda.utilization(self.device)
        return values
