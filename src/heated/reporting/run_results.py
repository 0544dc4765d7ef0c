"""Read the files that the stages wrote for each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scipy.stats import sem, t

from heated.common.class_scores import ClassScores, read_class_scores
from heated.common.errors import InputError
from heated.common.history import Row, read_history
from heated.common.io import WRITERS, read_json, read_record, require_output, wrap_damage
from heated.common.outputs import check_outputs

HEADLINE_METRICS = ("recall_at_1", "map_at_r", "nmi_geometric")  # shown by `dvc metrics`
Studies = Mapping[str, Sequence[str]]  # methods by study, `run` among them


@dataclass(frozen=True)
class RunResult:
    """The results of one method on one data set."""

    dataset: str
    method: str
    folder: Path  # with models and embeddings
    metrics: dict[str, Any]  # summary over the seeds, by metric
    history: dict[int, list[Row]]  # one row per epoch, by seed
    record: dict[str, Any]  # the run's provenance
    tuned: dict[str, Any] = field(default_factory=dict)  # how a competitor's settings were chosen
    class_scores: ClassScores = field(default_factory=dict)  # metrics of each test class

    @property
    def params(self) -> dict[str, Any]:
        """The settings of the training."""
        return self.record["params"]

    def stage_name(self, stage: str) -> str:
        """Return the name in dvc.yaml of one of the run's stages, which has that of its study.

        >>> tags = {"study": "alphas"}
        >>> RunResult("digits", "bn-4", Path(), {}, {}, {"tags": tags}).stage_name("train")
        'train-alphas@digits-bn-4'
        """
        study = self.record["tags"]["study"]  # one: no two grids train the same run
        suffix = "" if study == "run" else f"-{study}"
        return f"{stage}{suffix}@{self.dataset}-{self.method}"

    def values_by_seed(self) -> dict[str, dict[int, float]]:
        """Return each metric by seed, and the training `accuracy` of the last epoch if any."""
        ends = {seed: rows[-1] for seed, rows in self.history.items() if rows}
        last = {seed: row["accuracy"] for seed, row in ends.items() if "accuracy" in row}
        return ({"accuracy": last} if last else {}) | {
            name: {int(seed): value for seed, value in summary["seeds"].items()}
            for name, summary in self.metrics.items()
        }

    def curve(self, column: str) -> tuple[list[int], list[float]]:
        """Return the epochs that have the column, and its mean over the seeds in each."""
        values = self.values_by_epoch(column)
        return list(values), [sum(seeds) / len(seeds) for seeds in values.values()]

    def curve_half_widths(self, column: str) -> list[float]:
        """Return half the width of the 95 % interval of each of a curve's means, 0 for one seed."""
        return [
            float(t.ppf(0.975, len(seeds) - 1) * sem(seeds)) if len(seeds) > 1 else 0.0
            for seeds in self.values_by_epoch(column).values()
        ]

    def values_by_epoch(self, column: str) -> dict[int, list[float]]:
        """Return the seeds' values of a column in each epoch that has it."""
        values: dict[int, list[float]] = {}
        for rows in self.history.values():
            for row in rows:
                if column in row:
                    values.setdefault(int(row["epoch"]), []).append(row[column])
        return values

    def heating_epoch(self) -> int | None:
        """Return the first epoch with a smaller alpha than the epoch before, None if none has."""
        epochs, alphas = self.curve("alpha")
        pairs = zip(epochs[1:], alphas, alphas[1:], strict=False)
        return next((epoch for epoch, before, alpha in pairs if alpha < before), None)

    def accuracy_before_heating(self) -> dict[int, float]:
        """Return each seed's training accuracy in the last epoch before alpha first falls."""
        heated = self.heating_epoch()
        return {
            seed: row["accuracy"]
            for seed, rows in self.history.items()
            for row in rows
            if heated is not None and row["epoch"] == heated - 1 and "accuracy" in row
        }


