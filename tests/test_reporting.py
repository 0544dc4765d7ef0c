import re
from dataclasses import replace
from html.parser import HTMLParser
from shutil import copytree

import pytest

from heated.files import write_json
from heated.history import write_history
from heated.reporting.figures import curves
from heated.reporting.page import commit, page
from heated.reporting.results import curve_rows, headlines, read_results
from heated.reporting.tables import basis, cell, legend, markdown, table, title
from heated.statistics import summaries

METHODS = ["hbn", "bn"]  # not in the alphabet's order
ALPHAS = {"hbn": [16.0, 16.0, 4.0], "bn": [16.0, 16.0, 16.0]}
SCORES = {
    "hbn": {0: {"recall_at_1": 0.75, "map_at_r": 0.25, "nmi_geometric": 0.5, "compactness": 0.125}},
    "bn": {
        0: {"recall_at_1": 0.5, "map_at_r": 0.1, "nmi_geometric": 0.4, "compactness": 0.3},
        1: {"recall_at_1": 0.75, "map_at_r": 0.2, "nmi_geometric": 0.45, "compactness": 0.3},
    },
}
ENVIRONMENT = {
    "device": "Maker's <b>fast</b> & cheap",
    "device_type": "cpu",
    "cores": 2,
    "system": "Linux",
    "python": "3.11.7",
    "torch": "2.0",
    "torchvision": "0.2",
    "numpy": "2.1",
    "scikit-learn": "1.9",
}
PART = {"images": 20, "classes": 4}
SPLIT = {"tested": "test classes", **dict.fromkeys(("train", "query", "gallery"), PART)}


