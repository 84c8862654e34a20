"""How long do other simulators take for the same work? Flower, pfl-research and NVIDIA FLARE next to fedlab.

Same sites, same batches in the same order, same initial weights; final weights are compared, and what they are worth on
2,000 new images. The bare loops, fedlab and one peer take turns, round by round, so that their times come from the same
minutes on a machine whose speed drifts; ratios are medians of each round's. Each peer runs in an environment of its
own, since their requirements do not agree with each other:

    make peers

makes them under .peers, from the versions in benchmarks/peers/*.txt, and runs this. Other ones can be named:

    python benchmarks/peers.py --flower /tmp/flower/bin/python W1
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from machine import machine, page
from numpy.typing import NDArray
from rounds import SKEWED, Floor, Workload, in_turn, world

import fedlab
from fedlab.algorithms import start
from fedlab.data.cases import Cases
from fedlab.federation import Federation
from fedlab.federation.settings import FederationSettings
from fedlab.learning import models
from fedlab.learning.metrics import METRICS

HERE = Path(__file__).parent
CORES = os.cpu_count() or 1
PEERS = ("flower", "pfl_research", "flare")
NEW = "phantoms(cases=2000, seed=1)"
ATTEMPTS = 2  # processes of torch.distributed now and then abort when they end
ROUNDS = int(os.environ.get("ROUNDS", 12))
THREADS = 8  # of NVIDIA FLARE: with fewer than there are sites it restarts them in every round
MEMORY = ("default memory format", "channels last")  # as users write it, and as fedlab and the floor have it
WORK = {
    "W1": Workload("8 skewed sites, 6,400 images", SKEWED),
    "W3": Workload("64 sites of 50 images", (50,) * 64),
}
SETTINGS = {"batch_size": 32, "lr": 0.02, "momentum": 0.9, "batchnorm": "group", "device": "cpu"}


def federation(work: Workload) -> Federation:
    return Federation(world(work, by_sex), work.model, FederationSettings(rounds=ROUNDS, **SETTINGS))


def by_sex(dataset: str) -> Cases:
    """Phantoms labelled by the patient's sex, which a small network learns in a few rounds."""
    cases = fedlab.load(dataset)
    return Cases(cases.images, cases.table.assign(label=(cases.table["sex"] == "M").astype(int)), cases.card)


def export(work: Workload, folder: Path) -> None:
    """The work as files, see `peers/work.py`."""
    fed = federation(work)
    arrays = {"images": np.array(fed.partition.cases.images), "labels": np.array(fed.partition.cases.labels)}
    for k, site in enumerate(fed.sites):
        steps = site.steps(fed.settings)
        rounds = [[site.batches.at(number * steps + step) for step in range(steps)] for number in range(ROUNDS)]
        arrays[f"order/{k}"] = np.stack([np.concatenate(batches) for batches in rounds])
        arrays[f"cuts/{k}"] = np.cumsum([len(batch) for batch in rounds[0]])[:-1]
    state = fed.start.state_dict()
    arrays |= {f"weights/{name}": tensor.numpy() for name, tensor in state.items()}
    np.savez(folder / "given.npz", **arrays)
    about = {"sites": len(fed.sites), "rounds": ROUNDS, "cases": [site.cases for site in fed.sites]}
    (folder / "given.json").write_text(json.dumps(about), encoding="utf-8")


def ours(work: Workload, folder: Path) -> None:
    """fedlab, in its own process like the others."""
    from turns import Turn  # in peers/

    fed, turn = federation(work), Turn()
    torch.set_num_threads(1)
    turn.wait()
    for outcome in start("fedavg", fed):
        last = outcome.models["global"]
        turn.wait()
    state = last.state_dict()
    np.savez(folder / "found.npz", **{name: tensor.numpy() for name, tensor in state.items()})


class LostError(RuntimeError):
    """A contestant's process ended before its last round."""


