"""MLflow's pages: `python -m heated.tracking [--port N]`."""

import os
import subprocess
import sys

from heated.common.cli import exit_on_error
from heated.tracking import address, shown
from heated.tracking.store import alone, opened

HOW = "and choose `Model training` at the top left, which the browser remembers"


def main() -> None:
    """MLflow's pages on this machine's port 5000, started with what one reader needs."""
    options = sys.argv[1:]
    if address().startswith("http"):
        print(f"MLFLOW_TRACKING_URI names a server: open {shown(address())} {HOW}")
        return
    with exit_on_error(), alone():
        opened()
    port = options[options.index("--port") + 1] if "--port" in options[:-1] else "5000"
    print(f"Open http://127.0.0.1:{port} {HOW}", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address()]
    sys.exit(subprocess.call([*command, "--workers", "1", *options]))


if __name__ == "__main__":
    main()
