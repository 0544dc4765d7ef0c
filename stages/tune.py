"""Choose a competitor's settings on validation classes; the test classes are left out."""

from heated.common import io
from heated.common.errors import run
from heated.data import packed_dataset
from heated.runtime.device import machine_settings, setup_device
from heated.runtime.distributed import is_main_process
from heated.training.grid_search import search_grid, with_validation_split
from heated.training.recipe import Recipe
from heated.training.training_run import TrainingRun


def main(dataset: str, method: str) -> None:
    """Write the score of every point of the grid, and the settings of the best."""
    study, packed = io.load_settings(f"tuning/{dataset}/{method}.json"), io.packed_folder(dataset)
    device = setup_device(**study["machine"])
    data = packed_dataset.load_packed(packed, study["image_shape"])
    data = with_validation_split(data, **study["validation"])
    points = [each["point"] for each in study["points"]]
    settings = [each["settings"] for each in study["points"]]
    here = machine_settings(settings[0], device, **study["machine"])
    recipes = [Recipe.from_settings(s | here | {"eval_every": s["epochs"]}) for s in settings]
    training_run = TrainingRun(
        recipes[0],
        data,
        f"{packed_dataset.packed_sha256(packed)} {data.split.tested}",
        device,
        io.project_root() / "checkpoints",
        **io.load_settings(io.SIDE_SETTINGS)["checkpoints"],
    )
    tuned = search_grid(training_run, points, recipes, seed=study["seed"])
    if is_main_process():
        tuned["settings"] = settings[points.index(tuned["chosen"])]
        io.write_record(io.run_folder(dataset, method) / "tuned.json", tuned)


if __name__ == "__main__":
    run(main)
