"""Train every seed of a run, each from its latest checkpoint."""

from heated.common.cli import run
from heated.common.history import write_history
from heated.common.io import project_root, write_json
from heated.common.paths import SIDE_SETTINGS, packed_folder, resolved, resolved_runs, run_folder
from heated.data import packed_dataset
from heated.runtime.device import machine, prepared
from heated.runtime.distributed import first, output
from heated.runtime.system_metrics import Usage
from heated.tracking.live_logger import LiveLogger
from heated.training import provenance, training_run
from heated.training.recipe import Recipe, tuned_settings


def main(dataset: str, method: str) -> None:
    """Write a run's models, history and provenance."""
    given, side = resolved(f"runs/{dataset}/{method}.json"), resolved(SIDE_SETTINGS)
    folder, packed = run_folder(dataset, method), packed_folder(dataset)
    settings = tuned_settings(folder) if given["tuned"] else given["settings"]
    device = prepared(given["threads"])
    here = machine(settings["precision"], device, given["threads"])
    siblings = [Recipe.from_settings(each["settings"] | here) for each in resolved_runs(dataset)]
    data, digest = packed_dataset.unpack(packed), packed_dataset.digest(packed)
    place = {"folder": project_root() / "checkpoints", **side["checkpoints"]}
    recipe = Recipe.from_settings(settings | here)
    trained = training_run.Run(recipe, data, digest, device, others=siblings, **place)
    record = provenance.of(trained, given["tags"], settings | here)
    tracked, every = side["tracking"]["enabled"] and first(), side["tracking"]["every"]
    with output(folder / "models") as models, LiveLogger(record, tracked, every) as logger:
        usage = Usage(device, logger)
        done = trained.finish(given["seeds"], models, usage)
    if first():
        write_history(folder / "history.csv", {s: result["history"] for s, result in done.items()})
        write_json(folder / "provenance.json", provenance.finished(record, done, usage.rows))


if __name__ == "__main__":
    run(main)
