"""The figures of a data set: its curves over epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heated.reporting.figures import curves
from heated.reporting.results import Result


@dataclass(frozen=True)
class Figure:
    """An SVG with what it shows, in words."""

    name: str
    title: str
    description: str
    svg: str


def figures(results: Sequence[Result], studies: Mapping[str, Sequence[str]]) -> list[Figure]:
    """The curves of the methods of each study."""
    found = {result.method: result for result in results}
    return [
        Figure(
            name="curves" if study == "run" else f"curves-{study}",
            title="Over the epochs",
            description="Recall@1, alpha and loss by epoch for each method, mean over seeds; a dot "
            "is the moment of heating. The numbers are in curves.csv.",
            svg=curves([found[method] for method in methods]),
        )
        for study, methods in studies.items()
    ]
