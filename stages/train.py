"""Train every seed of a run, each from where its checkpoints end."""

from pathlib import Path

from heated import config, provenance, runs, unpacking, usage
from heated.command import run
from heated.devices import precision, prepared
from heated.distributed import first, output
from heated.files import project_root, write_json
from heated.history import write_history
from heated.tracking.live import live


def main(dataset: str, method: str, packed: Path, models: Path, history: Path, made: Path) -> None:
    """`models`: folder for seed-<s>.safetensors; `history`: CSV; `made`: JSON of how it was."""
    params = config.load()
    device, seeds = prepared(params.run.threads), params.seeds(dataset, method)
    chosen = precision(params.datasets[dataset].training.precision, device)
    machine = {"precision": chosen, "threads": params.run.threads}
    settings = {name: params.settings(dataset, name) | machine for name in params.seeds_of(dataset)}
    trained = runs.Run(
        runs.recipe(settings[method]),
        unpacking.unpack(packed),
        unpacking.digest(packed),
        device,
        project_root() / "checkpoints",
        others=[runs.recipe(each) for each in settings.values()],
        **params.checkpoints.model_dump(),
    )
    record = provenance.of(trained, params.tags(dataset, method), settings[method])
    spent, tracked = usage.Usage(device), params.tracking.enabled and first()
    with output(models) as folder, live(record, tracked, params.tracking.every) as log:
        done = trained.finish(seeds, folder, spent.beside(log))
    if first():
        write_history(history, {seed: result["history"] for seed, result in done.items()})
        write_json(made, provenance.finished(record, done, spent.rows))


if __name__ == "__main__":
    run(main)
