"""MLflow's pages: `python -m heated.tracking`."""

import os
import subprocess
import sys

from heated.tracking import address, shown
from heated.tracking.store import opened


def main() -> None:
    """MLflow's pages on this machine's port 5000, started with what one reader needs."""
    if address().startswith("http"):
        print(f"MLFLOW_TRACKING_URI names a server, which has the pages: {shown(address())}")
        return
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", opened()]
    sys.exit(subprocess.call([*command, "--workers", "1", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