def read_results(
    runs: Path,
    dataset: str,
    methods: Sequence[str],
    expected: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[RunResult]:
    """Read the runs of a data set, in the order of the methods.

    `expected` names files by method that not every run has. Raises InputError if a file is missing
    or damaged, differs from its digest in dvc.lock, or lacks a seed.
    """
    folders = [runs / dataset / method for method in methods]
    required = ("metrics.json", "history.csv", "provenance.json")
    optional = ("tuned.json", "gradients.json", "class_scores.csv")
    check_outputs(folder / name for folder in folders for name in (*required, *optional))
    found = []
    for folder in folders:
        metrics = read_json(require_output(folder / "metrics.json", "evaluate"))
        for name in expected.get(folder.name, ()):
            require_output(folder / name, WRITERS[name])
        record = read_record(require_output(folder / "provenance.json", "train"))
        history = read_history(folder / "history.csv", record["params"].get("epochs"))
        tuned = read_record(folder / "tuned.json") if (folder / "tuned.json").exists() else {}
        path = folder / "class_scores.csv"
        class_scores = read_class_scores(path) if path.exists() else {}
        values = (metrics, history, record, tuned, class_scores)
        found.append(RunResult(dataset, folder.name, folder, *values))
        check_seeds(found[-1])
    return found


def check_seeds(result: RunResult) -> None:
    """Raise InputError if a result of the run lacks one of the seeds in its provenance."""
    folder, trained = result.folder, {int(seed) for seed in result.record["seeds"]}
    with wrap_damage(folder / "metrics.json"):
        measured = [{int(seed) for seed in each["seeds"]} for each in result.metrics.values()]
        shared = set.intersection(*measured)
        for name, each in result.metrics.items():
            low, high = each["interval"] or (each["mean"], each["mean"])
            if not low <= each["mean"] <= high:
                raise ValueError(f"{name}: got the mean {each['mean']} outside {low} to {high}")
    found = {"history.csv": set(result.history), "metrics.json": shared}
    if (path := folder / "gradients.json").exists():
        with wrap_damage(path):
            found["gradients.json"] = {int(seed) for seed in read_json(path)["seeds"]}
    if result.class_scores:
        found["class_scores.csv"] = set(result.class_scores)
    for name, seeds in found.items():
        if seeds == trained:
            continue
        stage, wrong = WRITERS[name], min(seeds ^ trained)
        if stage != "train":  # or one before has lost the seed's file
            earlier = {"train": f"models/seed-{wrong}.safetensors"}
            earlier["embed"] = f"embeddings/seed-{wrong}.npz"
            lost = ((each, file) for each, file in earlier.items() if not (folder / file).exists())
            stage, name = next(lost, (stage, name))
        given, expected = (", ".join(map(str, sorted(each))) or "none" for each in (seeds, trained))
        message = f"{folder / name}: got results of the seeds {given}, expected {expected}"
        command = f"dvc repro --force {result.stage_name(stage)}"
        raise InputError(f"{message}. Run the stage '{stage}' again ({command}), then `dvc repro`.")


def select_studies(results: Sequence[RunResult], studies: Studies, *names: str) -> list[RunResult]:
    """Return the runs of the named studies, in the order of `results`."""
    methods = {method for name in names for method in studies.get(name, ())}
    return [result for result in results if result.method in methods]


def half_width(summary: Mapping[str, Any]) -> float | None:
    """Return half the width of a metric's interval, None for a single seed."""
    interval = summary["interval"]
    return None if interval is None else (interval[1] - interval[0]) / 2


def is_interval_possible(share: float, half_width: float) -> bool:
    """Whether an interval is within [0, 1], where its metric is."""
    return half_width <= min(share, 1 - share)


def headline_means(result: RunResult) -> dict[str, float]:
    """Return the means of the headline metrics."""
    return {k: result.metrics[k]["mean"] for k in HEADLINE_METRICS if k in result.metrics}


def curve_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return one row per method and epoch with means over the seeds, for `dvc plots`."""
    found = []
    for result in results:
        rows: dict[int, dict[str, float]] = {}
        names = (name for each in result.history.values() for row in each for name in row)
        for column in dict.fromkeys(names):
            for epoch, value in zip(*result.curve(column), strict=True):
                rows.setdefault(epoch, {})[column] = value
        head = {"dataset": result.dataset, "method": result.method}
        found += [{**head, **rows[epoch], "epoch": epoch} for epoch in sorted(rows)]
    return found


FACTS = ("device", "cores", "system", "python", "torch", "torchvision", "numpy", "scikit-learn")
NAMES = {"device": "processor", "python": "Python", "numpy": "NumPy"}


@dataclass(frozen=True)
class Provenance:
    """How the results of a data set were made."""

    facts: list[tuple[str, str]]  # names and values
    shared: dict[str, str]  # the parameters with the same value in all runs
    by_method: dict[str, dict[str, str]]  # the other parameters
    keys: dict[str, str]  # of the trainings, by method; MLflow's runs have them as a tag


def collect_provenance(results: Sequence[RunResult]) -> Provenance:
    """Collect the distinct values of every fact and parameter over the runs of a data set."""
    records = [result.record for result in results]
    facts = {key: sorted({str(each["environment"][key]) for each in records}) for key in FACTS}
    sources = [record["source"] for record in records]
    words = {True: " with changes", False: "", None: ", unknown whether with changes"}
    commits = {s["commit"] and s["commit"][:12] + words[s["modified"]] for s in sources}
    facts["commit"] = sorted(each or "unknown" for each in commits)
    facts["data SHA-256"] = sorted({record["data_sha256"] for record in records})
    seconds = [seed["seconds"] for record in records for seed in record["seeds"].values()]
    facts["training"] = [f"{sum(seconds):.0f} s in total for {len(seconds)} trainings"]
    params = {r.method: {key: format_value(v) for key, v in r.params.items()} for r in results}
    keys = dict.fromkeys(key for each in params.values() for key in each)
    values = {key: {each.get(key, "") for each in params.values()} for key in keys}
    differing = [key for key in keys if len(values[key]) > 1]
    by_method = {m: {key: each.get(key, "") for key in differing} for m, each in params.items()}
    shared = {key: values[key].pop() for key in keys if key not in differing}
    texts = [(NAMES.get(key, key), ", ".join(distinct)) for key, distinct in facts.items()]
    return Provenance(texts, shared, by_method, {r.method: r.record["key"] for r in results})


def format_value(value: Any) -> str:
    """Format a parameter; a mapping with a name becomes the name with its options.

    >>> format_value({"name": "step", "start": 16.0, "end": 4.0})
    'step (start 16, end 4)'
    >>> format_value([0.5, 1e-5]), format_value([])
    ('0.5, 1e-05', 'none')
    """
    if isinstance(value, Mapping):
        items = ((key, format_value(each)) for key, each in value.items() if key != "name")
        options, name = ", ".join(f"{key} {each}" for key, each in items), value.get("name")
        return options if name is None else f"{name} ({options})" if options else str(name)
    if isinstance(value, list):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_caption(results: Sequence[RunResult]) -> str:
    """Say which classes the tables' numbers are measured on, and how to read the numbers."""
    split = results[0].record["split"]
    metrics = [(k, each) for result in results for k, each in result.metrics.items()]
    means = [(k, 100 * each["mean"]) for k, each in metrics]
    deviation = max((mean for name, mean in means if name.endswith("_kmeans_std")), default=0)
    unmatched = max((mean for name, mean in means if name == "unanswerable_queries"), default=0)
    train, query, gallery = (split[part] for part in ("train", "query", "gallery"))
    searched = f", searched in {gallery['images']}" if gallery != query else ""
    notes = [
        f"Measured on the {split['tested'].removeprefix('the ')}: {query['images']} images of "
        f"{query['classes']} classes{searched}; trained on {train['images']} images of "
        f"{train['classes']} classes. Percent: mean ± half the 95 % interval of the mean "
        "(Student's t over n seeds). ↓: lower is more compact."
    ]
    intervals = [(s["mean"], half_width(s)) for k, s in metrics if "kmeans" not in k]
    if not all(width is None or is_interval_possible(mean, width) for mean, width in intervals):
        notes.append(
            "†: the interval has values outside [0, 100]. Student's t assumes a normal "
            "distribution, which these few seeds near a bound do not have."
        )
    if deviation:
        notes.append(
            "Cluster metrics are also means over the seeds of k-means, with a standard deviation "
            f"of at most {deviation:.2f}."
        )
    if unmatched:
        notes.append(
            f"{unmatched:.2f} % of the queries have no other image of their class in the gallery; "
            "they count as misses."
        )
    return " ".join(notes)
