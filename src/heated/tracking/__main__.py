"""Serve MLflow's pages: `python -m heated.tracking [--port N]`."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

import requests

from heated.common.errors import InputError, exit_on_error
from heated.common.io import RESOLVED, project_root, read_json
from heated.tracking import local_uri, tracking_uri
from heated.tracking.client import DATASET_TAG
from heated.tracking.saved_view import runs_page
from heated.tracking.store import open_store, store_address, store_lock, wrap_mlflow_errors

PORT, TRIES = 5000, 100


def main() -> None:
    """Serve the pages on this machine, with one worker and without job execution."""
    parser = ArgumentParser("python -m heated.tracking", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    help_text = f"default: the first free one from {PORT}"
    parser.add_argument("--port", "-p", type=int, help=help_text)
    arguments, options = parser.parse_known_args()
    with exit_on_error():
        with store_lock(), wrap_mlflow_errors():
            pages = runs_pages(open_store())
        if tracking_uri().startswith("http"):
            print("MLFLOW_TRACKING_URI is a server.")
            open_pages(store_address(), pages)
            return
        port = free_port(arguments.host, arguments.port)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(serve(arguments.host, port, options, pages))


def runs_pages(client: Any) -> dict[str, str]:
    """Return each experiment's page by its name, those of the last build first, in its order."""
    path = project_root() / RESOLVED / "tracking.json"
    built = [*read_json(path)["datasets"]] if path.exists() else []
    query, order = f"tags.`{DATASET_TAG}` LIKE '%'", ["creation_time"]
    found = [*client.search_experiments(filter_string=query, order_by=order)]
    found.sort(key=lambda each: [*built, name := each.tags[DATASET_TAG]].index(name))
    return {each.name: runs_page(each) for each in found}


def open_pages(address: str, pages: Mapping[str, str]) -> None:
    """Print the addresses of the pages, and open the first in the browser of a desktop."""
    if not pages:
        print(f"Open {address}. It has no runs yet: `make repro` makes them.", flush=True)
        return
    for name, path in pages.items():
        print(f"Open {address}{path}  ({name})", flush=True)
    has_desktop = sys.platform in {"darwin", "win32"} or {"DISPLAY", "WAYLAND_DISPLAY"} & {
        *os.environ
    }
    if sys.stdout.isatty() and has_desktop:
        webbrowser.open(address + next(iter(pages.values())))


def free_port(host: str, port: int | None) -> int:
    """Return `port`, or by default the first free one; raise InputError if it is in use."""
    ports = range(PORT, PORT + TRIES) if port is None else [port]
    for each in ports:
        with socket.socket() as test:
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                test.bind((host, each))
            except (OSError, OverflowError) as error:
                reason = error
                continue
        if each != ports[0]:
            print(f"Port {ports[0]} is in use by another program: taking {each}.", flush=True)
        return each
    command = f"python -m heated.tracking --port {PORT + 1}"
    raise InputError(f"port {ports[0]} of {host}: {reason}. Choose a free one: `{command}`.")


def serve(host: str, port: int, options: list[str], pages: Mapping[str, str]) -> int:
    """Run MLflow's server, open its pages when it answers, and return its exit status."""
    # The address is not an argument, which every user of the machine could read.
    is_local = tracking_uri() == local_uri()
    uri = "sqlite:///mlflow.db" if is_local else tracking_uri()
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", *options]
    command += ["--host", host, "--port", str(port)]
    env = os.environ | environment
    env.pop("MLFLOW_TRACKING_URI", None)
    address = f"http://{host}:{port}"
    folder = project_root() if is_local else None
    with subprocess.Popen(command, env=env, cwd=folder) as server:
        try:
            while server.poll() is None and not is_answering(address):
                time.sleep(0.2)
            if server.poll() is None:
                open_pages(address, pages)
            return server.wait()
        except KeyboardInterrupt:  # which the server gets, too
            return server.wait()
        finally:
            server.terminate()


def is_answering(address: str) -> bool:
    """Return whether a server answers."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy does not know this machine's ports
            return session.get(f"{address}/health", timeout=5).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    main()