class Contestant:
    """Processes that run a round on command. seconds: their whole job, without waiting for others.

    processes: how many of them take turns together.
    """

    def __init__(self, command: list[str], folder: Path, processes: int, memory: str) -> None:
        begun = time.perf_counter()
        self.folder, self.log = folder, (folder / "log").open("w", encoding="utf-8")
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(folder / "turns"))
        self._door.listen(processes)
        self._door.settimeout(1)
        paths = os.pathsep.join(filter(None, [str(HERE / "peers"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "MEMORY": memory, "TURNS": str(folder / "turns"), "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env=environment, start_new_session=True
        )
        self._ends = [self._admit() for _ in range(processes)]
        self._ready()
        self.seconds = time.perf_counter() - begun

    def round(self, number: int) -> None:
        begun = time.perf_counter()
        self._go()
        self._ready()
        self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        """Let it store its result and end."""
        begun = time.perf_counter()
        self._go()
        code = self._process.wait()
        self.seconds += time.perf_counter() - begun
        self.give_up()
        if code or not (self.folder / "found.npz").exists():
            raise LostError(f"exit code {code}")

    def give_up(self) -> None:
        """Kill what still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for end in (*self._ends, self._door, self.log):
            end.close()

    def _go(self) -> None:
        for end in self._ends:
            end.send(b".")

    def _admit(self) -> socket.socket:
        """Accept the connection of the next process."""
        while self._process.poll() is None:
            with contextlib.suppress(TimeoutError):
                end = self._door.accept()[0]
                end.setblocking(True)
                return end
        raise LostError(f"exit code {self._process.returncode} before the first round")

    def _ready(self) -> None:
        for end in self._ends:
            if not end.recv(1):
                raise LostError("it left in the middle of a round")


@lru_cache
def new() -> Cases:
    """Images that nobody has trained on."""
    return by_sex(NEW)


def worth(work: Workload, weights: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """(accuracy, AUROC) of final weights on new images."""
    cases, net = new(), models.build(work.model, new().shape, 1, 0, SETTINGS["batchnorm"])
    net.load_state_dict({name: torch.from_numpy(weights[name]) for name in net.state_dict()})
    with torch.inference_mode():
        p = net.eval()(torch.from_numpy(np.array(cases.images)).float().div_(255)).sigmoid().double().numpy()
    both, y = np.concatenate([1 - p, p], 1), np.array(cases.labels)
    return float(METRICS.function("accuracy")(y, both)), float(METRICS.function("auroc")(y, both))


def commands(given: argparse.Namespace, name: str) -> dict[str, tuple[list[str], int]]:
    """Peer, with its images' memory format -> (what is run, processes that take turns); a folder is appended."""
    script = {peer: str(HERE / "peers" / f"{peer}.py") for peer in PEERS}
    found: dict[str, tuple[list[str], int]] = {}
    for memory in MEMORY:
        if given.pfl_research:
            found[f"pfl-research, 1 process, {memory}"] = [given.pfl_research, script["pfl_research"]], 1
            several = ["-m", "torch.distributed.run", f"--nproc_per_node={CORES}", script["pfl_research"]]
            found[f"pfl-research, {CORES} processes, {memory}"] = [given.pfl_research, *several], CORES
        if given.flower:
            found[f"Flower, {memory}"] = [given.flower, script["flower"]], 1
    sites = len(WORK[name].sizes)
    if given.flare and sites <= THREADS:
        found[f"NVIDIA FLARE, {MEMORY[1]}"] = [given.flare, script["flare"]], sites
    return found


def options(peer: str) -> list[str]:
    """What follows the folder on a peer's command line."""
    if peer.startswith("NVIDIA"):
        return [f"threads={THREADS}"]
    return [f"threads={CORES}"] if "1 process" in peer else []


@dataclass(frozen=True)
class Duel:
    """Seconds of each round of the best bare loop, of fedlab and of a peer, and what two of them came to."""

    floor: NDArray[np.float64]
    seconds: dict[str, NDArray[np.float64]]  # "fedlab" and the peer
    whole: dict[str, float]  # seconds of the whole job
    weights: dict[str, Mapping[str, np.ndarray]]


def duel(name: str, folder: Path, peer: str, command: list[str], processes: int) -> Duel:
    """The bare loops, fedlab and a peer in turn; raises LostError if one of them does not finish."""
    mine = [sys.executable, str(Path(__file__).resolve()), "--ours", name]
    wanted = {"fedlab": (mine, 1), **({peer: (command, processes)} if peer != "fedlab" else {})}
    racing: dict[str, Contestant] = {}
    floors: dict[str, Floor] = {}

    def enter(who: str) -> Contestant:
        place, (program, count) = furnished(folder / str(len(racing)), folder), wanted[who]
        racing[who] = Contestant([*program, str(place), *options(who)], place, count, who.rpartition(", ")[2])
        return racing[who]

    def bare(count: int) -> Floor:
        return floors.setdefault(f"floor {count}", Floor(WORK[name], count, "group"))

    makes = {f"floor {count}": partial(bare, count) for count in sorted({1, CORES})}
    try:
        rounds = in_turn({**makes, **{who: partial(enter, who) for who in wanted}}, ROUNDS - 1)
    finally:
        for one in racing.values():
            one.give_up()
        for process in (process for floor in floors.values() for process in floor.processes):
            process.terminate()
    each = {who: np.array(values) for who, values in rounds.items()}
    best = min((each[floor] for floor in floors), key=np.median)
    found = {who: dict(np.load(one.folder / "found.npz")) for who, one in racing.items()}
    return Duel(best, {who: each[who] for who in wanted}, {who: one.seconds for who, one in racing.items()}, found)


def furnished(place: Path, source: Path) -> Path:
    """A new folder with links to the work in another one."""
    place.mkdir()
    for given in ("given.npz", "given.json"):
        (place / given).symlink_to(source / given)
    return place


def compare(given: argparse.Namespace, name: str) -> list[str]:
    """A row a contestant; the largest difference between its final weights and ours."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        export(WORK[name], Path(scratch))
        for who, (command, processes) in {"fedlab": ([], 0), **commands(given, name)}.items():
            rows.append(attempted(name, Path(scratch), who, command, processes))
            print(rows[-1], flush=True)
    return rows


def attempted(name: str, folder: Path, who: str, command: list[str], processes: int) -> str:
    """The row of one contestant, after a second attempt if the first one failed."""
    for number in range(ATTEMPTS):
        place = furnished(Path(tempfile.mkdtemp(dir=folder)) / str(number), folder)
        try:
            return row(name, who, duel(name, place, who, command, processes))
        except LostError as error:
            why = str(error)
            for log in sorted(place.glob("*/log")):
                print(log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
    return f"| {name} | {who} | failed: {why} | | | | | | |"


def row(name: str, who: str, found: Duel) -> str:
    """Times and worth of one contestant."""
    seconds, flat = found.seconds[who], {}
    for each, weights in found.weights.items():
        flat[each] = np.concatenate([weights[key].ravel() for key in sorted(weights)])
    apart = np.abs(flat[who] - flat["fedlab"]).max() / np.abs(flat["fedlab"]).max()
    cells = [name, who, f"{np.median(seconds):.3f}", f"{np.median(found.seconds['fedlab']):.3f}"]
    cells += [f"{np.median(seconds / found.seconds['fedlab']):.2f}", f"{np.median(seconds / found.floor):.2f}"]
    cells += [f"{found.whole[who]:.1f}", *(f"{value:.3f}" for value in worth(WORK[name], found.weights[who]))]
    return f"| {' | '.join([*cells, f'{apart:.0e}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORK), metavar="W")
    for peer in PEERS:
        made = HERE.parent / ".peers" / peer / "bin" / "python"
        about = f"the interpreter of an environment with {peer}"
        name = f"--{peer.replace('_', '-')}"
        parser.add_argument(name, metavar="PYTHON", default=str(made) if made.exists() else None, help=about)
    parser.add_argument("--ours", nargs=2, metavar=("W", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        ours(WORK[given.ours[0]], Path(given.ours[1]))
        return
    head = ["", "simulator", "s a round", "fedlab's meanwhile", "times fedlab's", "times the best bare loop's"]
    head += ["whole job, s", "accuracy", "AUROC", "weights apart"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    print("\n".join(lines))
    for name in given.workloads:
        lines += compare(given, name)
    text = (
        f"{ROUNDS} rounds of federated averaging, one epoch, batches of 32, small CNN with group normalisation, which"
        " learns the sex of phantoms. The bare loops, fedlab and one peer took turns, round by round; ratios are"
        " medians of each round's. The whole job is from the start of the process to its end, without waiting for"
        " others.\n\n"
    )
    page(HERE / "results" / f"peers-{machine()['device']}.md", "The same work elsewhere", text + "\n".join(lines))


if __name__ == "__main__":
    main()
