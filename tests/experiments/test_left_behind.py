"""No process outlives the one that started it, however that ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import fedlab

GRID = """
    import sys
    import fedlab

    base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", model="logistic", rounds=100000, device="cpu")
    if __name__ == "__main__":
        fedlab.grid(base, folder=sys.argv[1], workers=2, seed=[0, 1])
"""


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text("utf-8").split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(what, seconds: float = 180.0) -> bool:
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(found)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are listed in /proc")
def test_processes_of_a_grid_end_when_their_parent_is_killed(tmp_path):
    script, runs = tmp_path / "script.py", tmp_path / "runs"
    script.write_text(textwrap.dedent(GRID), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(fedlab.__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, str(script), str(runs)], env=environment, stderr=subprocess.DEVNULL)
    left: list[int] = []
    try:
        assert wait_for(lambda: parent.poll() is not None or len(list(runs.glob("*.unfinished/checkpoint.pt"))) == 2)
        assert parent.poll() is None
        left = children(parent.pid)
        assert len(left) >= 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_for(lambda: not any(alive(child) for child in left), 20)
    finally:
        for process in [parent.pid, *left]:
            if alive(process):
                os.kill(process, signal.SIGKILL)
    assert len(list(runs.glob("*.unfinished/checkpoint.pt"))) == 2  # both resume
