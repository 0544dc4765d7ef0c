"""Choose a competitor's settings on validation classes; the test classes are left out."""

from heated.common.cli import run
from heated.common.io import project_root, write_json
from heated.common.paths import SIDE_SETTINGS, packed_folder, resolved, run_folder
from heated.data import packed_dataset
from heated.runtime.device import machine_settings, prepared
from heated.runtime.distributed import is_main_process
from heated.training import grid_search, training_run
from heated.training.recipe import Recipe


def main(dataset: str, method: str) -> None:
    """Write what was tried and what was chosen."""
    study, packed = resolved(f"tuning/{dataset}/{method}.json"), packed_folder(dataset)
    device = prepared(study["threads"])
    data = grid_search.validation(packed_dataset.unpack(packed), **study["validation"])
    points = [each["point"] for each in study["points"]]
    settings = [each["settings"] for each in study["points"]]
    here = machine_settings(settings[0]["precision"], device, study["threads"])
    trained = training_run.Run(
        Recipe.from_settings(settings[0] | here),
        data,
        f"{packed_dataset.digest(packed)} {data.split.tested}",
        device,
        project_root() / "checkpoints",
        **resolved(SIDE_SETTINGS)["checkpoints"],
    )
    last = [each | here | {"watch_every": each["epochs"]} for each in settings]
    tried = [Recipe.from_settings(each) for each in last]
    found = grid_search.tuned(trained, points, tried, seed=study["seed"])
    if is_main_process():
        found["settings"] = settings[points.index(found["chosen"])]
        write_json(run_folder(dataset, method) / "tuned.json", found)


if __name__ == "__main__":
    run(main)
