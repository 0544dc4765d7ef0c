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
    compared,
    decisive,
    points,
    probability,
)

HEAD = """# Results

Written by the report stage (`report/results/`); `make results` copies it here, `make judge` renews
the verdicts. **Most of these are short trainings: 6 to 20 epochs, where the paper heats a network
after 80 to 100.** In them, lowering alpha improves MAP@R (with batch norm, after correction, on
omniglot and omniglot-small) and changes Recall@1 little. Lowering the learning rate at the same
time, as the paper does, lowers MAP@R on omniglot. The seeds of these trainings suggested those
claims, so they do not confirm them; the trainings that will have only begun
([plan](docs/preregistration.md)). Each table first lists where it departs from the paper's
protocol; where it does, its numbers are not comparable to the paper's. [results/](results) has the
same numbers unrounded, for every seed.

The claim that heating leaves the training accuracy as it was (`heated-as-accurate`) was judged when
these sets were trained, and is not judged anew: their training accuracy by seed was not released.
hbn − bn-drop, in points: omniglot −1.66 (−1.77 to −1.56, n = 8), omniglot-small −1.19 (−1.45 to
−0.93, n = 8), omniglot-20 −1.51 (−1.67 to −1.33, n = 3), cub100-112 −0.38 (−0.64 to −0.12, n = 3),
cars196-half-112 −4.06 (−5.66 to −2.45, n = 3): heated networks fit the training classes less well.
"""
RULES = """Differences are paired by seed, in points of percent, with a 95 % interval (Student's t).
A claim is *supported* where the interval lies above what is claimed, *contradicted* where it lies
below (of several comparisons, at a level divided by their number), of *no relevant difference*
where two one-sided tests at 5 % show the effect to be smaller than the smallest one of interest
(0.5 points unless a claim says other), and else *undecided*.
Fewer than five seeds give an estimate and no verdict. A claim of several comparisons shows the one
farthest from support. p is one-sided, of what the verdict says, after Holm's correction for the
claims of the same status; the last column is the verdict after that correction. Confirmatory claims
were stated before their seeds were trained ([plan](docs/preregistration.md))."""
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
        "accuracy": {  # of training, in the last epoch, by method and seed
            method: accuracy
            for method, result in found.items()
            if (accuracy := result.values().get("accuracy"))
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
    """A row per claim, of its comparison farthest from support; then those that were not run."""
    rows = []
    for one in judgements:
        if one["verdict"] == "not run":
            continue
        ends = "" if one["interval"] is None else " to ".join(map(points, one["interval"]))
        p = "" if one["p"] is None else probability(decisive(one)[1])
        effect = "" if one["effect"] is None else points(one["effect"])
        margin = f" > {points(-one['margin'])}" if one["margin"] else ""
        sides = f"{one['metric']}: {compared(one)}{margin}"
        says = f"{one['says']} ({one['status']})"
        first, last = (symbol(one[key]) for key in ("verdict", "verdict_adjusted"))
        rows.append([says, sides, effect, ends, str(one["n"]), p, first, last])
    heading = ["claim", "compared", "effect", "95 % interval", "n", "p, Holm", "verdict", "Holm"]
    absent = [one["claim"] for one in judgements if one["verdict"] == "not run"]
    told = f"\n\nNot run: {', '.join(absent)}." if absent else ""
    return f"{RULES}\n\n{in_markdown(heading, rows)}{told}"


def symbol(verdict: str) -> str:
    """A verdict after its symbol."""
    return f"{SYMBOLS[verdict]} {verdict}"


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
    join(results, joined)


def join(results: Path, joined: Path) -> None:
    """Write the Markdown of all data sets into one file."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(results.glob("*.md"))]
    write_text(joined, "\n".join([HEAD, *texts]))


def main() -> None:
    """Those of the project."""
    release(Path("report"), Path("results"), Path("RESULTS.md"))


if __name__ == "__main__":
    run(main)
