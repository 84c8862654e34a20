"""Measure everything that is claimed about GPUs, in one table and under eight minutes.

    python benchmarks/gpu.py                # all parts
    python benchmarks/gpu.py resnet seeds   # some of them, added to the existing table

The table is written to benchmarks/results (or `--out`) as gpu-<card>.md, each row as soon as it is measured, so that
nothing is lost if the script is killed. Each part runs in its own process with a time limit; parts whose times
do not matter run in parallel. Without a GPU it says so and ends.

It needs a checkout and PyTorch with CUDA, and what fedlab imports: installed, or a folder of unpacked wheels on
PYTHONPATH (`PYTHONPATH=.:WHEELS python3 benchmarks/gpu.py`). Real data: put the official pneumoniamnist.npz,
retinamnist.npz and breastmnist.npz into a folder `mirror` in the checkout, or let FEDLAB_MIRROR name theirs. A part
whose data or whose papermill is missing is skipped, and the table says so.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO

import gpu_parts as measure
import torch
from gpu_parts import DATASETS, ROOT, Given, Part, Row
from machine import about, describe_checkout, machine

HERE = Path(__file__).resolve().parent
MINUTES = 7.9
MARK = "ROW "  # prefix of the lines in which a part prints its rows
PARTS: dict[str, tuple[Part, int]] = {  # name -> (function, time limit in seconds)
    "resnet": (measure.resnet, 80),
    "small": (measure.small, 80),
    "seeds": (measure.seeds, 60),
    "tests": (measure.tests, 250),
    "determinism": (measure.determinism, 50),
    "utilisation": (measure.utilisation, 40),
    **{name: (partial(measure.published, name), 200) for name in DATASETS},
    "memory": (measure.memory, 60),
    "notebooks": (measure.notebooks, 120),
    "threads": (measure.threads, 45),
    "notebooks-cpu": (partial(measure.notebooks, device="cpu"), 240),
}
PARALLEL = (*DATASETS, "memory")  # their times do not matter
ORDER = (("resnet",), ("small",), ("seeds",), ("tests",), ("determinism",), ("utilisation",))
ORDER += (PARALLEL, ("notebooks",), ("threads",), ("notebooks-cpu",))


# One table


class Table:
    """Rows, printed and appended to the page as they come."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path, self.rows, self._lock = path, [], threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh or not path.exists():
            head = "| line | wanted | measured | verdict |\n| --- | --- | --- | --- |"
            path.write_text(f"# Claims about GPUs, measured\n\n{about()}\n\n{head}\n", encoding="utf-8")
            print(head, flush=True)

    def add(self, row: Row) -> None:
        with self._lock:
            self.rows.append(row)
            with self.path.open("a", encoding="utf-8") as page:
                page.write(f"{row}\n")
            print(row, flush=True)


def run_part(name: str, given: argparse.Namespace, deadline: float, table: Table) -> None:
    """Run a part in another process and add its rows to the table, or the reason why there are none."""
    left, late = min(PARTS[name][1], deadline - time.monotonic()), threading.Event()
    if left < 5:
        table.add(Row(name, "", "no time left", "not run"))
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = started(name, given, errors)
        watch = threading.Timer(left, lambda: (late.set(), os.killpg(process.pid, signal.SIGKILL)))
        watch.start()
        for line in process.stdout or ():
            if line.startswith(MARK):
                table.add(Row(**json.loads(line.removeprefix(MARK))))
        process.wait()
        watch.cancel()
        errors.seek(0)
        last = [line.strip() for line in errors.read().splitlines() if line.strip()][-1:]
    if late.is_set():
        table.add(Row(name, "", f"stopped after {left:.0f} s", "not finished"))
    elif process.returncode:
        table.add(Row(name, "", f"exit code {process.returncode}: {' '.join(last)[:300]}", "failed"))


def started(name: str, given: argparse.Namespace, errors: IO[str]) -> subprocess.Popen[str]:
    """The process of a part, in a new process group."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--device", given.device]
    command += ["--out", str(given.out), "--precision", given.precision, *(["--quick"] if given.quick else [])]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment(),
        start_new_session=True,
        encoding="utf-8",
    )


def environment() -> dict[str, str]:
    """This process's environment with the checkout on PYTHONPATH, and absolute paths."""
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])}
    if (ROOT / "mirror").is_dir():
        given.setdefault("FEDLAB_MIRROR", str(ROOT / "mirror"))
    for name in ("PYTHONPATH", "FEDLAB_MIRROR"):
        paths = filter(None, given.get(name, "").split(os.pathsep))
        given[name] = os.pathsep.join(str(Path(path).expanduser().absolute()) for path in paths)
    return given


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the table")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which parts are stopped")
    parser.add_argument("--precision", default="bf16", help="of benchmarks/published.py (default: bf16)")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # "cpu --quick" tries this script itself
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if given.part:
        warnings.simplefilter("ignore")
        options = Given(given.device, given.quick, given.out, given.precision)
        for row in PARTS[given.part][0](options):
            print(MARK + json.dumps(asdict(row)), flush=True)
        return 0
    if given.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so nothing was measured.")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        paths = [*describe_checkout(Path(folder)), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        return everything(given)


def everything(given: argparse.Namespace) -> int:
    """Run the chosen parts; the exit code is 1 if a target is missed or a part failed."""
    begun, given.out = time.monotonic(), given.out.absolute()
    deadline, chosen = begun + 60 * given.minutes, given.parts or list(PARTS)
    table = Table(given.out / f"gpu-{machine()['device']}.md", fresh=not given.parts)
    for names in ORDER:
        with ThreadPoolExecutor(len(names)) as pool:
            parts = [pool.submit(run_part, name, given, deadline, table) for name in names if name in chosen]
        for part in parts:
            part.result()
    verdicts = [row.verdict for row in table.rows if row.verdict]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))
    print(f"\n{counts}; {time.monotonic() - begun:.0f} s, written to {table.path}")
    return 1 if {"missed", "failed", "not finished", "not run"} & set(verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
