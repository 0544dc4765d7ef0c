"""Train every seed of a run; a seed that was trained before is taken from the checkpoints."""

from pathlib import Path

from heated import config, packing, provenance, runs
from heated.command import run
from heated.devices import prepared
from heated.files import project_root, whole, write_json
from heated.history import write_history
from heated.tracking import live


def main(
    dataset: str, method: str, packed: Path, models: Path, history: Path, origin: Path
) -> None:
    """`models`: folder for seed-<s>.safetensors; `history`: CSV of all epochs; `origin`: JSON of
    where it all came from."""
    params = config.load()
    settings = params.datasets[dataset].training.model_dump()
    settings |= params.methods[method].model_dump() | {"threads": params.run.threads}
    trained = runs.Run(
        recipe=runs.recipe(settings),
        data=packing.unpack(packed),
        digest=packing.digest(packed),
        device=prepared(params.run.threads),
        cache=project_root() / "checkpoints",
    )
    record = provenance.of(trained, dataset, method, settings)
    done = {}
    tracker = live(record, enabled=params.tracking.enabled, every=params.tracking.every)
    with whole(models) as folder, tracker as log:
        folder.mkdir()
        for seed in params.run.seeds:
            done[seed] = trained.finished(seed, folder / f"seed-{seed}.safetensors", log(seed))
    write_history(history, {seed: result["history"] for seed, result in done.items()})
    write_json(origin, provenance.finished(record, done))


if __name__ == "__main__":
    run(main)
