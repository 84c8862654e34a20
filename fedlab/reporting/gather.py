"""What a report is about: runs of one federation or several, found from runs and folders, and the partition of each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlab.analysis.joining.verdicts import check_same_cases
from fedlab.core import files
from fedlab.data import catalogue
from fedlab.data.home import home
from fedlab.experiments import run_folder
from fedlab.experiments.run_folder import Run
from fedlab.partitioning.partitions import Partition

MOST = 8  # federations in a report
GENERATED = "phantoms"  # the dataset that needs no files


@dataclass(eq=False)
class Federation:
    """The runs of one federation, and those that leave more of its sites out.

    partition: None where the dataset is not at hand; missing then says why.
    """

    runs: list[Run]
    without: list[Run] = field(default_factory=list)
    partition: Partition | None = None
    missing: str = ""


def collect(runs: Any) -> list[Run]:
    """All runs that are given, or are in the folders that are given, each once."""
    given = [runs] if isinstance(runs, str | Path) or hasattr(runs, "partition_table") else list(runs)
    found: dict[Any, Run] = {}
    for thing in given:
        for run in _in_folder(thing) if isinstance(thing, str | Path) else [thing]:
            if not hasattr(run, "partition_table"):
                raise ValueError(f"found {run!r} among the runs: give runs, run folders, or a folder that holds them")
            found.setdefault(run.folder, run)
    if not found:
        raise ValueError("found no runs to report: pass the list that fedlab.grid returned, or a folder of runs")
    return list(found.values())


def _in_folder(folder: str | Path) -> list[Run]:
    """The run in a folder, or those that it or its folder `runs` holds."""
    root = files.resolve(folder)
    if not root.is_dir():
        raise ValueError(f"{folder} is no folder: give a run folder, or a folder that holds run folders")
    if (root / run_folder.ABOUT).is_file():
        return [run_folder.read(root)]
    held = run_folder.find(root) or run_folder.find(root / "runs")
    if not held:
        raise ValueError(f"{folder} holds no finished run: run an experiment first, or give the folder of its runs")
    return run_folder.known(held)


def federations(runs: list[Run], partition: Partition | None = None) -> list[Federation]:
    """Group runs by federation, with runs that leave one site out next to those of the whole federation."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.partition_fingerprint, []).append(run)
    found: list[Federation] = []
    for group in sorted(groups.values(), key=lambda group: len(group[0].unseen)):
        whole = next((one for one in found if _leaves_out(group[0], one.runs[0])), None)
        if whole is None:
            found.append(Federation(group))
        else:
            whole.without += group
    found.sort(key=lambda one: runs.index(one.runs[0]))
    if len(found) > MOST:
        raise ValueError(
            f"found runs of {len(found)} federations: pass those of at most {MOST}, so that a report is read"
        )
    for one in found:
        one.partition, one.missing = partition_of(one.runs[0], partition)
    return found


def _leaves_out(run: Run, whole: Run) -> bool:
    """Whether a run is that of a federation but for the sites that it leaves out."""
    if not set(whole.unseen) < set(run.unseen):
        return False
    try:
        check_same_cases(run, whole)
    except ValueError:
        return False
    return True


def partition_of(run: Run, given: Partition | None = None) -> tuple[Partition | None, str]:
    """The partition of a run and "", or None and the reason; no dataset is fetched for it."""
    if given is not None and given.fingerprint == run.partition_fingerprint:
        return given, ""
    dataset = run.experiment.dataset
    if not _at_hand(dataset):
        return None, f"the dataset {dataset} is not on this machine"
    try:
        cases = catalogue.load(dataset, run.experiment.target)
    except (ValueError, OSError) as error:
        return None, f"the dataset {dataset} cannot be loaded ({error})"
    if cases.fingerprint != run.fingerprints.get("dataset"):
        return None, f"the dataset {dataset} is not the one of the runs, or the run was handed a partition of its own"
    return Partition(cases, run.partition_table, run.partition_spec, unseen=run.unseen), ""


def _at_hand(dataset: str) -> bool:
    """Whether a dataset can be loaded without fetching anything."""
    name = dataset.split("(")[0].strip()
    return name == GENERATED or catalogue.folder_of(dataset) is not None or any(_prepared(name))


def _prepared(name: str) -> Iterator[Path]:
    return home().glob(f"{name}*/card.json")


def names_of(things: Iterable[object]) -> str:
    """Names separated by commas."""
    return ", ".join(map(str, things))
