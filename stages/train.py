"""Train every seed of a run, each from its latest checkpoint."""

from heated.common import io
from heated.common.errors import run
from heated.data.packed_dataset import load_packed, packed_sha256
from heated.runtime.device import machine_settings, setup_device
from heated.runtime.distributed import is_main_process, main_process_output
from heated.runtime.environment import SystemMetricsLogger
from heated.tracking.live_logger import LiveLogger
from heated.training.provenance import make_provenance, write_results
from heated.training.recipe import Recipe
from heated.training.training_run import TrainingRun


def main(dataset: str, method: str) -> None:
    """Write a run's models, history and provenance."""
    config, side = map(io.load_settings, (f"runs/{dataset}/{method}.json", io.SIDE_SETTINGS))
    folder, settings = io.run_folder(dataset, method), config["settings"]
    if config["tuned"]:
        settings = io.read_record(io.require_output(folder / "tuned.json", "tune"))["settings"]
    device, tracking = setup_device(**config["machine"]), side["tracking"]
    here = machine_settings(settings, device, **config["machine"])
    recipe, cache = Recipe.from_settings(settings | here), io.project_root() / "checkpoints"
    runs = map(io.read_record, sorted((io.RESOLVED / "runs" / dataset).glob("*.json")))
    siblings = [Recipe.from_settings(each["settings"] | here) for each in runs]
    packed = io.packed_folder(dataset)
    data, digest = load_packed(packed, config["image_shape"]), packed_sha256(packed)
    training_run = TrainingRun(recipe, data, digest, device, cache, siblings, **side["checkpoints"])
    provenance = make_provenance(training_run, config["tags"], settings | here)
    live = LiveLogger(provenance, tracking["enabled"] and is_main_process(), tracking["interval_s"])
    with live as logger:  # leaving it waits for MLflow, after the results are in place
        usage = SystemMetricsLogger(device, logger)
        with main_process_output(folder / "models") as models:
            results = training_run.train_seeds(config["seeds"], models, usage)
        if is_main_process():
            write_results(folder, provenance, results, usage.rows)


if __name__ == "__main__":
    run(main)
