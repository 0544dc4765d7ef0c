import csv
from dataclasses import replace

import pytest
from reported import SCORES, SECTION, SPLIT
from test_paper import made

from heated.evaluation.summary import summaries
from heated.reporting.tables import (
    Cell,
    Row,
    Table,
    csv_rows,
    latex,
    markdown,
    tables,
    title,
)

HEADING = ["R@1", "MAP@R", "NMI, geometric", "compactness ↓"]


@pytest.fixture(scope="module")
def main(results):
    (table,) = tables(results, {"run": ["hbn", "bn"]}, SECTION)
    return table


def test_a_cell_is_the_mean_and_half_the_interval_in_percent_below_its_metrics_title():
    cells = {"79.12 ± 1.00": (0.7912, 0.01), "100.00 ± 10.00": (1.0, 0.1), "5.00": (0.05, None)}
    for text, (mean, half) in cells.items():
        assert str(Cell(mean, half, best=False, paper=None)) == text
    assert [title(name) for name in ("recall_at_4", "map_at_r", "new")] == ["R@4", "MAP@R", "new"]
    assert title("nmi_geometric", {"engine": "lloyd"}) == "NMI, geometric (lloyd)"


def test_the_table_has_a_row_a_method_with_its_n_and_a_cell_a_metric(main):
    assert [*main.metrics.values()] == HEADING
    hbn, bn = main.rows
    assert hbn.texts() == ["hbn", "1", "75.00", "25.00", "50.00", "12.50"]
    # Student's t with one degree of freedom: 12.7062 * 0.25 / 2
    assert (bn.method, bn.n, str(bn.cells["recall_at_1"])) == ("bn", 2, "62.50 ± 158.83")
    assert bn.cells.keys() == hbn.cells.keys()


def test_the_best_mean_is_marked_the_least_where_less_is_better(main, results):
    hbn, bn = main.rows
    assert all(cell.best for cell in hbn.cells.values())
    assert not any(cell.best for cell in bn.cells.values())
    (alone,) = tables(results[:1], {"run": ["hbn"]}, SECTION)
    assert not any(cell.best for cell in alone.rows[0].cells.values())
    spread = [replace(r, metrics={"spread": r.metrics["recall_at_1"]}) for r in results]
    (table,) = tables(spread, {"run": ["hbn", "bn"]}, SECTION)
    assert not any(row.cells["spread"].best for row in table.rows)


def test_each_study_has_a_table_of_its_methods_in_their_order(results):
    found = tables(results, {"run": ["bn"], "alphas": ["hbn", "bn"]}, SECTION)
    assert [each.title for each in found] == ["Main table", "Constant alphas"]
    assert [[row.method for row in each.rows] for each in found] == [["bn"], ["hbn", "bn"]]


def test_what_metrics_rest_on_is_not_tabled(results):
    beside = {"nmi_geometric_kmeans_std": 0.0123, "kmeans_objective": 0.3, "without_match": 0.02}
    metrics = summaries({seed: values | beside for seed, values in SCORES["bn"].items()})
    (table,) = tables([replace(results[1], metrics=metrics)], {"run": ["bn"]}, SECTION)
    assert [*table.metrics.values()] == HEADING


def test_the_papers_number_stands_beside_a_run_by_its_protocol_only(results):
    record, section = made("cub200", "hbn")
    faithful = replace(results[0], record=record)
    (table,) = tables([faithful], {"run": ["hbn"]}, section)
    cells = table.rows[0].cells
    assert cells["recall_at_1"].paper == pytest.approx(0.5068)
    assert cells["map_at_r"].paper is None
    other = replace(results[0], record={**record, "split": SPLIT})
    (table,) = tables([other], {"run": ["hbn"]}, section)
    assert {cell.paper for cell in table.rows[0].cells.values()} == {None}


MARKDOWN = """## digits

What it is.

| method | n | R@1 | MAP@R | NMI, geometric | compactness ↓ |
| --- | ---: | ---: | ---: | ---: | ---: |
| hbn | 1 | 75.00 | 25.00 | 50.00 | 12.50 |
| bn | 2 | 62.50 ± 158.83 | 15.00 ± 63.53 | 42.50 ± 31.77 | 30.00 ± 0.00 |

### Constant alphas

| method | n | R@1 | MAP@R | NMI, geometric | compactness ↓ |
| --- | ---: | ---: | ---: | ---: | ---: |
| bn | 2 | 62.50 ± 158.83 | 15.00 ± 63.53 | 42.50 ± 31.77 | 30.00 ± 0.00 |
"""
LATEX = r"""% needs \usepackage{booktabs}
\begin{tabular}{lrrrrr}
\toprule
method & n & R@1 & MAP@R & NMI, geometric & compactness $\downarrow$ \\
\midrule
\multicolumn{6}{l}{\emph{Main table}} \\
hbn & 1 & \textbf{75.00} & \textbf{25.00} & \textbf{50.00} & \textbf{12.50} \\
bn & 2 & 62.50 $\pm$ 158.83 & 15.00 $\pm$ 63.53 & 42.50 $\pm$ 31.77 & 30.00 $\pm$ 0.00 \\
\midrule
\multicolumn{6}{l}{\emph{Constant alphas}} \\
bn & 2 & 62.50 $\pm$ 158.83 & 15.00 $\pm$ 63.53 & 42.50 $\pm$ 31.77 & 30.00 $\pm$ 0.00 \\
\bottomrule
\end{tabular}
"""


def test_markdown_and_latex_have_a_table_a_study(results):
    found = tables(results, {"run": ["hbn", "bn"], "alphas": ["bn"]}, SECTION)
    assert markdown("digits", "What it is.", found) == MARKDOWN
    assert latex(found) == LATEX


def test_csv_has_what_is_not_rounded_and_the_papers_numbers_where_they_may_stand(results, report):
    with (report / "tables/digits.csv").open(encoding="utf-8", newline="") as file:
        hbn, bn = csv.DictReader(file)
    assert (bn["study"], bn["method"], bn["n"]) == ("run", "bn", "2")
    summary = results[1].metrics["recall_at_1"]
    assert float(bn["recall_at_1"]) == summary["mean"]
    assert [float(bn[f"recall_at_1_{end}"]) for end in ("low", "high")] == summary["interval"]
    assert float(bn["recall_at_1_std"]) == summary["std"]
    assert hbn["recall_at_1_std"] == ""
    assert "recall_at_1_paper" not in hbn
    record, section = made("cub200", "hbn")
    faithful = replace(results[0], record=record)
    (row,) = csv_rows([faithful], tables([faithful], {"run": ["hbn"]}, section))
    assert row["recall_at_1_paper"] == pytest.approx(0.5068)


def test_latex_has_no_bare_sign_of_its_own_language():
    row = Row("a_b & {$x^2$} #1 ~\\", 2, {"f1": Cell(0.5, 0.1, best=True, paper=None)})
    text = latex([Table("run", {"f1": "F1 50 %"}, [row])])
    name = r"a\_b \& \{\$x\textasciicircum{}2\$\} \#1 \textasciitilde{}\textbackslash{}"
    assert name + r" & 2 & \textbf{50.00 $\pm$ 10.00} \\" in text
    assert r"F1 50 \% \\" in text
