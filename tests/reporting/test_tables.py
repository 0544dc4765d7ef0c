import csv
from dataclasses import replace

import pytest
from reported import KMEANS_AND_UNANSWERABLE, SCORES, SECTION, SPLIT
from test_paper_results import record_of

from heated.evaluation.metrics import summarize_seeds
from heated.reporting import tables
from heated.reporting.tables import Cell, StudyTable, TableRow, study_tables

HEADING = ["R@1", "MAP@R", "NMI, geometric", "intra-class variance ↓"]


def main_table(results, section=SECTION):
    (table,) = study_tables(results, {"run": [result.method for result in results]}, section)
    return table


def test_a_table_has_one_row_per_method_and_one_cell_per_metric(results):
    table = main_table(results)
    assert [*table.metrics.values()] == HEADING
    hbn, bn = table.rows
    assert hbn.texts() == ["hbn", "1", "75.00", "25.00", "50.00", "12.50"]
    # Student's t with one degree of freedom: 12.7062 * 0.25 / 2
    assert bn.texts()[:3] == ["bn", "2", "62.50 ± 158.83 †"]
    assert bn.cells.keys() == hbn.cells.keys()
    assert tables.metric_title("new") == "new"
    scores = {seed: values | KMEANS_AND_UNANSWERABLE for seed, values in SCORES["bn"].items()}
    metrics = summarize_seeds(scores)
    table = main_table([replace(results[1], metrics=metrics)])
    assert [*table.metrics.values()] == HEADING


def test_the_best_mean_is_marked_the_smallest_where_lower_is_better(results):
    hbn, bn = main_table(results).rows
    assert all(cell.best for cell in hbn.cells.values())
    assert not any(cell.best for cell in bn.cells.values())
    assert not any(cell.best for cell in main_table(results[:1]).rows[0].cells.values())
    name = "inter_class_distance"  # has no best value
    unranked = [replace(r, metrics={name: r.metrics["recall_at_1"]}) for r in results]
    assert not any(row.cells[name].best for row in main_table(unranked).rows)


def test_only_a_run_with_the_papers_protocol_shows_the_papers_value(results):
    record, section = record_of("cub200", "hbn")
    faithful = replace(results[0], record=record)
    table = main_table([faithful], section)
    cells = table.rows[0].cells
    assert cells["recall_at_1"].paper == pytest.approx(0.5068)
    assert cells["map_at_r"].paper is None
    (row,) = tables.csv_rows([faithful], [table])
    assert row["recall_at_1_paper"] == pytest.approx(0.5068)
    other = replace(results[0], record={**record, "split": SPLIT})
    cells = main_table([other], section).rows[0].cells
    assert {cell.paper for cell in cells.values()} == {None}


MARKDOWN = """## digits

Its caption.

| method | n | R@1 | MAP@R | NMI, geometric | intra-class variance ↓ |
| --- | ---: | ---: | ---: | ---: | ---: |
| hbn | 1 | 75.00 | 25.00 | 50.00 | 12.50 |
| bn | 2 | 62.50 ± 158.83 † | 15.00 ± 63.53 † | 42.50 ± 31.77 | 30.00 ± 0.00 |

### Constant alphas

| method | n | R@1 | MAP@R | NMI, geometric | intra-class variance ↓ |
| --- | ---: | ---: | ---: | ---: | ---: |
| bn | 2 | 62.50 ± 158.83 † | 15.00 ± 63.53 † | 42.50 ± 31.77 | 30.00 ± 0.00 |
"""
LATEX = r"""% needs \usepackage{booktabs}
\begin{tabular}{lrrrrr}
\toprule
method & n & R@1 & MAP@R & NMI, geometric & intra-class variance $\downarrow$ \\
\midrule
\multicolumn{6}{l}{\emph{Main table}} \\
hbn & 1 & \textbf{75.00} & \textbf{25.00} & \textbf{50.00} & \textbf{12.50} \\
bn & 2 & 62.50 ± 158.83 † & 15.00 ± 63.53 † & 42.50 ± 31.77 & 30.00 ± 0.00 \\
\midrule
\multicolumn{6}{l}{\emph{Constant alphas}} \\
bn & 2 & 62.50 ± 158.83 † & 15.00 ± 63.53 † & 42.50 ± 31.77 & 30.00 ± 0.00 \\
\bottomrule
\end{tabular}
""".replace("±", r"$\pm$").replace("†", r"$\dagger$")


def test_markdown_and_latex_have_one_table_per_study_and_latex_is_escaped(results):
    by_study = study_tables(results, {"run": ["hbn", "bn"], "alphas": ["bn"]}, SECTION)
    assert tables.tables_markdown("digits", "Its caption.", by_study) == MARKDOWN
    assert tables.latex_tabular(by_study) == LATEX
    row = TableRow("a_b & {$x^2$} #1 ~\\", 2, {"f1": Cell(0.5, 0.1, best=True, paper=None)})
    text = tables.latex_tabular([StudyTable("run", "Main", {"f1": "F1 50 %"}, [row])])
    name = r"a\_b \& \{\$x\textasciicircum{}2\$\} \#1 \textasciitilde{}\textbackslash{}"
    assert name + r" & 2 & \textbf{50.00 $\pm$ 10.00} \\" in text
    assert r"F1 50 \% \\" in text


def test_csv_has_unrounded_values(results, report):
    with (report / "tables/digits.csv").open(encoding="utf-8", newline="") as file:
        hbn, bn = csv.DictReader(file)
    assert (bn["study"], bn["method"], bn["n"]) == ("run", "bn", "2")
    summary = results[1].metrics["recall_at_1"]
    values = [float(bn[f"recall_at_1{end}"]) for end in ("", "_std", "_low", "_high")]
    assert values == [summary["mean"], summary["std"], *summary["interval"]]
    assert hbn["recall_at_1_std"] == ""
    assert "recall_at_1_paper" not in hbn
