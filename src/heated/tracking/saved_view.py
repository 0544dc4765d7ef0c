"""A saved view of an experiment's runs for MLflow's pages, and the addresses that open them.

MLflow has no function for it: its pages keep a view as JSON in a tag of the experiment.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from heated.tracking.metric_names import final_metric

VIEW, VIEW_NAME = "heated", "Methods, best first"  # the key in addresses, and the name in the menu
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
VIEW_DIGEST_TAG = "heated.view"  # the digest of the view that this package wrote
KIND = "machine_learning"  # otherwise the pages open for language models
RANKED = final_metric("recall_at_1")
COLUMNS = {  # their widths in pixels, so that headings are not cut
    f"metrics.`{RANKED}`": 130,
    "params.`alpha.start`": 95,
    "params.`alpha.end`": 90,
    "params.`alpha.shape`": 100,
    f"metrics.`{final_metric('map_at_r')}`": 120,
    f"metrics.`{final_metric('nmi_geometric')}`": 160,
    "metrics.`interval/recall_at_1_low`": 190,
    "metrics.`interval/recall_at_1_high`": 190,
    "metrics.`interval/n`": 90,
    "params.`alpha.at`": 90,
}
CHARTS = {  # in the order of the page; MLflow sorts by name
    "schedule": ("alpha", "temperature", "lr"),
    "unseen": ("recall_at_1", "intra_class_variance", "inter_class_distance"),
    "train": ("loss", "accuracy"),
    "final": ("recall_at_1", "map_at_r", "nmi_geometric"),
}
SHARED = {"deleted": False, "isGenerated": True}  # of each chart and section


def runs_page(experiment: Any) -> str:
    """Return the path of the page of an experiment's runs, with the saved view if it has one."""
    view = f"&viewStateShareKey={VIEW}" if VIEW_TAG in experiment.tags else ""
    return f"/#/experiments/{experiment.experiment_id}/runs?workflowType={KIND}{view}"


def view_state() -> dict[str, Any]:
    """Return the view: methods without their seeds, best first, and charts in a useful order."""
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": True, **SHARED}
        for name in CHARTS
    ]
    charts = [
        {"uuid": f"{group}-{name}", "metricSectionId": group, "metricKey": f"{group}/{name}"}
        | {"type": "BAR" if group == "final" else "LINE", "runsCountToCompare": 20, **SHARED}
        | {"displayName": name, **({} if group == "final" else line_options())}
        for group, names in CHARTS.items()
        for name in names
    ]
    return {
        "searchFilter": "tags.`heated.kind` = 'run'",
        "orderByKey": f"metrics.`{RANKED}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*COLUMNS],
        "columnOrder": [*COLUMNS],
        "columnWidths": COLUMNS,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


def line_options() -> dict[str, Any]:
    """Return the options of a chart of curves, with MLflow's defaults: by epoch, not smoothed."""
    return {
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def view_text(created_ms: int) -> str:
    """Return the view as the value of VIEW_TAG, created `created_ms` after 1970."""
    state = json.dumps(view_state(), separators=(",", ":")).encode()
    packed = f"deflate;{base64.b64encode(zlib.compress(state)).decode()}"
    times = {"createdAt": created_ms, "updatedAt": created_ms}
    return json.dumps({"name": VIEW_NAME, **times, "state": packed}, separators=(",", ":"))


def is_view_supported() -> bool:
    """Return whether the installed MLflow's pages read such tags; say so if they do not."""
    import mlflow

    scripts = Path(mlflow.__file__).parent.glob("server/js/build/static/js/main.*.js")
    known = ('"mlflow.sharedViewState."', '"deflate;"', '"selectedColumns"', '"compareRunSections"')
    texts = [path.read_text(encoding="utf-8") for path in scripts]
    if any(all(each in text for each in known) for text in texts):
        return True
    print(f"MLflow {mlflow.__version__} keeps saved views in another way: there is none.")
    return False
