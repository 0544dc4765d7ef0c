import csv
import json
import re
import shutil
from dataclasses import replace

import pytest
from conftest import ROOT
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides
from reported import GRIDS, METHODS, SECTION, Page, claim, comparison, dataset_report

from heated.config import FILES, load_params
from heated.reporting import release
from heated.reporting.figures.base import ReportFigure
from heated.reporting.paper_results import departures
from heated.reporting.release import render_report

BOTH = ("digits", "more")
RELEASED = sorted((ROOT / "results").glob("*.json"))


@pytest.fixture(scope="module")
def html(digits):
    return render_report([digits])


@pytest.fixture(scope="module")
def both(report):
    """The page of both data sets."""
    return (report / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def more_html(more):
    """A page without neighbors, with two studies and a claim with two comparisons."""
    same = claim("The same", comparison("hbn", "bn", 0.5), comparison("bn", "hbn", 0.5))
    studies = {"run": ["hbn"], "alphas": ["bn"]}
    grids = GRIDS | {n: {"datasets": ["more"], "methods": m} for n, m in studies.items()}
    return render_report([dataset_report(more.results, claims={"same": same}, grids=grids)])


def test_the_page_has_its_sections_tables_and_nested_headings(html, both, more_html):
    titles = ["Replication results", "Tables", "Figures", "Neighbors", "How it was made"]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == titles
    levels = [int(level) for level in re.findall(r"<h([1-5])", both)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    rows = Page(html).rows
    assert ["method", "n", "R@1", "MAP@R", "NMI, geometric", "intra-class variance ↓"] in rows
    assert ["hbn", "1", "75.00", "25.00", "50.00", "12.50"] in rows
    assert ["bn", "2", "62.50 ± 158.83 †"] in [row[:3] for row in rows]
    names = [row[0] for row in rows if row[0] in METHODS]
    assert names == METHODS * 2  # results and parameters
    assert re.findall(r"<caption>(.*?)</caption>", more_html) == ["Main table", "Constant alphas"]


def test_a_claim_shows_word_and_symbol_or_what_to_change(html, more_html):
    verdict = re.search(r'<span class="verdict">(.*?)</span> *([\w ]+)</span>', html)
    assert verdict.group(1).endswith("·")
    assert verdict.group(2) == "no verdict"
    assert "2 claims: 1 no verdict, 1 not run" in html
    (folded,) = re.findall(r'<details class="absent">(.*?)</details>', html, re.DOTALL)
    assert "16 is best" in folded
    assert "add digits to studies.alphas.datasets" in folded
    (folded,) = re.findall(r"<details>\s*<summary>2 comp(.*?)</details>", more_html, re.DOTALL)
    assert folded.count("<li>") == 2


def test_a_note_of_all_claims_is_shown_once(results, html):
    claims = {name: claim(name, comparison("hbn", "bn")) for name in "abc"}
    page = render_report([dataset_report(results, claims=claims)])
    note = "A verdict needs at least 5 seeds with differences that vary."
    assert "3 claims: 3 no verdict" in page
    assert (page.count(note), html.count(note)) == (1, 1)


FOLDERS = ("tables/", "figures/")  # next to the page; links, too
PAPER = "https://arxiv.org/abs/1809.04157"  # a link, loaded by a click only


def test_the_page_loads_nothing_from_outside(both):
    tags = Page(both).tags
    addresses = re.findall(r'\b(?:src|href|srcset|data|action|poster)="([^"]*)', both)
    addresses += re.findall(r"url\(([^)]*)\)", both)
    assert addresses
    outside = [a for a in addresses if not a.strip("'\"").startswith(("#", "data:", *FOLDERS))]
    assert outside == [PAPER]
    assert "@import" not in both
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in tags}
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}]


def test_ids_are_unique_and_links_lead_to_them_or_to_files(html, both, report):
    tags = Page(both).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {attributes["href"].removeprefix("#") for tag, attributes in tags if tag == "a"}
    links.remove(PAPER)
    files = {link for link in links if link.startswith(FOLDERS)}
    assert len(files) == len(BOTH) * 4  # three of tables, and a figure
    assert all((report / file).exists() for file in files)
    links -= files
    assert links | {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a} <= set(ids)
    assert all(f'href="#{name}"' in both for name in ("tables-more", "neighbors-digits"))
    assert 'href="#neighbors-more"' not in both
    assert 'href="#tables-digits"' not in html
    assert both.count('<table class="sortable">') == both.count("<svg ") == 2


