"""What things are called in MLflow: metrics by groups, parameters flat, tags to group runs by.

MLflow draws a section of charts for each group, the part of a metric's name before the slash.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from heated.common.history import Row
from heated.tracking import Record

GROUPS = {  # of a history's columns
    "alpha": "schedule",
    "temperature": "schedule",
    "lr": "schedule",
    "loss": "train",
    "accuracy": "train",
    "recall_at_1": "unseen",
    "compactness": "unseen",
    "spread": "unseen",
}
Values = dict[str, float | None]
Points = list[tuple[Values, int]]  # metrics, and their step: an epoch
LAST = 0  # the step of what is known of a trained model alone: MLflow draws bars of it, not curves


def row_names(row: Row) -> Values:
    """A history's row with MLflow's names: the group before the slash, where a column has none.

    >>> row_names({"epoch": 3, "alpha": 16.0, "recall_at_1": 0.5, "system/gpu": 1.0})
    {'schedule/alpha': 16.0, 'unseen/recall_at_1': 0.5, 'system/gpu': 1.0}
    """
    return {
        name if "/" in name else f"{GROUPS.get(name, 'train')}/{name}": value
        for name, value in row.items()
        if name != "epoch"
    }


def final(metric: str) -> str:
    """A metric of the trained model; how k-means went is apart from what it is worth."""
    return f"{'kmeans' if 'kmeans' in metric else 'final'}/{metric}"


def final_names(metrics: Mapping[str, Mapping[str, Any]], seed: int) -> Values:
    """A seed's metrics of its trained model."""
    return {final(name): each["seeds"].get(str(seed)) for name, each in metrics.items()}


def summary_names(metrics: Mapping[str, Mapping[str, Any]]) -> Values:
    """Their means over the seeds, the ends of the means' intervals, and n."""
    named: Values = {}
    for name, summary in metrics.items():
        low, high = summary["interval"] or (None, None)
        named |= {final(name): summary["mean"], "interval/n": summary["n"]}
        if final(name).startswith("final/"):
            named |= {f"interval/{name}_low": low, f"interval/{name}_high": high}
    return named


def seed_points(rows: Sequence[Row]) -> Points:
    """A seed's curves."""
    return [(row_names(row), int(row["epoch"])) for row in rows]


def mean_points(histories: Mapping[int, Sequence[Row]]) -> Points:
    """The curves' means over the seeds; what the machine did is each seed's own."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in (row for rows in histories.values() for row in rows):
        at = found.setdefault(int(row["epoch"]), {})
        for name, value in row_names(row).items():
            if value is not None and not name.startswith("system/"):
                at.setdefault(name, []).append(value)
    return [
        ({name: sum(values) / len(values) for name, values in found[epoch].items()}, epoch)
        for epoch in sorted(found)
    ]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys. A choice stands under its own name, and a list of choices
    as their names, with each one's options beside them; the second of a name is name-2.

    >>> flat({"alpha": {"name": "step", "end": 4}, "augment": [{"name": "crop", "size": 9}]})
    {'alpha': 'step', 'alpha.end': 4, 'augment': 'crop', 'augment.crop.size': 9}
    """
    pairs: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            given = dict(value)
            pairs |= {name: given.pop("name")} if "name" in given else {}
            pairs |= flat(given, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            names: list[str] = []
            for choice in value:
                before = sum(one.partition("-")[0] == choice["name"] for one in names)
                names.append(f"{choice['name']}-{before + 1}" if before else choice["name"])
            pairs[name] = ", ".join(names)
            for unique, choice in zip(names, value, strict=True):
                options = {key: each for key, each in choice.items() if key != "name"}
                pairs |= flat(options, f"{name}.{unique}.")
        else:
            pairs[name] = value
    return pairs


def tags(record: Record, seed: int | None = None) -> dict[str, str]:
    """What runs are grouped and filtered by, and where they come from."""
    source = {key: value for key, value in record["source"].items() if value is not None}
    told = {
        **record["tags"],
        **({} if seed is None else {"seed": seed}),
        **({"experiment": source["experiment"]} if "experiment" in source else {}),
        **{f"source.{key}": value for key, value in source.items()},
        **{f"environment.{key}": value for key, value in record["environment"].items()},
        "mlflow.source.name": f"stages.train {record['dataset']} {record['method']}",
        "mlflow.source.type": "LOCAL",
    }
    if "commit" in source:
        told["mlflow.source.git.commit"] = source["commit"]
    return {key: str(value) for key, value in told.items()}
