"""The resolved settings: one small JSON file per consumer, with everything filled in.

A stage depends on its own file, so that an edit of the YAML files re-runs only what it affects.
"""

from collections.abc import Iterator
from typing import Any

from heated.common.paths import SIDE_SETTINGS
from heated.config.schema import Params


def resolved_files(params: Params) -> dict[str, Any]:
    """Return what goes into each file, by its path below data/resolved.

    - `sources/<dataset>.json`, `packing/<dataset>.json`, `evaluation/<dataset>.json`
    - `runs/<dataset>/<method>.json`: a run's settings, seeds and tags
    - `tuning/<dataset>/<method>.json`: the points of a competitor's grid
    - `threads.json`, `gradients.json`, `report.json`, `tracking.json`
    - `side_settings.json`: mirror, download cache, checkpoints and live tracking
    """
    threads = {"threads": params.run.threads}
    gradients = params.studies.gradients
    return {
        **dict(dataset_files(params)),
        **dict(run_files(params)),
        **dict(tuning_files(params)),
        "threads.json": threads,
        "gradients.json": gradients.model_dump(include={"alphas", "samples"}) | threads,
        "report.json": report(params) | threads,
        "tracking.json": tracking(params),
        SIDE_SETTINGS: {
            "download": params.download.model_dump(),
            "checkpoints": params.checkpoints.model_dump(),
            "tracking": params.tracking.model_dump(include={"enabled", "every"}),
        },
    }


def dataset_files(params: Params) -> Iterator[tuple[str, Any]]:
    """Yield what download, split and evaluate need of each data set."""
    for name in params.trained_datasets():
        section = params.datasets[name].model_dump(include={"source", "packing", "evaluation"})
        evaluation = section.pop("evaluation")
        yield f"sources/{name}.json", {"source": section["source"]}
        yield f"packing/{name}.json", section
        threads = params.run.threads
        yield f"evaluation/{name}.json", {"evaluation": evaluation, "threads": threads}


def run_files(params: Params) -> Iterator[tuple[str, Any]]:
    """Yield what `train` needs of each run."""
    tuned = {*params.studies.competitors.runs()}
    for dataset in params.trained_datasets():
        for method, seeds in params.seeds_of(dataset).items():
            yield (
                f"runs/{dataset}/{method}.json",
                {
                    "settings": params.settings(dataset, method),
                    "seeds": seeds,
                    "threads": params.run.threads,
                    "tags": params.tags(dataset, method),
                    "tuned": (dataset, method) in tuned,
                },
            )


def tuning_files(params: Params) -> Iterator[tuple[str, Any]]:
    """Yield what `tune` tries for each competitor: each point, and the settings that it gives."""
    study = params.studies.competitors
    for dataset, method in study.runs():
        yield (
            f"tuning/{dataset}/{method}.json",
            {
                "points": [
                    {"point": point, "settings": params.settings(dataset, method, point)}
                    for point in study.points(method)
                ],
                "validation": study.validation.model_dump(),
                "seed": study.tuning_seed,
                "threads": params.run.threads,
            },
        )


def report(params: Params) -> dict[str, Any]:
    """Return what the report shows: data sets, grids, claims, queries with their neighbors."""
    return {
        "datasets": {
            name: {
                "section": params.datasets[name].model_dump(),
                "methods": [*params.seeds_of(name)],
                "gallery": params.report.gallery if name in params.run.datasets else 0,
            }
            for name in params.trained_datasets()
        },
        "grids": {name: grid.model_dump() for name, grid in params.grids().items()},
        "claims": {name: claim.model_dump() for name, claim in params.claims.items()},
        "gallery_method": params.report.gallery_method,
        "gallery_seed": params.run.seeds[0],
    }


def tracking(params: Params) -> dict[str, Any]:
    """Return what `track` writes: whether, with which models, and the tags of every run."""
    return params.tracking.model_dump(include={"enabled", "models"}) | {
        "datasets": {
            name: {
                "section": params.datasets[name].model_dump(),
                "tags": {method: params.tags(name, method) for method in params.seeds_of(name)},
                **params.chosen_by(name),
            }
            for name in params.trained_datasets()
        },
    }
