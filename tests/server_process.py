"""Servers on loopback, each in a process of its own: MLflow, S3, a served model."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self


class Server:
    """A server that runs inside a `with` block, and that a test may kill and start again.

    `command` accepts `--port`; the server is up when it answers at `path`.
    """

    def __init__(
        self, command: Sequence[str], path: str, folder: Path, env: Mapping[str, str] = os.environ
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.command, self.path = [*command, "--port", str(port)], path
        self.folder, self.env = folder, dict(env)
        self.log = TemporaryFile()  # noqa: SIM115 - closed at the end of the block
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.close()

    def start(self) -> None:
        """Start the server and wait until it answers; fail if it ends, or after ten minutes."""
        streams = {"stdout": self.log, "stderr": self.log, "start_new_session": True}
        self.process = subprocess.Popen(self.command, cwd=self.folder, env=self.env, **streams)
        end = time.monotonic() + 600
        while not self.is_answering():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                self.log.seek(0)
                raise AssertionError(self.log.read().decode())
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server and all processes it started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def is_answering(self) -> bool:
        """Return whether the server answers."""
        try:
            with urllib.request.urlopen(f"{self.address}{self.path}", timeout=5):
                return True
        except OSError:
            return False
