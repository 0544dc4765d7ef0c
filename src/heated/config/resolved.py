"""The resolved settings: one small JSON file per consumer, with everything filled in.

A stage depends on its own file, so that an edit of the YAML files re-runs only what it affects.
"""

from typing import Any

from heated.common.io import SIDE_SETTINGS
from heated.config.params import Params


def resolved_files(params: Params) -> dict[str, Any]:
    """Return the content of each file, by its path below data/resolved.

    - `sources/<dataset>.json`, `packing/<dataset>.json`, `evaluation/<dataset>.json`
    - `runs/<dataset>/<method>.json`: a run's settings, seeds and tags
    - `tuning/<dataset>/<method>.json`: the points of a competitor's grid
    - `machine.json`, `gradients.json`, `report.json`, `tracking.json`
    - `side_settings.json`: mirror, download cache, checkpoints and live tracking
    """
    machine, gradients = {"machine": machine_params(params)}, params.studies.gradients
    files, in_report, in_tracking = run_files(params), {}, {}
    for name in params.trained_datasets():
        section, methods = params.datasets[name].model_dump(), [*params.seeds_by_method(name)]
        files[f"sources/{name}.json"] = {"source": section["source"]}
        files[f"packing/{name}.json"] = {key: section[key] for key in ("source", "packing")}
        files[f"evaluation/{name}.json"] = {"evaluation": section["evaluation"], **machine}
        queries = params.report.gallery_queries if name in params.run.datasets else 0
        in_report[name] = {
            "section": section,
            "methods": methods,
            "files": {method: evaluation_files(params, name, method) for method in methods},
            "gallery_queries": queries,
        }
        tags = {method: params.tags(name, method) for method in methods}
        in_tracking[name] = {"section": section, "tags": tags, **params.model_selection(name)}
    return files | {
        "machine.json": machine_params(params),
        "gradients.json": gradients.model_dump(include={"alphas", "samples"}) | machine,
        "report.json": {
            "datasets": in_report,
            "grids": {name: grid.model_dump() for name, grid in params.grids().items()},
            "claims": {name: claim.model_dump() for name, claim in params.claims.items()},
            "gallery_method": params.report.gallery_method,
            "gallery_seed": params.run.seeds[0],
            **machine,
        },
        "tracking.json": {
            **params.tracking.model_dump(include={"enabled", "models"}),
            "datasets": in_tracking,
        },
        SIDE_SETTINGS: {
            "download": params.download.model_dump(),
            "checkpoints": params.checkpoints.model_dump(),
            "tracking": params.tracking.model_dump(include={"enabled", "interval_s"}),
        },
    }


def evaluation_files(params: Params, dataset: str, method: str) -> list[str]:
    """Return the files of a run that `report` expects beside those of every training."""
    is_tuned = any((dataset, method) in study.runs() for study in params.studies.tuned().values())
    has_gradients = dataset in params.run.datasets and method in params.studies.gradients.methods
    tuned, gradients = ["tuned.json"] * is_tuned, ["gradients.json"] * has_gradients
    return ["class_scores.csv", *tuned, *gradients]


def machine_params(params: Params) -> dict[str, Any]:
    """Return the arguments of `setup_device`."""
    return params.run.model_dump(include={"threads", "deterministic"})


def run_files(params: Params) -> dict[str, Any]:
    """Return the files for `train` and `tune`."""
    machine, files = {"machine": machine_params(params)}, {}
    studies = params.studies.tuned().values()
    tuned = {run: study for study in studies for run in study.runs()}
    for dataset, method in params.runs():
        files[f"runs/{dataset}/{method}.json"] = {
            "settings": params.settings(dataset, method),
            "seeds": params.seeds_by_method(dataset)[method],
            **machine,
            "tags": params.tags(dataset, method),
            "image_shape": params.datasets[dataset].packing.image_shape(),
            "tuned": (dataset, method) in tuned,
        }
    for (dataset, method), study in tuned.items():
        pairs = ((p, params.settings(dataset, method, p)) for p in study.points(method))
        files[f"tuning/{dataset}/{method}.json"] = {
            "points": [{"point": point, "settings": settings} for point, settings in pairs],
            "validation": study.validation.model_dump(),
            "seed": study.tuning_seed,
            "image_shape": params.datasets[dataset].packing.image_shape(),
            **machine,
        }
    return files
