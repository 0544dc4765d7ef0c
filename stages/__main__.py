"""Bring every stage up to date, several runs at a time: `python -m stages JOBS`."""

import sys

from heated.pipeline.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
