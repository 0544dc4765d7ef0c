"""Train every seed of a run, each from where its checkpoints end."""

from pathlib import Path

from heated import config
from heated.common.cli import run
from heated.common.history import write_history
from heated.common.io import project_root, write_json
from heated.data import packed_dataset
from heated.runtime import system_metrics
from heated.runtime.device import machine, prepared
from heated.runtime.distributed import first, output
from heated.tracking.live import live
from heated.training import grid_search, provenance, recipe, training_run


def main(
    dataset: str, method: str, packed: Path, models: Path, history: Path, made: Path, *tuned: Path
) -> None:
    """`models`: folder; `history`: CSV; `made`: JSON of how it was; `tuned`: what `tune` wrote."""
    params = config.load()
    device = prepared(params.run.threads)
    here = machine(params.datasets[dataset].training.precision, device, params.run.threads)
    settings = params.all_settings(dataset, {method: grid_search.chosen(*tuned)})
    every = {name: recipe.Recipe.from_settings(each | here) for name, each in settings.items()}
    trained = training_run.Run(
        every[method],
        *(packed_dataset.unpack(packed), packed_dataset.digest(packed), device),
        project_root() / "checkpoints",
        others=[*every.values()],
        **params.checkpoints.model_dump(),
    )
    record = provenance.of(trained, params.tags(dataset, method), settings[method] | here)
    tracked = params.tracking.enabled and first()
    with output(models) as folder, live(record, tracked, params.tracking.every) as logger:
        usage = system_metrics.Usage(device, logger)
        done = trained.finish(params.seeds(dataset, method), folder, usage)
    if first():
        write_history(history, {seed: result["history"] for seed, result in done.items()})
        write_json(made, provenance.finished(record, done, usage.rows))


if __name__ == "__main__":
    run(main)
