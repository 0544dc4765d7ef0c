"""Validate all parameters, and write every stage's settings to a JSON file of its own."""

from argparse import ArgumentParser

from heated import config
from heated.common.errors import run
from heated.common.io import RESOLVED, atomic_write, write_record
from heated.config.methods import PMLMethod
from heated.config.resolved import resolved_files


def main(*, check: bool = False, show: str | None = None) -> None:
    """Write the settings; only validate with `check`, print an entry with `show`."""
    params = config.load_params()
    trained = {name: params.methods[name] for _, name in params.runs()}
    for name, method in trained.items():
        if isinstance(method, PMLMethod):
            from heated.losses import pml  # imports torch

            pml.check_options(f"methods.{name}", **method.model_dump(include={"loss", "miner"}))
    if show is not None:
        print(config.format_entry(config.read_sources(), show))
    elif not check:
        with atomic_write(RESOLVED) as folder:
            for name, value in resolved_files(params).items():
                write_record(folder / name, value)


if __name__ == "__main__":
    parser = ArgumentParser("python -m stages.resolve", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only validate, write nothing")
    parser.add_argument("--show", metavar="NAME", help="print an entry, such as methods.hbn")
    run(main, parser)
