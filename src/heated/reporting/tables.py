"""Tables of each study's methods as Markdown, CSV and LaTeX, and of the training costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from heated.reporting.paper_results import paper_value
from heated.reporting.run_results import (
    RunResult,
    Studies,
    format_value,
    half_width,
    is_interval_possible,
)

METRIC_TITLES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "nmi_geometric": "NMI, geometric",
    "nmi_arithmetic": "NMI, arithmetic",
    "ami": "AMI",
    "f1": "F1",
    "intra_class_variance": "intra-class variance ↓",
    "inter_class_distance": "inter-class distance",
}
STUDY_TITLES = {
    "run": "Main table",
    "alphas": "Constant alphas",
    "embedding_dims": "Constant alphas by embedding dimension",
    "timing": "Start, end and time of heating",
    "schedule_shapes": "Smooth schedules",
    "embeddings_2d": "Embeddings in two dimensions",
    "competitors": "Competitors under equal conditions",
    "heated_partners": "Losses with a constant and with a heated scale",
}
LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"±": r"$\pm$", "↓": r"$\downarrow$"}
LATEX["†"] = r"$\dagger$"
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX_ESCAPES = str.maketrans(LATEX)


@dataclass(frozen=True)
class Cell:
    """A metric of a method, in [0, 1]."""

    mean: float
    half_width: float | None  # of the 95 % interval; None for a single seed
    best: bool
    paper: float | None  # the paper's value if the run follows its protocol

    @property
    def mark(self) -> str:
        """A sign after an interval that has impossible values."""
        width = self.half_width
        return "" if width is None or is_interval_possible(self.mean, width) else " †"


@dataclass(frozen=True)
class TableRow:
    """A method, its number of seeds, and its cells by metric."""

    method: str
    n: int
    cells: dict[str, Cell]

    def texts(self) -> list[str]:
        """Format the row, values in percent."""
        cells = self.cells.values()
        texts = (f"{format_percent(cell.mean, cell.half_width)}{cell.mark}" for cell in cells)
        return [self.method, str(self.n), *texts]


@dataclass(frozen=True)
class StudyTable:
    """The methods of a study on one data set; `metrics` maps the columns to their titles."""

    study: str
    title: str
    metrics: dict[str, str]
    rows: list[TableRow]

    def markdown(self) -> str:
        """Format the table in Markdown."""
        heading = ["method", "n", *self.metrics.values()]
        return markdown_table(heading, [row.texts() for row in self.rows])


def format_percent(share: float, half_width: float | None = None) -> str:
    """Format a value in [0, 1] in percent, with half the width of its interval if it has one.

    >>> format_percent(0.7912, 0.01), format_percent(0.7912)
    ('79.12 ± 1.00', '79.12')
    """
    return f"{100 * share:.2f}" + ("" if half_width is None else f" ± {100 * half_width:.2f}")


def format_points(share: float) -> str:
    """Format a difference of values in [0, 1] in percentage points, with its sign.

    >>> format_points(0.0123), format_points(-0.5), format_points(-1e-9)
    ('+1.23', '−50.00', '0.00')
    """
    text = f"{100 * share:+.2f}"
    return text.replace("-", "−") if float(text) else "0.00"


def metric_title(metric: str, summaries: Iterable[Mapping[str, Any]] = ()) -> str:
    """Return a metric's title, with the k-means implementations that the summaries name.

    >>> metric_title("recall_at_10"), metric_title("f1", [{"engine": "lloyd"}])
    ('R@10', 'F1 (lloyd)')
    >>> metric_title("f1", [{"engine": "lloyd"}, {"engine": "scikit-learn"}])
    'F1 (lloyd, scikit-learn)'
    """
    name = METRIC_TITLES.get(metric, metric.replace("recall_at_", "R@"))
    engines = dict.fromkeys(each["engine"] for each in summaries if "engine" in each)
    return f"{name} ({', '.join(engines)})" if engines else name


def study_tables(
    results: Sequence[RunResult], studies: Studies, section: Mapping[str, Any]
) -> list[StudyTable]:
    """Make one table per study without auxiliary metrics, and mark the best of several methods."""
    by_method, tables = {result.method: result for result in results}, []
    for study, methods in studies.items():
        runs = [by_method[method] for method in methods]
        first, best = runs[0].metrics, {}
        names = [name for name in first if "kmeans" not in name and name != "unanswerable_queries"]
        for name in names:
            if name != "inter_class_distance" and len(runs) > 1:  # neither end of it is better
                extreme = min if name == "intra_class_variance" else max
                best[name] = extreme(run.metrics[name]["mean"] for run in runs)
        rows = []
        for run in runs:
            cells = {}
            for name in names:
                mean, paper = run.metrics[name]["mean"], paper_value(run.record, section, name)
                width = half_width(run.metrics[name])
                cells[name] = Cell(mean, width, mean == best.get(name), paper)
            rows.append(TableRow(run.method, len(run.history), cells))
        titles = {name: metric_title(name, [run.metrics[name] for run in runs]) for name in names}
        tables.append(StudyTable(study, STUDY_TITLES.get(study, study), titles, rows))
    return tables


def tables_markdown(dataset: str, caption: str, tables: Sequence[StudyTable]) -> str:
    """Format a data set's tables in Markdown, below its name and the caption."""
    parts = [f"## {dataset}\n\n{caption}\n"]
    for table in tables:
        heading = "" if table.study == "run" else f"### {table.title}\n\n"
        parts.append(f"{heading}{table.markdown()}\n")
    return "\n".join(parts)


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown; columns of numbers are aligned at the right.

    >>> print(markdown_table(["method", "n"], [["bn", "3"]]))
    | method | n |
    | --- | ---: |
    | bn | 3 |
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(heading)
    right = [all(not text or text[0] in "+−<[0123456789" for text in each) for each in columns]
    lines = [heading, ["---:" if each else "---" for each in right], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_rows(results: Sequence[RunResult], tables: Sequence[StudyTable]) -> list[dict[str, Any]]:
    """Return one row per study and method: unrounded means, deviations, intervals, paper values."""
    metrics, rows = {result.method: result.metrics for result in results}, []
    for table in tables:
        for row in table.rows:
            line: dict[str, Any] = {"study": table.study, "method": row.method, "n": row.n}
            for name, cell in row.cells.items():
                summary = metrics[row.method][name]
                line[name] = summary["mean"]
                if summary["interval"] is not None:
                    line[f"{name}_std"] = summary["std"]
                    line[f"{name}_low"], line[f"{name}_high"] = summary["interval"]
                if cell.paper is not None:
                    line[f"{name}_paper"] = cell.paper
            rows.append(line)
    return rows


def latex_tabular(tables: Sequence[StudyTable]) -> str:
    r"""Format the tables as one tabular with a block per study, best means bold, for `\input`."""
    titles = [title.translate(LATEX_ESCAPES) for title in tables[0].metrics.values()]
    lines = [
        r"% needs \usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(titles) + 1)}}}",
        r"\toprule",
        " & ".join(["method", "n", *titles]) + r" \\",
    ]
    for table in tables:
        study = f"\\emph{{{table.title.translate(LATEX_ESCAPES)}}}"
        lines += [r"\midrule", f"\\multicolumn{{{len(titles) + 2}}}{{l}}{{{study}}} \\\\"]
        for row in table.rows:
            texts = [text.translate(LATEX_ESCAPES) for text in row.texts()]
            bold = [False, False, *(cell.best for cell in row.cells.values())]
            cells = [f"\\textbf{{{t}}}" if b else t for t, b in zip(texts, bold, strict=True)]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


@dataclass(frozen=True)
class CostTable:
    """Training costs as text: one row per method, by column, and a note on how to read them."""

    note: str
    rows: list[dict[str, str]]

    def markdown(self) -> str:
        """Format the table as a section in Markdown."""
        table = markdown_table([*self.rows[0]], [[*row.values()] for row in self.rows])
        return f"### Training costs of the competitors\n\n{self.note}\n\n{table}"


def cost_table(results: Sequence[RunResult]) -> CostTable:
    """Tabulate the costs of the competitors' trainings: medians over the seeds, maximum memory."""
    rows = []
    for result in results:
        seeds, tuned = [*result.record["seeds"].values()], result.tuned
        recall = result.metrics["recall_at_1"]
        scores = [each[tuned["metric"]] for each in tuned["tried"]]
        row = {
            "method": result.method,
            "n": str(len(seeds)),
            "R@1": format_percent(recall["mean"], half_width(recall)),
            "images seen": str(int(median(each["images_seen"] for each in seeds))),
            "seconds": f"{median_seconds(result):.0f}",
            "MiB": str(max(each["peak_mib"] for each in seeds)),
            "chosen": describe_point(tuned["chosen"], [each["point"] for each in tuned["tried"]]),
            "tried": str(tuned["trainings"]),
            "not finite": str(scores.count(None)),  # grid points without a finite loss
            "validation R@1": format_percent(max(score for score in scores if score is not None)),
        }
        rows.append(row)
    tried = " or ".join(map(str, sorted({result.tuned["trainings"] for result in results})))
    tested = " and ".join(sorted({result.tuned["tested"] for result in results}))
    note = (
        f"The settings of each method were chosen among {tried} by Recall@1 on {tested}. Each was "
        "trained once, without the test classes. Settings that all methods share (epochs, "
        "batches, augmentation) were not searched here: the data set's section in datasets.yaml "
        "names their source. Seconds and memory depend on this hardware and on its other load."
    )
    return CostTable(note, rows)


def median_seconds(result: RunResult) -> float:
    """Return the median duration of a training over the seeds, in seconds."""
    return float(median(seed["seconds"] for seed in result.record["seeds"].values()))


def describe_point(point: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> str:
    """Describe a grid point, and mark values at an end of more than two: a better one may exist.

    >>> tried = [{"lr": 0.01, "scale": 8}, {"lr": 0.05, "scale": 16}, {"lr": 0.25, "scale": 16}]
    >>> [describe_point({"lr": lr, "scale": 16}, tried) for lr in (0.25, 0.05)]
    ['lr 0.25 (largest tried), scale 16', 'lr 0.05, scale 16']
    """
    texts = []
    for key, value in point.items():
        values = [each[key] for each in tried if key in each]
        end = ""
        if isinstance(value, float | int) and len(set(values)) > 2:
            ends = {min(values): " (smallest tried)", max(values): " (largest tried)"}
            end = ends.get(value, "")
        texts.append(f"{key} {format_value(value)}{end}")
    return ", ".join(texts)
