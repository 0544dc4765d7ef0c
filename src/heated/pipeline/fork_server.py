"""Start stages as forks of a process that has imported torch, scikit-learn and scipy already.

These imports take seconds, and a build starts dozens of stages. `python -m stages JOBS` runs one
server. A stage that finds its address in the environment sends it the command line, environment and
streams, waits for the fork to end, and exits with its status. Otherwise a stage runs by itself.
A fork forgets what it knows of this package, so that each stage runs the current code of its own
folder.
"""

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

ADDRESS = "HEATED_FORK_SERVER"
PRELOADED = ("torch", "torch._dynamo", "sklearn.cluster", "sklearn.metrics", "scipy.special")
LIMIT = 1 << 20  # bytes of a request


def delegate() -> None:
    """Let the server run this stage, and exit with its status; return if it cannot.

    `torchrun` starts several processes of a stage, which run by themselves.
    """
    address, module = os.environ.get(ADDRESS), stage_module(sys.orig_argv)
    if address is None or module is None or "TORCHELASTIC_RUN_ID" in os.environ:
        return
    arguments = sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        except OSError:
            return  # still importing, or gone
        answer = server.recv(64)
        server.recv(1)  # nothing, once the fork has ended
    sys.exit(int(answer) if answer else "the stage was killed")


def stage_module(command: Sequence[str]) -> str | None:
    """Return the stage that a command line of Python runs, None if it runs something else."""
    is_stage = command[1:2] == ["-m"] and command[2].startswith("stages.")
    return command[2] if is_stage else None


def serve(address: str, modules: Sequence[str] = PRELOADED, *, wait: bool = False) -> None:
    """Import the modules, then fork a process for each stage that connects to the address.

    Stages that start before the end of the imports wait for it, or run by themselves.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        if wait:
            listen(listener, address)
        for name in modules:
            import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks leave no zombies
        if not wait:
            listen(listener, address)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                sys.exit(run_stage(connection))
            connection.close()


def listen(listener: socket.socket, address: str) -> None:
    """Let stages connect to the address."""
    listener.bind(address)
    listener.listen()


def run_stage(connection: socket.socket) -> int:
    """Run the stage that a client asks for, and send its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, LIMIT, 3)
    request = json.loads(message)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])  # from where `stages` is imported
    sys.argv = request["arguments"]
    for name in [each for each in sys.modules if each.partition(".")[0] in ("heated", "stages")]:
        del sys.modules[name]
    status = exit_status(sys.argv[0])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    with suppress(OSError):
        connection.send(str(status).encode())
    return status


def exit_status(module: str) -> int:
    """Run a module as a program and return its exit status; print what ends it."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
