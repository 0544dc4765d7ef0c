"""A data set's results as they are released: Markdown to read, JSON to go on with.

`make results` puts what the last report has into `results/`, and writes RESULTS.md anew from all
that lies there.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heated.common.cli import run
from heated.common.io import required, write_json, write_text
from heated.reporting import costs
from heated.reporting.chapters import Chapter
from heated.reporting.paper import departures
from heated.reporting.tables import Table, in_markdown
from heated.reporting.verdicts import (
    SYMBOLS,
    Judgement,
    decisive,
    points,
    probability,
    survives,
)

HEAD = """# Results

Written by the report stage (`report/results/`); `make results` copies it here. **These are short
trainings: 6 to 20 epochs, where the paper heats a network after 80 to 100.** What heating does to a
network that is trained to the end is open: a first training of omniglot-small for 100 epochs, on
other seeds, had the opposite sign. Each table first lists where it departs from the paper's
protocol; where it does, its numbers are not comparable to the paper's. [results/](results) has the
same numbers unrounded, for every seed.
"""
RULES = """A claim holds where the 95 % interval (paired by seed, Student's t, percentage points)
lies above what is claimed, and fails where it lies below. One of several comparisons holds where
all of them do, and fails where one lies below at 95 % shared among them (Bonferroni); shown is the
one farthest from holding. p is one-sided, of what the verdict says, or of the claim where it is
undecided, after Holm's correction for the claims tested here; where it is 0.025 or more, the
verdict does not survive that correction."""
SAME = """The first command makes all of it, the second one method with one seed. On a processor of
the same kind with the versions above that seed's number comes out to the digit
(`results/{dataset}.json` has it under `seeds`). Elsewhere numbers are rounded differently from the
first step on: it moves as another seed's would, and is to be expected within two deviations of the
mean."""


def document(chapter: Chapter) -> dict[str, Any]:
    """All that is told of a data set, for programs: shares in [0, 1]."""
    found = {result.method: result for result in chapter.results}
    return {
        "dataset": chapter.dataset,
        "departures": differs(chapter),
        "split": chapter.results[0].record["split"],
        "made": dict(chapter.makings.facts),
        "parameters": chapter.makings.shared,
        "methods": chapter.makings.own,
        "commands": commands(chapter),
        "studies": {
            study: {method: found[method].metrics for method in methods}
            for study, methods in chapter.studies.items()
        },
        "tuned": {method: result.tuned for method, result in found.items() if result.tuned},
        "claims": chapter.judgements,
    }


def markdown(chapter: Chapter) -> str:
    """The same for readers, in percent."""
    whole, single = commands(chapter)
    parts = [
        f"## {chapter.dataset}",
        chapter.legend,
        *(table(chapter, each) for each in chapter.tables),
        costs.markdown(chapter.costs).strip(),
        f"### Verdicts\n\n{verdicts(chapter.judgements)}",
        "### How it was made",
        "\n".join(f"- {name}: {value}" for name, value in chapter.makings.facts),
        f"```sh\n{whole}\n{single}\n```",
        SAME.format(dataset=chapter.dataset),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(chapter: Chapter, each: Table) -> str:
    """A study's table, under where it departs from the paper."""
    told = "; ".join(differs(chapter, study=each.study)) or "nothing"
    departs = f"*Departs from the paper's protocol:* {told}."
    return f"### {each.title}\n\n{departs}\n\n{each.markdown()}"


def differs(chapter: Chapter, study: str | None = None) -> list[str]:
    """Where any of the runs, or a study's, departs from the paper's protocol."""
    methods = [m for name, each in chapter.studies.items() if study in (None, name) for m in each]
    records = [each.record for each in chapter.results if each.method in methods]
    told = [what for record in records for what in departures(record, chapter.section)]
    return [*dict.fromkeys(told)]


def verdicts(judgements: Sequence[Judgement]) -> str:
    """A row a claim, of its comparison farthest from holding."""
    rows = []
    for one in judgements:
        verdict = f"{SYMBOLS[one['verdict']]} {one['verdict']}"
        if one["verdict"] == "not run" or one["effect"] is None:
            rows.append([one["says"], "", "", "", str(one["n"] or ""), "", verdict])
            continue
        ends = "" if one["interval"] is None else " to ".join(map(points, one["interval"]))
        p = "" if one["p"] is None else probability(decisive(one)[1])
        verdict += "" if survives(one) else ", not after Holm"
        effect = points(one["effect"])
        rows.append([one["says"], compared(one), effect, ends, str(one["n"]), p, verdict])
    heading = ["claim", "compared", "effect", "95 % interval", "n", "p, Holm", "verdict"]
    return f"{RULES}\n\n{in_markdown(heading, rows)}"


def compared(part: Judgement) -> str:
    """What is claimed to be above nothing, or above less than nothing.

    >>> compared({"metric": "f1", "a": "hbn + bn", "b": "bn-heat + bn-drop", "margin": 0.01})
    'f1: (hbn + bn) − (bn-heat + bn-drop) > −1.00'
    """
    a, b = (f"({part[side]})" if " + " in part[side] else part[side] for side in ("a", "b"))
    above = f" > {points(-part['margin'])}" if part["margin"] else ""
    return f"{part['metric']}: {a} − {b}{above}"


def commands(chapter: Chapter) -> list[str]:
    """What makes all of it, and what makes one method with one seed."""
    by_method = {result.method: sorted(result.history) for result in chapter.results}
    whole: dict[str, list[Any]] = {"studies.planes.datasets": []}
    single: dict[str, list[Any]] = {}
    for name, methods in chapter.studies.items():
        part = name if name == "run" else f"studies.{name}"
        seeds = max((by_method[method] for method in methods), key=len)
        single = single or {
            **{"studies.planes.datasets": [], f"{part}.datasets": [chapter.dataset]},
            **{f"{part}.methods": methods[-1:], f"{part}.seeds": seeds[:1]},
        }
        whole[f"{part}.datasets"] = [chapter.dataset]
        whole |= {f"{part}.methods": list(methods), f"{part}.seeds": seeds}
    return [experiment(whole), experiment(single)]


def experiment(settings: dict[str, list[Any]]) -> str:
    """The command that runs the pipeline with these settings.

    >>> print(experiment({"run.datasets": ["digits"], "run.seeds": [0, 1]}))
    dvc exp run \\
      --set-param 'run.datasets=[digits]' \\
      --set-param 'run.seeds=[0,1]'
    """
    lists = {key: ",".join(map(str, values)) for key, values in settings.items()}
    lines = [f"--set-param '{key}=[{listed}]'" for key, listed in lists.items()]
    return " \\\n  ".join(["dvc exp run", *lines])


def write(folder: Path, chapters: Sequence[Chapter]) -> None:
    """Two files for each data set."""
    for each in chapters:
        write_json(folder / f"{each.dataset}.json", document(each))
        write_text(folder / f"{each.dataset}.md", markdown(each))


def release(report: Path, results: Path, joined: Path) -> None:
    """`report`: the stage's folder; `results`: where the files of all releases lie; `joined`: the
    Markdown of all of them."""
    results.mkdir(exist_ok=True)
    for path in sorted(required(report / "results", "report").iterdir()):
        shutil.copyfile(path, results / path.name)
    for path in sorted((report / "figures").glob("*-curves.svg")):
        shutil.copyfile(path, results / path.name)
    texts = [path.read_text(encoding="utf-8") for path in sorted(results.glob("*.md"))]
    write_text(joined, "\n".join([HEAD, *texts]))


def main() -> None:
    """Those of the project."""
    release(Path("report"), Path("results"), Path("RESULTS.md"))


if __name__ == "__main__":
    run(main)
