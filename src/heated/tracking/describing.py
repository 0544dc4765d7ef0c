"""What MLflow shows above a run and an experiment, in Markdown: the result, and the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from heated.reporting.tables import markdown_table
from heated.tracking import Record

PAPER = "https://arxiv.org/abs/1809.04157"
GROUPS = (
    "`train/`, `schedule/` and `unseen/` are curves by epoch (on a method's run the means over its "
    "seeds), `final/` is measured on the trained model, `interval/` are the ends of the 95 % "
    "interval of the mean and the number of seeds, `kmeans/` tells how clustering went, `system/` "
    "what training took of the machine."
)
Summaries = Mapping[str, Mapping[str, Any]]


def run_note(record: Record, metrics: Summaries, paper: Mapping[str, float]) -> str:
    """A method's means, beside the paper's numbers {metric: value} where it has some."""
    tags = record["tags"]
    head = (
        f"**{record['method']}** on **{record['dataset']}** ({tags['backbone']}, "
        f"D = {record['params']['embedding_dim']}), study: {tags['study']}."
    )
    shown = paper or dict.fromkeys([name for name in metrics if name.startswith("recall")][:1])
    columns = ["metric", "mean", "95 % interval", "n", *(["paper"] if paper else [])]
    rows = [[name, *cells(metrics[name], value)][: len(columns)] for name, value in shown.items()]
    missing = f"The [paper]({PAPER}) has no number of this method by this recipe."
    source = f"Paper: [arXiv 1809.04157]({PAPER}), one training each."
    return "\n\n".join([head, markdown_table(columns, rows), source if paper else missing])


def cells(summary: Mapping[str, Any], paper: float | None) -> list[str]:
    """A metric's mean, interval, n and number of the paper, in percent."""
    ends = [f"{100 * end:.2f}" for end in summary["interval"] or ()]
    printed = "" if paper is None else f"{100 * paper:.2f} %"
    mean = f"{100 * summary['mean']:.2f} %"
    return [mean, " to ".join(ends) or "none", str(summary["n"]), printed]


def experiment_note(
    runs: Sequence[tuple[Record, Summaries]], papers: Mapping[str, Mapping[str, float]]
) -> str:
    """A data set with its parts, and each method's Recall@1 beside the paper's; `papers`: its
    numbers by method."""
    record = runs[0][0]
    parts = ", ".join(
        f"{side}: {record['split'][side]['images']} images of {record['split'][side]['classes']} "
        "classes"
        for side in ("train", "query", "gallery")
    )
    head = (
        f"**{record['dataset']}** (images: {record['tags']['dataset']}; tested: "
        f"{record['split']['tested']}). {parts}. "
        f"[Heated-Up Softmax Embedding]({PAPER}): a run is a method, the runs below it its seeds."
    )
    name = "recall_at_1"
    rows = [
        [of["method"], *cells(metrics[name], papers[of["method"]].get(name))]
        for of, metrics in runs
        if name in metrics
    ]
    columns = ["method", "Recall@1", "95 % interval", "n", "paper"]
    return "\n\n".join([head, markdown_table(columns, rows), GROUPS])
