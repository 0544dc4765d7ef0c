"""Upload runs missing from MLflow, from the files that DVC tracks."""

from functools import partial
from pathlib import Path

from heated.common.errors import run
from heated.common.io import RUNS, load_settings, write_json
from heated.reporting.run_results import read_results
from heated.tracking import is_tracking_enabled
from heated.tracking.live_runs import close_dead_runs
from heated.tracking.publish import publish_dataset, with_retries


def main() -> None:
    """Write data/tracked.json, the keys of the runs in MLflow."""
    settings = load_settings("tracking.json")
    keys: dict[str, str] = {}
    datasets = {}
    if is_tracking_enabled(settings["enabled"]):
        datasets = settings["datasets"]
        with_retries(close_dead_runs)
    for dataset, given in datasets.items():
        results = read_results(RUNS, dataset, [*given["tags"]])
        runs = publish_dataset(results, given["section"], given["tags"], Path("report"))
        keys |= {f"{dataset}/{each.record['method']}": each.record["key"] for each in runs}
        if settings["models"] != "none":
            from heated.tracking.pyfunc_model import log_models  # imports torch

            choice = {name: given[name] for name in ("packing", "metric")}
            register = settings["models"] == "registered"
            with_retries(partial(log_models, runs, **choice, register=register))
    write_json(Path("data/tracked.json"), keys)


if __name__ == "__main__":
    run(main)
