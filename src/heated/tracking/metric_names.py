"""Names in MLflow: metrics in groups, flat parameters, tags.

MLflow draws one section of charts per group, the part of a metric's name before the slash.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from heated.common.history import Row
from heated.tracking import Record, Summaries, experiment_name

GROUPS = {  # of a history's columns; "train" for all other columns without a slash
    **dict.fromkeys(("alpha", "temperature", "lr"), "schedule"),
    **dict.fromkeys(("recall_at_1", "intra_class_variance", "inter_class_distance"), "unseen"),
}
Points = list[tuple[dict[str, float | None], int]]  # metric values by name, and their epoch
FINAL_STEP = 0  # of metrics of the trained model: MLflow draws bars if there is only one step


def row_metrics(row: Row) -> dict[str, float]:
    """Return a history's row by MLflow's names.

    >>> row_metrics({"epoch": 3, "alpha": 16.0, "recall_at_1": 0.5, "system/gpu": 1.0})
    {'schedule/alpha': 16.0, 'unseen/recall_at_1': 0.5, 'system/gpu': 1.0}
    """
    return {
        name if "/" in name else f"{GROUPS.get(name, 'train')}/{name}": value
        for name, value in row.items()
        if name != "epoch"
    }


def final_metric(name: str) -> str:
    """Return MLflow's name of a trained model's metric."""
    return f"final/{name}"


def final_metrics(metrics: Summaries) -> Summaries:
    """Leave out how k-means went, which the file metrics.json among the artifacts has."""
    return {name: summary for name, summary in metrics.items() if "kmeans" not in name}


def seed_points(seed: int, rows: Sequence[Row], metrics: Summaries) -> Points:
    """Return a seed's curves, and the metrics of its trained model."""
    points: Points = [({**row_metrics(row)}, int(row["epoch"])) for row in rows]
    seeds = {name: each["seeds"] for name, each in final_metrics(metrics).items()}
    final = {final_metric(name): values.get(str(seed)) for name, values in seeds.items()}
    return [*points, (final, FINAL_STEP)] if final else points


def mean_points(histories: Mapping[int, Sequence[Row]], metrics: Summaries) -> Points:
    """Return means over seeds: curves, and final metrics.

    Only Recall@1 has its interval: the table of runs would have three columns for each metric.
    """
    by_epoch: dict[int, dict[str, list[float]]] = {}
    for row in (row for rows in histories.values() for row in rows):
        values = by_epoch.setdefault(int(row["epoch"]), {})
        for name, value in row_metrics(row).items():
            if value is not None:
                values.setdefault(name, []).append(value)
    points: Points = [
        ({name: sum(values) / len(values) for name, values in columns.items()}, epoch)
        for epoch, columns in sorted(by_epoch.items())
    ]
    final: dict[str, float | None] = {}
    for name, summary in final_metrics(metrics).items():
        low, high = summary["interval"] or (None, None)
        final |= {final_metric(name): summary["mean"], "interval/n": summary["n"]}
        if name == "recall_at_1":
            final |= {f"interval/{name}_low": low, f"interval/{name}_high": high}
    return [*points, (final, FINAL_STEP)] if final else points


def schedule_params(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return shape, start, end, and the progress `at` which it reaches its end, for any schedule.

    A learned alpha has no end before it is trained.

    >>> schedule_params({"name": "constant", "value": 16})
    {'shape': 'constant', 'start': 16, 'end': 16, 'at': 0}
    >>> schedule_params({"name": "linear", "start": 16, "end": 4})
    {'shape': 'linear', 'start': 16, 'end': 4, 'at': 1}
    """
    options = {("shape" if key == "name" else key): value for key, value in schedule.items()}
    if "value" in options:
        value = options.pop("value")
        return options | {"start": value, "end": value, "at": 0}
    if points := options.get("points"):
        return options | {"start": points[0][1], "end": points[-1][1], "at": points[-1][0]}
    return options | ({"at": options.get("at", 1)} if "end" in options else {})


def run_params(record: Record) -> dict[str, Any]:
    """Return a run's parameters, flat; those of schedules have the same names in every run."""
    params = dict(record["params"])
    schedules = {name: params[name] for name in ("alpha", "lr_schedule") if name in params}
    return flatten(params | {name: schedule_params(each) for name, each in schedules.items()})


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as a flat one with dotted keys.

    A mapping with a `name` becomes that name followed by its other entries, and a list of such
    mappings becomes their names. The second entry of the same name in a list is `name-2`.

    >>> flatten({"alpha": {"name": "step", "end": 4}, "augment": [{"name": "crop", "size": 9}]})
    {'alpha': 'step', 'alpha.end': 4, 'augment': 'crop', 'augment.crop.size': 9}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            counts: Counter[str] = Counter()
            entries: dict[str, Any] = {}
            for name, entry in ((entry["name"], entry) for entry in value):
                counts[name] += 1
                unique = f"{name}-{counts[name]}" if counts[name] > 1 else name
                entries[unique] = {option: entry[option] for option in entry if option != "name"}
            value = {"name": ", ".join(entries), **entries}
        if isinstance(value, Mapping):
            options = dict(value)
            flat |= {f"{prefix}{key}": options.pop("name")} if "name" in options else {}
            flat |= flatten(options, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_tags(record: Record, seed: int | None = None) -> dict[str, str]:
    """Return the tags of a run or of one of its seeds: groups, source and environment."""
    source = {key: value for key, value in record["source"].items() if value is not None}
    tags = {
        **record["tags"],
        **({} if seed is None else {"seed": seed}),
        **({"experiment": name} if (name := experiment_name(record)) else {}),
        **{f"source.{key}": value for key, value in source.items()},
        **{f"environment.{key}": value for key, value in record["environment"].items()},
        "mlflow.source.name": f"stages.train {record['dataset']} {record['method']}",
        "mlflow.source.type": "LOCAL",
    }
    if "commit" in source:
        tags["mlflow.source.git.commit"] = source["commit"]
    return {key: str(value) for key, value in tags.items()}