def test_figures_and_neighbors_have_text_alternatives(digits, html, more_html):
    (figure,) = digits.figures
    (image,) = [attributes for _, attributes in Page(html).tags if attributes.get("role") == "img"]
    assert image["aria-label"] == figure.description
    assert f"<b>{figure.title}.</b> {figure.description}" in html
    images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert [image["alt"] for image in images[:3]] == [
        "query of class cat & dog",
        "neighbor 1 of class cat & dog: right",
        "neighbor 2 of class bee: wrong",
    ]
    assert len(images) == 15
    assert html.count("<p>hbn, MAP@R 50.00</p>") == html.count("<p>bn, MAP@R 25.00</p>") == 3
    assert ["class" in image for image in images[:3]] == [True, True, False]
    assert re.findall(r"<h4>(.*?)</h4>", html) == ["Best", "Typical", "Worst"]
    assert "✗ <span" in html
    assert not re.search("Neighbors|<img", more_html)


def test_the_provenance_has_a_filter_for_each_run_in_mlflow(html):
    texts = Page(html).texts
    for method in METHODS:
        place = texts.index("tags.`heated.key` = 'k'", texts.index("Runs in MLflow"))
        assert method in texts[texts.index("Runs in MLflow") : place + 4]


def test_the_page_is_reproducible_shows_the_provenance_and_escapes_texts(digits, results, html):
    for fact in ("3.11.7", "ab" * 32, "0123456789ab, 0123456789ab with changes"):
        assert fact in Page(html).texts
    assert "Maker&#39;s &lt;b&gt;fast&lt;/b&gt; &amp; cheap" in html
    assert "<b>fast</b>" not in html
    assert "Heat &lt;helps&gt;" in html
    assert render_report([dataset_report(results, gallery=digits.gallery)]) == html


def test_the_folder_has_the_files_of_each_data_set_and_of_all(report):
    kinds = ("tables/{}.csv", "tables/{}.tex", "tables/{}.md", "figures/{}-curves.svg")
    kinds += ("results/{}.json", "results/{}.md")
    each = {kind.format(dataset) for dataset in BOTH for kind in kinds}
    files = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert files == {"index.html", "table.md", "claims.json", "curves.csv"} | each
    tables = [(report / f"tables/{name}.md").read_text(encoding="utf-8") for name in BOTH]
    assert (report / "table.md").read_text(encoding="utf-8") == "\n".join(tables)
    with (report / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["dataset"], row["method"], row["epoch"]) for row in csv.DictReader(file)]
    assert rows == [(d, m, str(epoch)) for d in BOTH for m in METHODS for epoch in range(3)]


def test_results_and_claims_have_every_value_for_programs(results, digits, report):
    document = json.loads((report / "results/digits.json").read_text(encoding="utf-8"))
    metrics = {result.method: result.metrics for result in results}
    assert document["studies"]["run"] == json.loads(json.dumps(metrics))
    assert document["claims"] == json.loads(json.dumps(digits.claim_results))
    assert document["made"]["torch"] == "2.0"
    claims = json.loads((report / "claims.json").read_text(encoding="utf-8"))
    assert claims == document["claims"] + [c | {"dataset": "more"} for c in document["claims"]]


def test_results_for_readers_have_departures_rules_and_claims(results, digits, report):
    text = (report / "results/digits.md").read_text(encoding="utf-8")
    heading, listed, table, *_ = text[text.index("### Main table") :].split("\n\n")
    assert heading == "### Main table"
    start = "*Departures from the paper's protocol:* data digits instead of cars196, "
    assert listed.startswith(start)
    assert table.startswith("| method | n | R@1 |")
    assert all(each in listed for each in departures(results[0].record, SECTION))
    assert text.index("A claim is *supported*") < text.index("| claim | comparison |")
    start = "| Heat <helps> (exploratory) |"
    (heat,) = (line for line in text.splitlines() if line.startswith(start))
    assert "recall_at_1: hbn − bn | +25.00 |" in heat
    assert heat.endswith("| 1 |  | · no verdict | · no verdict |")
    absent = "1 other claim was not tested, because methods to compare were not trained."
    assert f"\n\n{absent}\n\n### How it was made\n\n- processor" in text
    one = digits.claim_results[0] | {"verdict": "contradicted", "p": 0.98, "interval": [-0.2, -0.1]}
    one |= {"p_against": 0.02, "p_against_adjusted": 0.03, "verdict_adjusted": "undecided"}
    expected = "| [−20.00, −10.00] | 1 | 0.030 | ✗ contradicted | ? undecided |"
    assert expected in release.claims_markdown([one])


