"""Tables of methods, a study a table: mean and 95 % interval in percent, n seeds; as Markdown, CSV
and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.reporting.paper import published
from heated.reporting.results import Result, half_width

TITLES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "nmi_geometric": "NMI, geometric",
    "nmi_arithmetic": "NMI, arithmetic",
    "ami": "AMI",
    "f1": "F1",
    "compactness": "compactness ↓",
    "spread": "spread",
}
STUDIES = {
    "run": "Main table",
    "alphas": "Constant alphas",
    "dimensions": "Alpha by the embedding's dimensions",
    "timing": "From which alpha to which, and when",
    "shapes": "Smooth schedules",
    "planes": "Two dimensions",
    "competitors": "Competitors, on equal terms",
}
LOWER = ("compactness",)  # is better
NEITHER = ("spread",)
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "↓": r"$\downarrow$",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class Cell:
    """A metric of a method: shares in [0, 1]; `half` is half the interval's width, None for a
    single seed; `paper` is the paper's own number, where the run is by its protocol."""

    mean: float
    half: float | None
    best: bool
    paper: float | None

    def __str__(self) -> str:
        return in_percent(self.mean, self.half)


@dataclass(frozen=True)
class Row:
    """A method, its n, and its cells by metric."""

    method: str
    n: int
    cells: dict[str, Cell]

    def texts(self) -> list[str]:
        """The method, its n, its cells."""
        return [self.method, str(self.n), *map(str, self.cells.values())]


@dataclass(frozen=True)
class Table:
    """A study's methods on one data set; `metrics` are its columns, with their titles."""

    study: str
    metrics: dict[str, str]
    rows: list[Row]

    @property
    def title(self) -> str:
        """The study in words."""
        return STUDIES.get(self.study, self.study)

    def markdown(self) -> str:
        """The table in Markdown."""
        heading = ["method", "n", *self.metrics.values()]
        return in_markdown(heading, [row.texts() for row in self.rows])


def percent(share: float) -> str:
    """A share in percent, to two places."""
    return f"{100 * share:.2f}"


def in_percent(mean: float, half: float | None) -> str:
    """A mean and half its interval's width; the mean alone for a single seed.

    >>> in_percent(0.7912, 0.01), in_percent(0.7912, None)
    ('79.12 ± 1.00', '79.12')
    """
    return percent(mean) + ("" if half is None else f" ± {percent(half)}")


def title(metric: str, summary: Mapping[str, Any] | None = None) -> str:
    """A metric's heading, with the engine that gave its numbers.

    >>> title("recall_at_10"), title("f1", {"engine": "lloyd"})
    ('R@10', 'F1 (lloyd)')
    """
    name = TITLES.get(metric, metric.replace("recall_at_", "R@"))
    return f"{name} ({summary['engine']})" if summary and "engine" in summary else name


def tables(
    results: Sequence[Result], studies: Mapping[str, Sequence[str]], section: Mapping[str, Any]
) -> list[Table]:
    """A table for each study, of its methods in their order. section: what params.yaml says of the
    data set, for the paper's numbers."""
    found = {result.method: result for result in results}
    return [
        table(study, [found[method] for method in methods], section)
        for study, methods in studies.items()
    ]


def table(study: str, results: Sequence[Result], section: Mapping[str, Any]) -> Table:
    """The results' metrics; what metrics rest on is left out. The best mean of each is marked."""
    first = results[0].metrics
    metrics = [name for name in first if "kmeans" not in name and name != "without_match"]
    best = {metric: most(metric, results) for metric in metrics}
    rows = []
    for result in results:
        cells = {}
        for metric in metrics:
            summary, paper = result.metrics[metric], published(result.record, section, metric)
            mean = summary["mean"]
            cells[metric] = Cell(mean, half_width(summary), mean == best[metric], paper)
        rows.append(Row(result.method, len(result.history), cells))
    return Table(study, {metric: title(metric, first[metric]) for metric in metrics}, rows)


def most(metric: str, results: Sequence[Result]) -> float | None:
    """The best mean of a metric; None where more is neither better nor worse, or of one method."""
    means = [result.metrics[metric]["mean"] for result in results]
    if metric in NEITHER or len(means) < 2:
        return None
    return min(means) if metric in LOWER else max(means)


def markdown(dataset: str, told: str, tables: Sequence[Table]) -> str:
    """The tables in Markdown, under the data set's name and what is told of them."""
    parts = [f"## {dataset}\n\n{told}\n"]
    for each in tables:
        heading = "" if each.study == "run" else f"### {each.title}\n\n"
        parts.append(f"{heading}{each.markdown()}\n")
    return "\n".join(parts)


def in_markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; columns of numbers, or of nothing, stand at the right.

    >>> print(in_markdown(["method", "n"], [["bn", "3"]]))
    | method | n |
    | --- | ---: |
    | bn | 3 |
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(heading)
    right = [all(not text or text[0] in "+−<0123456789" for text in each) for each in columns]
    lines = [heading, ["---:" if each else "---" for each in right], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_rows(results: Sequence[Result], tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A row a study and method, unrounded: of each metric the mean, and where there are several
    seeds deviation and interval, and the paper's number where it may stand beside."""
    found, rows = {result.method: result for result in results}, []
    for each in tables:
        for row in each.rows:
            line: dict[str, Any] = {"study": each.study, "method": row.method, "n": row.n}
            for metric, cell in row.cells.items():
                summary = found[row.method].metrics[metric]
                line[metric] = summary["mean"]
                if summary["interval"] is not None:
                    line[f"{metric}_std"] = summary["std"]
                    line[f"{metric}_low"], line[f"{metric}_high"] = summary["interval"]
                if cell.paper is not None:
                    line[f"{metric}_paper"] = cell.paper
            rows.append(line)
    return rows


def latex(tables: Sequence[Table]) -> str:
    r"""One tabular for booktabs, a block a study, the best means bold; goes into a document by
    \input."""
    metrics = tables[0].metrics
    lines = [
        r"% needs \usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(metrics) + 1)}}}",
        r"\toprule",
        latex_line(["method", "n", *(name.translate(LATEX) for name in metrics.values())]),
    ]
    for each in tables:
        study = f"\\emph{{{each.title.translate(LATEX)}}}"
        lines += [r"\midrule", latex_line([f"\\multicolumn{{{len(metrics) + 2}}}{{l}}{{{study}}}"])]
        for row in each.rows:
            texts = [text.translate(LATEX) for text in row.texts()]
            best = [False, False, *(row.cells[metric].best for metric in metrics)]
            pairs = zip(texts, best, strict=True)
            lines.append(latex_line([f"\\textbf{{{t}}}" if bold else t for t, bold in pairs]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def latex_line(cells: Sequence[str]) -> str:
    """A line of a tabular."""
    return f"{' & '.join(cells)} \\\\"
