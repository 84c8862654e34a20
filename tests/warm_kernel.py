"""Kernels that start at once: each is forked from a process that has imported what notebooks import.

A kernel of its own for each notebook keeps them apart, and to import PyTorch and the rest takes longer than many a
notebook. `python warm_kernel.py ADDRESS` is that process. What Jupyter starts in place of a kernel is `python -c LAUNCH
ADDRESS CONNECTION_FILE`, which asks it for one and lives as long.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = "warm"  # of the kernel
IMPORTED = (
    *("fedlab", "fedlab.plots.picture", "ipywidgets", "scipy.stats", "sklearn.metrics"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
)
LAUNCH = """
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    server.sendall(json.dumps([sys.argv[2], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    kernel = int(server.makefile().readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(kernel, number))
    server.recv(1)  # until the kernel has ended
"""


@contextlib.contextmanager
def kernels(folder: Path) -> Iterator[str]:
    """The name of a kernel for papermill and nbclient; "python3" where processes cannot be forked safely."""
    if sys.platform != "linux":
        yield "python3"
        return
    address = folder / "socket"
    spec = {"argv": [sys.executable, "-ISc", LAUNCH, str(address), "{connection_file}"], "language": "python"}
    (folder / "kernels" / NAME).mkdir(parents=True)
    (folder / "kernels" / NAME / "kernel.json").write_text(json.dumps({**spec, "display_name": NAME}), encoding="utf-8")
    with socket.socket(socket.AF_UNIX) as listening, path_set("JUPYTER_PATH", str(folder)):
        listening.bind(str(address))
        listening.listen()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", __file__, str(listening.fileno())]
        with subprocess.Popen(command, pass_fds=[listening.fileno()], env=environment) as server:
            try:
                yield NAME
            finally:
                server.terminate()


@contextlib.contextmanager
def path_set(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def serve(listening: socket.socket) -> None:
    """Fork a kernel for each request, forever."""
    sys.modules.setdefault("rfc3987_syntax", None)  # as in conftest.py
    for name in IMPORTED:
        importlib.import_module(name)
    from ipykernel.kernelapp import launch_new_instance

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the kernels
    while True:
        request, _ = listening.accept()
        connection, folder, environment = json.loads(request.makefile().readline())
        if os.fork():
            request.close()
            continue
        listening.close()
        request.sendall(f"{os.getpid()}\n".encode())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(folder)
        environment.pop("JPY_PARENT_PID", None)  # the kernel's parent is this process
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["kernel", "-f", connection]
        launch_new_instance()
        os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
