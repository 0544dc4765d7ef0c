"""Write the runs that MLflow lacks, from the files that DVC tracks."""

from functools import partial
from pathlib import Path

from heated.common.cli import run
from heated.common.io import write_json
from heated.common.paths import RUNS, resolved
from heated.reporting.results import read_results
from heated.tracking import wanted
from heated.tracking.publishing import patiently, track


def main() -> None:
    """Write data/tracked.json, the keys of the runs in MLflow."""
    settings = resolved("tracking.json")
    keys: dict[str, str] = {}
    for dataset, given in settings["datasets"].items() if wanted(settings["enabled"]) else ():
        results = read_results(RUNS, dataset, [*given["tags"]])
        trained = track(results, given["section"], given["tags"], Path("report"))
        keys |= {f"{dataset}/{each.record['method']}": each.record["key"] for each in trained}
        if settings["models"] != "none":
            from heated.tracking.models import keep  # torch, which takes seconds

            choice = {name: given[name] for name in ("packing", "metric")}
            register = settings["models"] == "registered"
            patiently(partial(keep, trained, **choice, register=register))
    write_json(Path("data/tracked.json"), keys)


if __name__ == "__main__":
    run(main)
