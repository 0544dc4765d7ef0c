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
    threads = params.run.threads
    study = params.studies.gradients
    return {
        **dict(dataset_files(params)),
        **dict(run_files(params)),
        **dict(tuning_files(params)),
        "threads.json": {"threads": threads},
        "gradients.json": {"alphas": study.alphas, "samples": study.samples, "threads": threads},
        "report.json": report(params),
        "tracking.json": tracking(params),
        SIDE_SETTINGS: {
            "download": params.download.model_dump(),
            "checkpoints": params.checkpoints.model_dump(),
            "tracking": {"enabled": params.tracking.enabled, "every": params.tracking.every},
        },
    }


def datasets(params: Params) -> list[str]:
    """Return the data sets that something is trained on, in the order of the grids."""
    return [*dict.fromkeys(name for name, _ in params.runs())]


def dataset_files(params: Params) -> Iterator[tuple[str, Any]]:
    """Yield what download, split and evaluate need of each data set."""
    for name in datasets(params):
        section = params.datasets[name].model_dump()
        source = section["source"]
        yield f"sources/{name}.json", {"source": source}
        yield f"packing/{name}.json", {"source": source, "packing": section["packing"]}
        yield (
            f"evaluation/{name}.json",
            {"evaluation": section["evaluation"], "threads": params.run.threads},
        )


def run_files(params: Params) -> Iterator[tuple[str, Any]]:
    """Yield what `train` needs of each run."""
    for dataset, method in params.runs():
        yield (
            f"runs/{dataset}/{method}.json",
            {
                "settings": params.settings(dataset, method),
                "seeds": params.seeds(dataset, method),
                "threads": params.run.threads,
                "tags": params.tags(dataset, method),
                "tuned": method in params.studies.competitors.methods
                and dataset in params.studies.competitors.datasets,
            },
        )


def tuning_files(params: Params) -> Iterator[tuple[str, Any]]:
    """Yield what `tune` tries for each competitor: each point, and the settings that it gives."""
    study = params.studies.competitors
    for dataset, method in ((d, m) for d in study.datasets for m in study.methods):
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
    """Return what the report shows: data sets, grids, claims, queries with their neighbours."""
    return {
        "datasets": {
            name: {
                "section": params.datasets[name].model_dump(),
                "methods": [*params.seeds_of(name)],
                "gallery": params.report.gallery if name in params.run.datasets else 0,
            }
            for name in datasets(params)
        },
        "grids": {name: grid.model_dump() for name, grid in params.grids().items()},
        "claims": {name: claim.model_dump() for name, claim in params.claims.items()},
        "gallery_method": params.report.gallery_method,
        "gallery_seed": params.run.seeds[0],
        "threads": params.run.threads,
    }


def tracking(params: Params) -> dict[str, Any]:
    """Return what `track` writes: whether, with which models, and the tags of every run."""
    return {
        "enabled": params.tracking.enabled,
        "models": params.tracking.models,
        "datasets": {
            name: {
                "section": params.datasets[name].model_dump(),
                "tags": {method: params.tags(name, method) for method in params.seeds_of(name)},
                **params.chosen_by(name),
            }
            for name in datasets(params)
        },
    }
