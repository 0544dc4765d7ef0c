"""Serve MLflow's pages: `python -m heated.tracking [--port N]`."""

import os
import subprocess
import sys

from heated.common.errors import exit_on_error, redact_url
from heated.tracking import tracking_uri
from heated.tracking.client import open_store, store_lock

HINT = "and choose `Model training` at the top left. The browser remembers this choice."


def main() -> None:
    """Serve the pages on this machine's port 5000, with one worker and without job execution."""
    options, uri = sys.argv[1:], tracking_uri()
    if uri.startswith("http"):
        print(f"MLFLOW_TRACKING_URI is a server. Open {redact_url(uri)} {HINT}")
        return
    with exit_on_error(), store_lock():
        open_store()
    port = options[options.index("--port") + 1] if "--port" in options[:-1] else "5000"
    print(f"Open http://127.0.0.1:{port} {HINT}", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    sys.exit(subprocess.call([*command, "--workers", "1", *options]))


if __name__ == "__main__":
    main()
