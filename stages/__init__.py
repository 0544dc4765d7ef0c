"""The pipeline's stages, which use the package in their own copy of the project."""

import sys
from pathlib import Path

# An installed package is that of the project, which may have changed since DVC made the copy.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from heated.pipeline.fork_server import delegate  # noqa: E402

delegate()
