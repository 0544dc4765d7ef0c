"""Write to MLflow what its store lacks of every configured run, from the files DVC tracks."""

from collections import defaultdict
from pathlib import Path

from heated import config
from heated.command import run
from heated.files import read_json, required, write_json
from heated.history import read_history
from heated.tracking import publish, wanted
from heated.tracking.registry import Trained, keep


def main(runs: Path, tracked: Path) -> None:
    """`runs`: the folder of all runs; `tracked`: JSON of the published runs' keys."""
    params = config.load()
    keys, published = {}, defaultdict(list)
    if wanted(params.tracking.enabled):
        for dataset, method in params.runs():
            folder = runs / dataset / method
            record = read_json(required(folder / "provenance.json", "train"))
            metrics = read_json(required(folder / "metrics.json", "evaluate"))
            run_id = publish(record, read_history(folder / "history.csv"), metrics)
            keys[f"{dataset}/{method}"] = record["key"]
            published[dataset].append(Trained(record, run_id, folder / "models", metrics))
    if params.tracking.models != "none":
        register = params.tracking.models == "registered"
        for dataset, trained in published.items():
            keep(trained, **params.chosen_by(dataset), register=register)
    write_json(tracked, keys)


if __name__ == "__main__":
    run(main)
