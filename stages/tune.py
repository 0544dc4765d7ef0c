"""Try a method's settings on validation classes, and choose; the test classes are left out."""

from pathlib import Path

from heated import config
from heated.common.cli import run
from heated.common.io import project_root, write_json
from heated.data import packed_dataset
from heated.runtime.device import machine, prepared
from heated.runtime.distributed import first
from heated.training import grid_search, recipe, training_run


def main(dataset: str, method: str, packed: Path, tuned: Path) -> None:
    """`tuned`: JSON of what was tried and what was chosen."""
    params = config.load()
    study, device = params.studies.competitors, prepared(params.run.threads)
    data = grid_search.validation(packed_dataset.unpack(packed), **study.validation.model_dump())
    here = machine(params.datasets[dataset].training.precision, device, params.run.threads)
    points = study.points(method)
    settings = [params.settings(dataset, method, point) | here for point in points]
    trained = training_run.Run(
        recipe.Recipe.from_settings(settings[0]),
        data,
        f"{packed_dataset.digest(packed)} {data.split.tested}",
        device,
        project_root() / "checkpoints",
        **params.checkpoints.model_dump(),
    )
    tried = [
        recipe.Recipe.from_settings(each | {"watch_every": each["epochs"]}) for each in settings
    ]
    found = grid_search.tuned(trained, points, tried, seed=study.tuning_seed)
    if first():
        write_json(tuned, found)


if __name__ == "__main__":
    run(main)
