"""Two runs on one data set as the stages write them, and a parser of HTML pages."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from heated.common.history import write_history
from heated.common.io import write_json, write_record
from heated.evaluation.metrics import summarize_seeds
from heated.reporting.query_gallery import GalleryQuery, GalleryRow, Thumbnail
from heated.reporting.release import DatasetReport, make_dataset_report

METHODS = ["hbn", "bn"]  # not in alphabetical order
ALPHAS = {"hbn": [16.0, 16.0, 4.0], "bn": [16.0, 16.0, 16.0]}
METRICS = ("recall_at_1", "map_at_r", "nmi_geometric", "intra_class_variance")
VALUES = {
    "hbn": [(0.75, 0.25, 0.5, 0.125)],
    "bn": [(0.5, 0.1, 0.4, 0.3), (0.75, 0.2, 0.45, 0.3)],
}
SCORES = {  # by method and seed
    method: {seed: dict(zip(METRICS, row, strict=True)) for seed, row in enumerate(rows)}
    for method, rows in VALUES.items()
}
KMEANS_AND_UNANSWERABLE = {
    "nmi_geometric_kmeans_std": 0.0123,
    "kmeans_objective": 0.3,
    "unanswerable_queries": 0.02,
}
VERSIONS = {"torch": "2.0", "torchvision": "0.2", "numpy": "2.1", "scikit-learn": "1.9"}
ENVIRONMENT = {"device": "Maker's <b>fast</b> & cheap", "cores": 2, "system": "Linux"}
ENVIRONMENT |= {"python": "3.11.7", **VERSIONS}
PART = {"images": 20, "classes": 4}
SPLIT: dict[str, Any] = {"tested": "test classes", "train": PART, "query": PART, "gallery": PART}
SECTION = {
    "source": {"name": "digits"},
    "packing": {"size": 8},
    "evaluation": {"kmeans": {"name": "scikit-learn", "restarts": 10}},
}
GRIDS = {
    "run": {"datasets": ["digits", "more"], "methods": METHODS},
    "alphas": {"datasets": [], "methods": ["bn-4", "bn-8"]},
    "embeddings_2d": {"datasets": ["flat"], "methods": ["ln"]},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
MATCH = Thumbnail(PIXEL, "cat & dog", matches=True, pixelated=True)
MISS = Thumbnail(PIXEL, "bee", matches=False, pixelated=False)
ROWS = [GalleryRow("hbn", 0.5, [MATCH, MISS]), GalleryRow("bn", 0.25, [MISS, MISS])]
QUERIES = [GalleryQuery(kind, MATCH, ROWS) for kind in ("best", "typical", "worst")]


def comparison(higher: str, lower: str, margin: float = 0.0) -> dict[str, Any]:
    sides = {"higher": higher.split(), "lower": lower.split()}
    return {"metric": "recall_at_1", **sides, "margin": margin}


def claim(statement: str, *comparisons: dict[str, Any], origin: str = "paper") -> dict[str, Any]:
    status = {"status": "exploratory", "stated": None, "first_seed": 0, "smallest_effect": 0.005}
    return status | {"statement": statement, "origin": origin, "all": list(comparisons)}


CLAIMS = {
    "heat": claim("Heat <helps>", comparison("hbn", "bn")),
    "best": claim("16 is best", comparison("bn", "bn-4"), comparison("bn", "bn-8"), origin="open"),
}


def history(method: str, seed: int) -> list[dict[str, float]]:
    """Three epochs; the last has Recall@1 on the unseen classes."""
    rows: list[dict[str, float]] = [
        {"epoch": epoch, "alpha": alpha, "loss": 1.0 + seed + epoch, "accuracy": 0.5 + epoch / 10}
        for epoch, alpha in enumerate(ALPHAS[method])
    ]
    return [*rows[:-1], rows[-1] | {"recall_at_1": 0.5 + seed / 4}]


def write_runs(runs: Path) -> None:
    """Write the runs' files."""
    for method, scores in SCORES.items():
        folder = runs / "digits" / method
        write_json(folder / "metrics.json", summarize_seeds(scores))
        write_history(folder / "history.csv", {seed: history(method, seed) for seed in scores})
        record = {
            "dataset": "digits",
            "method": method,
            "tags": {"study": "run"},
            "key": "k",
            "params": {"lr": 0.05, "alpha": {"name": "constant", "value": ALPHAS[method][-1]}},
            "data_sha256": "ab" * 32,
            "split": SPLIT,
            "source": {"commit": "0123456789abcdef", "modified": method == "bn"},
            "environment": ENVIRONMENT,
            "seeds": {str(seed): {"seconds": 20.2, "epochs_trained": 3} for seed in scores},
        }
        write_record(folder / "provenance.json", record)


def dataset_report(results: list[Any], **changes: Any) -> DatasetReport:
    """Report on the runs with these claims and grids, except for the changes."""
    return make_dataset_report(results, SECTION, **{"grids": GRIDS, "claims": CLAIMS, **changes})


class Page(HTMLParser):
    """A page's tags, rows of tables, and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data
        self.texts.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")
