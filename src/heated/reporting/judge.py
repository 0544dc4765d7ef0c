"""Judge the released numbers by the claims as they are now, without training anything.

`make judge` resolves claims.yaml, and then rewrites RESULTS.md, the verdicts in results/*.md and
`claims` in results/*.json by `python -m heated.reporting.judge`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heated.analysis.claims import MetricValues, assess_claims
from heated.common.cli import run
from heated.common.io import read_json, write_json, write_text
from heated.common.paths import resolved
from heated.reporting.release import join, verdicts

HEADING, AFTER = "### Verdicts\n\n", "\n\n### How it was made"


def values(document: Mapping[str, Any]) -> MetricValues:
    """Every metric by method and seed, from a results file. `accuracy` is that of the training;
    files written before it was released lack it."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for methods in document["studies"].values():
        for method, metrics in methods.items():
            found[method] = {
                name: {int(seed): value for seed, value in summary["seeds"].items()}
                for name, summary in metrics.items()
            }
    for method, seeds in document.get("accuracy", {}).items():
        found[method]["accuracy"] = {int(seed): value for seed, value in seeds.items()}
    return found


def judge(results: Path, claims: Mapping[str, Any]) -> None:
    """Judge each data set in a folder of results anew."""
    for path in sorted(results.glob("*.json")):
        document = read_json(path)
        judgements = assess_claims(claims, values(document), document["dataset"])
        write_json(path, document | {"claims": judgements})
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        head, _, rest = text.partition(HEADING)
        _, _, tail = rest.partition(AFTER)
        section = HEADING + verdicts(judgements) + AFTER
        write_text(path.with_suffix(".md"), head + section + tail)


def main() -> None:
    """Judge the project's results."""
    judge(Path("results"), resolved("report.json")["claims"])
    join(Path("results"), Path("RESULTS.md"))


if __name__ == "__main__":
    run(main)
