"""Write to MLflow what its store lacks of every configured run, from the files DVC tracks."""

from functools import partial
from pathlib import Path

from heated import config
from heated.common.cli import run
from heated.common.io import write_json
from heated.reporting.results import read_results
from heated.tracking import wanted
from heated.tracking.publishing import patiently
from heated.tracking.registry import keep
from heated.tracking.results import track


def main(runs: Path, report: Path, tracked: Path) -> None:
    """`runs`: the folder of all runs; `tracked`: JSON of the published runs' keys."""
    params = config.load()
    keys: dict[str, str] = {}
    names = dict.fromkeys(dataset for dataset, _ in params.runs())
    for dataset in names if wanted(params.tracking.enabled) else ():
        results = read_results(runs, dataset, [*params.seeds_of(dataset)])
        tags = {result.method: params.tags(dataset, result.method) for result in results}
        trained = track(results, params.datasets[dataset].model_dump(), tags, report)
        keys |= {f"{dataset}/{each.record['method']}": each.record["key"] for each in trained}
        if params.tracking.models != "none":
            register = params.tracking.models == "registered"
            patiently(partial(keep, trained, **params.chosen_by(dataset), register=register))
    write_json(tracked, keys)


if __name__ == "__main__":
    run(main)
