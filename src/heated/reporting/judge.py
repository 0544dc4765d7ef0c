"""Test the current claims on the released numbers, without training anything.

`make judge` resolves claims.yaml and runs `python -m heated.reporting.judge`, which rewrites
RESULTS.md, the replication results in results/*.md, and `claims` in results/*.json.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heated.analysis.claims import assess_claims
from heated.common.errors import run
from heated.common.io import load_settings, read_json, wrap_damage, write_json, write_text
from heated.reporting.main_effects import values_by_seed
from heated.reporting.release import claims_markdown, join_results


def judge_results(results: Path, claims: Mapping[str, Any]) -> None:
    """Test the claims on each data set in a folder of results, and rewrite its files."""
    for path in sorted(results.glob("*.json")):
        document = read_json(path)
        with wrap_damage(path, "Restore it by `git checkout`, or run `make results`."):
            check_seeds(document)
        found = assess_claims(claims, values_by_seed(document), document["dataset"])
        write_json(path, document | {"claims": found})
        page = path.with_suffix(".md")
        # Earlier releases have the title "Verdicts".
        section = r"(?s)### (?:Verdicts|Replication results)\n.*?(?=\n\n### )"
        before, after = re.split(section, page.read_text(encoding="utf-8"))
        write_text(page, before + claims_markdown(found) + after)


def check_seeds(document: Mapping[str, Any]) -> None:
    """Raise ValueError if a metric lacks a seed that another one of its study has."""
    for study, runs in document["studies"].items():
        metrics = {(m, name): run[name]["seeds"] for m, run in runs.items() for name in run}
        every = set().union(*metrics.values())
        for (method, name), seeds in metrics.items():
            if missing := every - set(seeds):
                lacks = f"{name} lacks the seed {min(missing, key=int)}"
                raise ValueError(f"study {study}, method {method}: {lacks} of the other runs")


def main() -> None:
    """Test the claims on the project's results."""
    judge_results(Path("results"), load_settings("report.json")["claims"])
    join_results(Path("results"), Path("RESULTS.md"))


if __name__ == "__main__":
    run(main)
