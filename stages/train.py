"""Train every seed of a run, each from its latest checkpoint."""

from heated.common.cli import run
from heated.common.history import write_history
from heated.common.io import project_root, write_json
from heated.common.paths import SIDE_SETTINGS, packed_folder, resolved, resolved_runs, run_folder
from heated.data import packed_dataset
from heated.runtime.device import machine, prepared
from heated.runtime.distributed import first, output
from heated.runtime.system_metrics import Usage
from heated.tracking.live import live
from heated.training import provenance, recipe, training_run


def main(dataset: str, method: str) -> None:
    """Write a run's models, history and provenance."""
    given, side = resolved(f"runs/{dataset}/{method}.json"), resolved(SIDE_SETTINGS)
    folder, packed = run_folder(dataset, method), packed_folder(dataset)
    settings = recipe.tuned_settings(folder) if given["tuned"] else given["settings"]
    device = prepared(given["threads"])
    here = machine(settings["precision"], device, given["threads"])
    alike = [recipe.recipe(each["settings"] | here) for each in resolved_runs(dataset)]
    trained = training_run.Run(
        recipe.recipe(settings | here),
        *(packed_dataset.unpack(packed), packed_dataset.digest(packed), device),
        project_root() / "checkpoints",
        others=alike,
        **side["checkpoints"],
    )
    record = provenance.of(trained, given["tags"], settings | here)
    spent, tracked = Usage(device), side["tracking"]["enabled"] and first()
    with (
        output(folder / "models") as models,
        live(record, tracked, side["tracking"]["every"]) as log,
    ):
        done = trained.finish(given["seeds"], models, spent.beside(log))
    if first():
        write_history(folder / "history.csv", {s: result["history"] for s, result in done.items()})
        write_json(folder / "provenance.json", provenance.finished(record, done, spent.rows))


if __name__ == "__main__":
    run(main)
