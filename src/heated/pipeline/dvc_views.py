"""Show DVC's graph or experiments narrowly: `python -m heated.pipeline.dvc_views dag`."""

import csv
import io
import re
from argparse import ArgumentParser

import networkx as nx
from dvc.dagascii import draw
from tabulate import tabulate

from heated.common.errors import run
from heated.pipeline.runner import dvc_output, stage_parts

# What all experiments have, and a metric that `dvc metrics diff` shows.
DROPPED = r"^(Created|State|Executor|data|report|runs|src|stages|.*\.yaml$|(.*:)?nmi_geometric)"
EXPERIMENTS = ("exp", "show", "--csv", "--only-changed", "--precision", "4", "--drop", DROPPED)


def narrow_graph(mermaid: str) -> str:
    r"""Draw DVC's graph, studies with the main stages, without edges that a longer path implies.

    >>> nodes = 'n1["split"]\nn2["train"]\nn3["train-alphas"]\n'
    >>> print(narrow_graph(nodes + "n1-->n2\nn1-->n3").replace(" ", ""))
    +-------+
    |split|
    +-------+
    *
    *
    *
    +-------+
    |train|
    +-------+
    """
    found = re.findall(r'(\w+)\["(.*)"\]', mermaid)
    names = {node: stage_parts(name)[0] for node, name in found}
    edges = [(names[b], names[a]) for a, b in re.findall(r"(\w+)-->(\w+)", mermaid)]
    graph = nx.transitive_reduction(nx.DiGraph(edges))
    text: str = draw(list(graph.nodes), list(graph.edges))  # the last stage of an edge is on top
    return "\n".join(line.rstrip() for line in text.splitlines())


def narrow_table(text: str) -> str:
    r"""Format DVC's CSV of experiments with each column's path in lines of its own.

    >>> print(narrow_table("Experiment,rev,typ,parent,methods.hbn.alpha.end\nwarm,1a2,,,4\n"))
    name    methods
            hbn
            alpha
            end
    ------  ---------
    warm    4
    >>> print(narrow_table("rev,typ,methods.hbn.alpha.end\n,baseline,4\n").splitlines()[-1])
    There are no experiments yet: docs/experiments.md.
    """
    rows = [*csv.DictReader(io.StringIO(text))]  # DVC leaves out columns that are empty
    hidden = ("Experiment", "rev", "typ", "parent")
    columns = [name for name in rows[0] if name not in hidden]
    names = [re.sub(r"^metrics/(.*)\.json:", r"\1/", name) for name in columns]
    titles = ["name", *(re.sub(r"[./]", "\n", name) for name in names)]
    first = [row.get("Experiment") or row.get("rev", "") for row in rows]
    cells = [[name, *map(row.get, columns)] for name, row in zip(first, rows, strict=True)]
    table = tabulate(cells, titles, disable_numparse=True)
    if any(row.get("Experiment") for row in rows):
        return table
    return f"{table}\n\nThere are no experiments yet: docs/experiments.md."


def main(*, view: str) -> None:
    """Print a view."""
    if view == "dag":
        print(narrow_graph(dvc_output("dag", "--collapse-foreach-matrix", "--mermaid")))
    else:
        print(narrow_table(dvc_output(*EXPERIMENTS)))


if __name__ == "__main__":
    parser = ArgumentParser("python -m heated.pipeline.dvc_views", description=__doc__)
    parser.add_argument("view", choices=["dag", "experiments"])
    run(main, parser)