def history(method, seed):
    return [
        {
            "epoch": epoch,
            "alpha": alpha,
            "loss": 1.0 + seed + epoch,
            **({"recall_at_1": 0.5 + seed / 4} if epoch == 2 else {}),
        }
        for epoch, alpha in enumerate(ALPHAS[method])
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of two runs on one data set, as the stages write them."""
    runs = tmp_path_factory.mktemp("runs")
    for method, scores in SCORES.items():
        folder = runs / "digits" / method
        write_json(folder / "metrics.json", summaries(scores))
        write_history(folder / "history.csv", {seed: history(method, seed) for seed in scores})
        record = {
            "dataset": "digits",
            "method": method,
            "key": "k",
            "params": {},
            "data_sha256": "ab" * 32,
            "split": SPLIT,
            "source": {"commit": "0123456789abcdef", "modified": method == "bn"},
            "environment": ENVIRONMENT,
            "seeds": {str(seed): {"seconds": 20.2, "epochs_trained": 3} for seed in scores},
        }
        write_json(folder / "provenance.json", record)
    return runs


@pytest.fixture
def runs(written, tmp_path):
    """A copy of the folder for a test to change."""
    return copytree(written, tmp_path / "runs")


@pytest.fixture(scope="module")
def results(written):
    return read_results(written, "digits", METHODS)


@pytest.fixture(scope="module")
def svg(results):
    return curves(results)


class Page(HTMLParser):
    """The tags, the cells' text and every other text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.cells, self.texts, self.inside = [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        (self.cells if self.inside in ("td", "th") else self.texts).append(data.strip())

    def handle_endtag(self, tag):
        self.inside = None


@pytest.fixture(scope="module")
def html(results, svg):
    return page({"digits": results}, {"digits": svg})


def test_the_legend_says_what_was_tested_and_how_much_of_it_there_is(results):
    told = "On the test classes: 20 images of 4 classes, after training on 20 of 4."
    assert legend(results).startswith(told)
    held_out = {**SPLIT, "tested": "validation classes, fold 1 of 5 of the training classes"}
    other = replace(results[0], record={**results[0].record, "split": held_out})
    assert legend([other]).startswith("On the validation classes, fold 1 of 5 of the training")


def test_a_gallery_apart_is_told():
    split = {**SPLIT, "gallery": {"images": 30, "classes": 4}}
    assert "20 images of 4 classes, looked for among 30, after" in basis(split)


def test_runs_are_read_in_the_order_of_the_methods_asked_for(runs):
    for methods in (["hbn", "bn"], ["bn", "hbn"], ["bn"]):
        assert [r.method for r in read_results(runs, "digits", methods)] == methods


def test_a_run_is_read_with_its_metrics_history_and_record(results):
    hbn, bn = results
    assert bn.metrics["recall_at_1"]["seeds"] == {"0": 0.5, "1": 0.75}
    assert bn.history == {0: history("bn", 0), 1: history("bn", 1)}
    assert hbn.record["method"] == "hbn"


@pytest.mark.parametrize(
    ("name", "stage"),
    [("metrics.json", "evaluate"), ("history.csv", "train"), ("provenance.json", "train")],
)
def test_a_missing_file_names_the_stage_that_makes_it(runs, name, stage):
    (runs / "digits" / "bn" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing: the stage '{stage}'"):
        read_results(runs, "digits", METHODS)


def test_a_curve_is_the_mean_over_seeds_of_the_epochs_that_have_it(results):
    hbn, bn = results
    assert bn.curve("loss") == ([0, 1, 2], [1.5, 2.5, 3.5])
    assert bn.curve("recall_at_1") == ([2], [0.625])
    assert hbn.curve("loss") == ([0, 1, 2], [1.0, 2.0, 3.0])
    assert hbn.curve("absent") == ([], [])


def test_heating_is_at_the_first_epoch_with_a_smaller_alpha(results):
    hbn, bn = results
    assert hbn.heated_at() == 2
    assert bn.heated_at() is None


def test_the_headlines_are_means_by_method(results):
    assert headlines(results) == {
        "hbn": {"recall_at_1": 0.75, "map_at_r": 0.25, "nmi_geometric": 0.5},
        "bn": pytest.approx({"recall_at_1": 0.625, "map_at_r": 0.15, "nmi_geometric": 0.425}),
    }


def test_curve_rows_have_a_row_for_each_method_and_epoch(results):
    rows = curve_rows(results)
    assert [(row["method"], row["epoch"]) for row in rows] == [
        (method, epoch) for method in METHODS for epoch in range(3)
    ]
    assert rows[2] == {
        "dataset": "digits",
        "method": "hbn",
        "epoch": 2,
        "alpha": 4.0,
        "loss": 3.0,
        "recall_at_1": 0.5,
    }
    assert "recall_at_1" not in rows[0]
    assert rows[5]["recall_at_1"] == 0.625


@pytest.mark.parametrize(
    ("mean", "interval", "expected"),
    [
        (0.7912, [0.7812, 0.8012], "79.12 ± 1.00"),
        (1.0, [0.9, 1.1], "100.00 ± 10.00"),
        (0.05, None, "5.00"),
    ],
)
def test_a_cell_is_the_mean_and_half_the_interval_in_percent(mean, interval, expected):
    assert cell({"mean": mean, "interval": interval}) == expected


def test_a_metric_without_a_title_keeps_its_name():
    names = ("recall_at_4", "map_at_r", "new")
    assert [title(name, {}) for name in names] == ["R@4", "MAP@R", "new"]


def test_the_engine_stands_in_the_heading_of_what_it_gave():
    assert title("nmi_geometric", {"engine": "lloyd"}) == "NMI, geometric (lloyd)"


def test_what_metrics_rest_on_is_told_and_not_tabled(runs):
    folder = runs / "digits" / "bn"
    beside = {"nmi_geometric_kmeans_std": 0.0123, "kmeans_objective": 0.3, "without_match": 0.02}
    scores = {seed: values | beside for seed, values in SCORES["bn"].items()}
    write_json(folder / "metrics.json", summaries(scores))
    (result,) = read_results(runs, "digits", ["bn"])
    assert table([result])[0] == ["method", "n", "R@1", "MAP@R", "NMI, geometric", "compactness ↓"]
    for text in (legend([result]), markdown([result])):
        assert "standard deviation is at most 1.23." in text
        assert "2.00 % of the queries have no other image of their class" in text


def test_nothing_is_told_where_there_is_nothing_to_tell(results):
    assert "k-means" not in legend(results)
    assert "queries" not in legend(results)


def test_the_table_has_a_row_a_method_with_its_n_and_a_cell_a_metric(results):
    heading, (hbn, bn) = table(results)
    assert heading == ["method", "n", "R@1", "MAP@R", "NMI, geometric", "compactness ↓"]
    assert hbn == ["hbn", "1", "75.00", "25.00", "50.00", "12.50"]
    # Student's t with one degree of freedom: 12.7062 * 0.25 / 2
    assert bn[:3] == ["bn", "2", "62.50 ± 158.83"]
    assert len(bn) == len(heading)


def test_the_markdown_is_a_table_with_as_many_columns_in_each_line(results):
    text = markdown(results)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heading, rows = table(results)
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert text.startswith("## digits\n")
    assert cells[0] == heading
    assert cells[1] == ["---", *["---:"] * (len(heading) - 1)]
    assert cells[2:] == rows


def test_the_page_has_every_methods_cells_and_every_heading(results, html):
    heading, rows = table(results)
    assert [text for text in Page(html).cells if text] == [*heading, *rows[0], *rows[1]]


def test_the_page_loads_nothing_from_outside(html):
    loads = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    addresses = [given[name] for _, given in Page(html).tags for name in loads if name in given]
    addresses += re.findall(r"url\(([^)]*)\)", html)
    assert addresses
    assert [a for a in addresses if not a.strip("'\"").startswith(("#", "data:"))] == []
    assert "@import" not in html
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in Page(html).tags}


def test_the_page_says_when_each_method_was_heated(results, html):
    assert "hbn from epoch 2." in html
    unheated = page({"digits": results[1:]}, {"digits": "<svg></svg>"})
    assert "no method was heated." in unheated


def test_the_page_says_how_its_results_were_made(html):
    texts = Page(html).texts
    for fact in ("3.11.7", "ab" * 32, "0123456789ab, 0123456789ab with changes", "61 s in all"):
        assert fact in texts


def test_texts_from_outside_are_escaped(html):
    assert "Maker&#39;s &lt;b&gt;fast&lt;/b&gt; &amp; cheap" in html
    assert "<b>fast</b>" not in html


def test_the_page_is_the_same_when_made_twice(results, svg, html):
    assert page({"digits": results}, {"digits": svg}) == html


def test_each_data_set_has_its_own_section(results, svg):
    both = page({"digits": results, "more": results}, {"digits": svg, "more": svg})
    assert both.count("<table>") == both.count("<svg ") == 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"commit": "0123456789abcdef", "modified": False}, "0123456789ab"),
        ({"commit": "0123456789abcdef", "modified": True}, "0123456789ab with changes"),
        ({"commit": None, "modified": False}, "not in a git repository"),
    ],
)
def test_a_commit_is_told_with_whether_the_tree_differed(source, expected):
    assert commit(source) == expected
