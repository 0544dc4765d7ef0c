"""A real MLflow server on loopback, with a database and artifacts of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


class Server:
    """Started and killed as often as a test wants, at one address and with one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers; fails when it has ended, or after ten minutes."""
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        places += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *places, "--port", str(self.port)],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await_answer(self.process, f"{self.address}/health", self.folder / "log")

    def answers(self) -> bool:
        """Whether it does now."""
        return answers(f"{self.address}/health")

    def kill(self) -> None:
        """At once and with all it started, in the middle of whatever it does."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def answers(address: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def await_answer(
    server: subprocess.Popen[bytes], address: str, log: Path = Path(os.devnull)
) -> None:
    """Until the server answers; fails when it has ended, or after ten minutes."""
    end = time.monotonic() + 600
    while not answers(address):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
