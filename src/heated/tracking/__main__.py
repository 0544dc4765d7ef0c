"""MLflow's pages: `python -m heated.tracking`."""

import os
import subprocess
import sys

from heated.tracking import address


def main() -> None:
    """MLflow's pages on this machine's port 5000, started with what one reader needs."""
    os.environ |= {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address()]
    sys.exit(subprocess.call([*command, "--workers", "1", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
