"""Validate all of params.yaml before anything is computed, without torch: a mistake shows at once.
Where a method has a loss of another library, that is asked whether it takes what is said there."""

from pathlib import Path

from heated import config
from heated.common import io
from heated.common.cli import run
from heated.config.method import LibraryLoss


def main(params: Path, marker: Path) -> None:
    """Write the marker, whose content never changes, when the parameters are valid."""
    known = config.load(params)
    trained = {name: known.methods[name] for _, name in known.runs()}
    for name, method in trained.items():
        if isinstance(method, LibraryLoss):
            from heated.losses import pml  # and torch

            pml.check(f"methods.{name}", **method.model_dump(include={"loss", "miner"}))
    io.write_text(marker, "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
