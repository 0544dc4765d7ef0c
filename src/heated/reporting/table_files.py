"""The tables as Markdown, CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

from heated.reporting.results import Result
from heated.reporting.tables import Cell, Row, Table

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def markdown(dataset: str, told: str, tables: Sequence[Table]) -> str:
    """The tables in Markdown, under the data set's name and what is told of them."""
    parts = [f"## {dataset}\n\n{told}\n"]
    for each in tables:
        body = in_markdown(["method", "n", *each.metrics.values()], texts(each))
        parts.append(f"{body}\n" if each.study == "run" else f"### {each.title}\n\n{body}\n")
    return "\n".join(parts)


def in_markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; columns of numbers stand at the right.

    >>> print(in_markdown(["method", "n"], [["bn", "3"]]))
    | method | n |
    | --- | ---: |
    | bn | 3 |
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(heading)
    below = ["---:" if all(map(is_number, cells)) else "---" for cells in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heading, below, *rows])


def is_number(text: str) -> bool:
    """Whether a cell begins as a number does, or is empty."""
    return not text or text[0] in "+−<0123456789"


def texts(table: Table) -> list[list[str]]:
    """A list of texts a row: the method, its n, its cells."""
    return [[row.method, str(row.n), *map(str, row.cells.values())] for row in table.rows]


def csv_rows(results: Sequence[Result], tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A row a study and method, unrounded: of each metric the mean, and where there are several
    seeds deviation and interval, and the paper's number where it may stand beside."""
    found = {result.method: result for result in results}
    return [
        {
            "study": each.study,
            "method": row.method,
            "n": row.n,
            **{
                name: value
                for metric, cell in row.cells.items()
                for name, value in columns(metric, found[row.method], cell).items()
            },
        }
        for each in tables
        for row in each.rows
    ]


def columns(metric: str, result: Result, cell: Cell) -> dict[str, float]:
    """A metric's columns of CSV."""
    summary = result.metrics[metric]
    found = {metric: summary["mean"]}
    if summary["interval"] is not None:
        low, high = summary["interval"]
        found |= {f"{metric}_std": summary["std"], f"{metric}_low": low, f"{metric}_high": high}
    return found if cell.paper is None else found | {f"{metric}_paper": cell.paper}


def latex(tables: Sequence[Table]) -> str:
    r"""One tabular for booktabs, a block a study, the best means bold; goes into a document by
    \input."""
    metrics = tables[0].metrics
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(metrics) + 1)}}}",
        "\\toprule",
        line("method", "n", *metrics.values()),
    ]
    for each in tables:
        heading = f"\\multicolumn{{{len(metrics) + 2}}}{{l}}{{\\emph{{{escaped(each.title)}}}}}"
        lines += ["\\midrule", f"{heading} \\\\"]
        lines += [latex_row(row, metrics) for row in each.rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def latex_row(row: Row, metrics: Mapping[str, str]) -> str:
    """A row, with a cell for each of the metrics."""
    cells = [row.cells[metric] for metric in metrics]
    written = (
        f"\\textbf{{{escaped(str(cell))}}}" if cell.best else escaped(str(cell)) for cell in cells
    )
    return f"{escaped(row.method)} & {row.n} & {' & '.join(written)} \\\\"


def line(*texts: str) -> str:
    r"""A line of a tabular.

    >>> line("a_b", "5 %")
    'a\\_b & 5 \\% \\\\'
    """
    return f"{' & '.join(map(escaped, texts))} \\\\"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(sign, sign) for sign in text)