def test_the_commands_name_data_sets_methods_and_seeds(digits):
    # A data set of a study alone is not run with the main methods.
    flat = replace(digits, dataset="flat", studies={"embeddings_2d": METHODS})
    for report, key in ((digits, "run"), (flat, "studies.yaml:studies.embeddings_2d")):
        commands = release.repro_commands(report)
        for command, methods, seeds in zip(commands, ("hbn,bn", "bn"), ("0,1", "0"), strict=True):
            settings = {"studies.yaml:studies.embeddings_2d.datasets": "[]"}
            if key != "run":
                settings |= {"run.methods": "[hbn]", "run.seeds": "[0]"}
            settings |= {f"{key}.datasets": f"[{report.dataset}]"}
            settings |= {f"{key}.methods": f"[{methods}]", f"{key}.seeds": f"[{seeds}]"}
            if key == "run" and methods == "bn":  # else the gallery shows hbn, which is missing
                settings |= {"report.gallery_method": "bn"}
                settings |= {"studies.yaml:studies.gradients.methods": "[]"}
            options = re.findall(r"--set-param '(\S+)=(.*)'", command)
            assert options == [*settings.items()]


@pytest.mark.slow
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_dvc_and_the_stages_take_the_released_commands(tmp_path, path):
    document = json.loads(path.read_bytes())
    expected = {
        method: sorted(map(int, metrics["recall_at_1"]["seeds"]))
        for methods in document["studies"].values()
        for method, metrics in methods.items()
    }
    for command, whole in zip(document["commands"], (True, False), strict=True):
        options = re.findall(r"--set-param '(\S+=.*)'", command)
        for name in FILES:
            shutil.copyfile(ROOT / name, tmp_path / name)
        for name, changes in to_path_overrides(options).items():
            apply_overrides(tmp_path / name, changes)
        params = load_params(tmp_path)
        others = [] if "run" in document["studies"] else ["digits"]
        assert [*others, path.stem] == params.trained_datasets()
        assert all(params.seeds_by_method(name) == {"hbn": [0]} for name in others)
        found = params.seeds_by_method(path.stem)
        if whole:
            assert found == expected
        else:
            ((method, seeds),) = found.items()
            assert seeds == expected[method][:1]


def test_equal_digits_are_promised_on_a_cpu_or_with_deterministic(digits):
    def text(device_type, deterministic):
        changes = {
            "environment": {**digits.results[0].record["environment"], "device_type": device_type},
            "params": {**digits.results[0].params, "deterministic": deterministic},
        }
        results = [replace(each, record={**each.record, **changes}) for each in digits.results]
        return release.results_markdown(replace(digits, results=results))

    assert "On the same kind of CPU" in text("cpu", False)
    assert "On the same kind of GPU" in text("cuda", True)
    assert "made on a GPU without `run.deterministic`" in text("cuda", False)


def test_embeddings_in_two_dimensions_are_released(digits, tmp_path):
    drawn = ReportFigure("embeddings_2d", "Embeddings in two dimensions", "Directions.", "<svg/>")
    release.write_report(tmp_path / "report", [replace(digits, figures=[drawn])])
    release.release_results(tmp_path / "report", tmp_path / "results", tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"!\[Embeddings in two dimensions]\((.+)\)\n\nDirections\.", text)
    assert (tmp_path / name).read_text(encoding="utf-8").strip() == "<svg/>"


def test_figures_that_a_data_set_no_longer_has_are_removed(digits, tmp_path):
    paths = (tmp_path / "report", tmp_path / "results", tmp_path / "RESULTS.md")
    release.write_report(paths[0], [digits])
    release.release_results(*paths)
    assert "[Training curves](results/digits-curves.svg)" in paths[2].read_text(encoding="utf-8")
    (paths[0] / "figures/digits-curves.svg").unlink()
    (paths[1] / "more-curves.svg").touch()  # of an earlier release
    release.release_results(*paths)
    assert [path.name for path in paths[1].glob("*-curves.svg")] == ["more-curves.svg"]


def test_a_release_keeps_earlier_releases(report, tmp_path):
    results, joined = tmp_path / "results", tmp_path / "RESULTS.md"
    with pytest.raises(FileNotFoundError, match="report"):
        release.release_results(tmp_path / "report", results, joined)
    texts = []
    for name in BOTH:  # each report has one data set
        for path in [*report.glob(f"results/{name}.*"), *report.glob(f"figures/{name}-*")]:
            copy = tmp_path / name / path.relative_to(report)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        release.release_results(tmp_path / name, results, joined)
        texts.append(joined.read_text(encoding="utf-8"))
    assert re.findall("^## .*", texts[1], re.MULTILINE) == ["## digits", "## more"]
    assert "## more" not in texts[0]
    assert texts[1].startswith(texts[0].strip())
    names = {f"{name}{end}" for name in BOTH for end in (".json", ".md", "-curves.svg")}
    assert {path.name for path in results.iterdir()} == {*names, "forest.svg"}
    release.join_results(ROOT / "results", joined)
    assert joined.read_text(encoding="utf-8") == (ROOT / "RESULTS.md").read_text(encoding="utf-8")
