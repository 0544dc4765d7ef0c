"""Validate all of params.yaml before anything is computed: no torch, so a mistake shows at once."""

from pathlib import Path

from heated import config, files
from heated.command import run


def main(params: Path, marker: Path) -> None:
    """Write the marker, whose content never changes, when the parameters are valid."""
    config.load(params)
    files.write_text(marker, "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
