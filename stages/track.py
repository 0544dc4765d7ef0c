"""Write to MLflow what its store lacks of every configured run, from the files DVC tracks."""

from pathlib import Path

from heated import config
from heated.command import run
from heated.files import read_json, required, write_json
from heated.history import read_history
from heated.tracking import publish, wanted


def main(runs: Path, tracked: Path) -> None:
    """`runs`: the folder of all runs; `tracked`: JSON of the published runs' keys."""
    params = config.load()
    keys = {}
    if wanted(params.tracking.enabled):
        for name in (f"{dataset}/{method}" for dataset, method in params.runs()):
            record = read_json(required(runs / name / "provenance.json", "train"))
            metrics = read_json(required(runs / name / "metrics.json", "evaluate"))
            publish(record, read_history(runs / name / "history.csv"), metrics)
            keys[name] = record["key"]
    write_json(tracked, keys)


if __name__ == "__main__":
    run(main)
