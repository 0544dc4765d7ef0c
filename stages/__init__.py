"""The pipeline's stages, with the package that lies beside them: that of an experiment's copy."""

import sys
from pathlib import Path

# An installed package is that of the project, which may have changed since DVC made the copy.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from stages.fork_server import delegate  # noqa: E402

delegate()
