"""Train a finished run again from what its folder holds, and say what agrees."""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedlab.core.files import DamagedError
from fedlab.core.warnings import warn
from fedlab.data import catalogue
from fedlab.data.cases import Cases
from fedlab.engine.devices import find_device
from fedlab.experiments import origin, report_card, run_folder
from fedlab.experiments.experiment import CODE, Experiment
from fedlab.experiments.observer import Observer
from fedlab.experiments.run_folder import CHOICES, Run
from fedlab.experiments.runner import Folder, root_of, run
from fedlab.learning import pretrained
from fedlab.partitioning.build import ARGUMENTS, partition
from fedlab.partitioning.partitions import Partition

__all__ = ["Reproduction", "agreement", "reproduce"]

COLUMNS = ["what", "agrees", "difference", "round", "detail"]
ROUND_KEYS = ["round", "model", "site", "split", "metric"]
PREDICTION_KEYS = ["model", "choice", "site", "split", "case"]
LEDGER_KEYS = ["round", "site", "direction", "other", "what"]
TIMED = ["seconds"]  # columns that differ between two trainings of the same run
NAMED = 4  # packages that a remark names


@dataclass(frozen=True)
class Reproduction:
    """A finished run, the run that was trained again from its folder, and what agrees.

    Attributes
    ----------
    original, again : Run
        The run of the folder, and the new one.
    table : pandas.DataFrame
        A row each for partition, rounds, headline, predictions, weights and ledger. Columns: what, agrees (within the
        tolerance), difference (the largest, absolute; 0 is bit for bit, NaN if the two cannot be compared), round (the
        first that differs, where there are rounds), detail (in words).
    tolerance : float
        The largest absolute difference that counts as agreement.
    remarks : list of str
        What differed before training, such as versions of packages.
    """

    original: Run
    again: Run
    table: pd.DataFrame
    tolerance: float = 0.0
    remarks: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether all of it agrees."""
        return bool(self.table["agrees"].all())

    def __repr__(self) -> str:
        wrong = self.table[~self.table["agrees"]]
        within = "bit for bit" if not self.table["difference"].any() else f"within {self.tolerance:g}"
        verdict = f"agrees {within}" if self.agrees else f"differs in {', '.join(wrong['what'])}"
        width = int(self.table["what"].str.len().max())
        lines = [f"  {row.what:{width}}  {row.detail}" for row in self.table.itertuples()]
        remarks = [f"  remark: {remark}" for remark in self.remarks]
        return "\n".join(
            [f"{self.original.folder.name} {verdict}", *lines, *remarks, f"  trained again in {self.again.folder}"]
        )


def reproduce(
    folder: str | Path,
    *,
    into: str | Path | None = None,
    dataset: str | Path | Cases | None = None,
    tolerance: float = 0.0,
    live: bool | Observer = False,
) -> Reproduction:
    """Train a finished run again from what its folder holds, and say what agrees.

    Experiment, partition and seed are read from the run folder; functions of your own that it names must be defined,
    and its dataset must be there. What differs already, such as versions of packages or of your own functions, is
    warned of before training. An interrupted reproduction resumes.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    into : str or Path, optional
        Where the new run folder is kept; by default a new folder next to the old one whose name ends in "-again".
    dataset : str, Path or Cases, optional
        Where the dataset is now, or its cases if they were made in Python; by default where it was.
    tolerance : float, default 0.0
        Largest absolute difference of numbers that counts as agreement, 0 or more; 0 is bit for bit.
    live : bool or Observer, default False
        As in `fedlab.run`.

    Returns
    -------
    Reproduction

    Raises
    ------
    ValueError
        If the folder is no run folder, the dataset or a function of your own is missing, or `into` has this run.

    Warns
    -----
    UserWarning
        If versions, the dataset, or functions of your own are not those of the run.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> folder = tempfile.TemporaryDirectory()
    >>> run = fedlab.run(base, folder=folder.name)
    >>> found = fedlab.reproduce(run.folder)
    >>> found.agrees, found.table["what"].tolist()
    (True, ['partition', 'rounds', 'headline', 'predictions', 'weights', 'ledger'])
    >>> folder.cleanup()
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance={tolerance!r}: give the largest difference that counts as agreement, 0 or more")
    original = run_folder.read(folder)
    _refuse_missing_code(original)
    experiment = original.experiment
    part = _partition(original, experiment, dataset)
    experiment = experiment.with_(dataset=catalogue.described(part.cases)).describing(part)
    remarks = [*_damaged(original), *_versions(original, experiment), *_changed(original, experiment, part)]
    root = _new_root(original, experiment, part, into)
    for remark in remarks:
        warn(f"{original.folder.name}: {remark}")
    again = run(experiment, part, folder=root, live=live)
    return Reproduction(original, again, agreement(original, again, tolerance), float(tolerance), remarks)


# -- before training ---------------------------------------------------------------------------------------------


def _refuse_missing_code(original: Run) -> None:
    """Refuse functions of the user's own that are not registered here, and say where they were defined."""
    recorded = _about(original).get("code", {})
    missing = [name for name in original.code if name != "files" and not any(name in one for one in CODE.values())]
    if not missing:
        return
    words = []
    for name in missing:
        about = recorded.get(name, {})
        where = f"line {about['line']} of {about['file']}" if about.get("file") else "a notebook or at a prompt"
        words.append(f"{about.get('kind', 'function')} {name!r}, defined in {where}")
    text = "; its text is in environment.json" if all("text" in recorded.get(name, {}) for name in missing) else ""
    raise ValueError(
        f"{original.folder} needs code of your own that is not registered here: {'; '.join(words)}: run or import that"
        f" code first (on the command line: --code FILE.py){text}"
    )


def _about(original: Run) -> dict[str, Any]:
    """What is known of the environment of a run; empty if its file is damaged."""
    try:
        return original.environment
    except DamagedError:
        return {}


def _partition(original: Run, experiment: Experiment, dataset: str | Path | Cases | None) -> Partition:
    """The partition of a run, made again from its description, or from its table if sites were given case by case."""
    cases = dataset if isinstance(dataset, Cases) else _load(original, experiment, dataset)
    spec = original.partition_spec
    if spec.get("sites") != "explicit":
        requested = {name: getattr(experiment, name) for name in ARGUMENTS if name != "seed"}
        return partition(cases, **requested, seed=experiment.partition_seed)
    named = {name: spec[name] for name in ("acquisition", "annotation", "unseen", "leakage") if name in spec}
    part = Partition.from_sites(cases, original.partition_table, seed=spec.get("seed", 0), **named)
    return dataclasses.replace(part, spec=spec)


def _load(original: Run, experiment: Experiment, dataset: str | Path | None) -> Cases:
    """The dataset of a run; ValueError that says which it was and where."""
    wanted, how = experiment.dataset if dataset is None else dataset, "give its place now as `dataset` (--dataset)"
    place = catalogue.folder_of(wanted)
    was = _about(original).get("dataset", {}).get("folder", "")
    if place is not None and not _is_folder(place):
        now = "" if dataset is None else f"{place} is no folder that can be read; "
        before = f"the folder {place}" if dataset is None else was or experiment.dataset
        raise ValueError(f"the dataset of {original.folder.name} is not found: {now}it was {before}: {how}")
    try:
        return catalogue.load(wanted, experiment.target)
    except (ValueError, OSError) as error:
        where = f", which was the folder {was}" if was else ""
        raise ValueError(
            f"the dataset {str(wanted)!r} of {original.folder.name}{where}, cannot be loaded here ({error}): {how}, or"
            " the cases themselves if they were made in Python"
        ) from error


def _is_folder(place: Path) -> bool:
    """Whether a path leads to a folder; not if it is inside another one that may not be opened."""
    try:
        return place.is_dir()
    except PermissionError:
        return False


def _damaged(original: Run) -> Iterator[str]:
    """Files of the run folder that are damaged or missing."""
    for name in run_folder.FILES:
        if not run_folder.is_intact(original.folder / name):
            yield f"{name} is missing, or its bytes are not those that were stored"


def _versions(original: Run, experiment: Experiment) -> Iterator[str]:
    """What differs in packages, Python and hardware."""
    then, now = _about(original), origin.packages()
    before = then.get("packages", {})
    changed = [
        f"{name} {before[name]} (now {now.get(name, 'missing')})" for name in before if now.get(name) != before[name]
    ]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        yield f"trained with other versions: {', '.join(changed[:NAMED])}{more}"
    if then.get("commit") and origin.fedlab_commit() not in ("", then["commit"]):
        yield f"trained with commit {then['commit']} of fedlab (now {origin.fedlab_commit()})"
    here = report_card.hardware(find_device(experiment.device))
    for name, value in here.items():
        if name in then and then[name] != value:
            yield f"trained with {name} {then[name]} (now {value}), which may change the last bits"


def _changed(original: Run, experiment: Experiment, part: Partition) -> Iterator[str]:
    """What differs in the user's own code, the file of weights and the dataset."""
    if original.code:
        now = experiment.code_versions()
        for name, stored in original.code.items():
            if now.get(name) != stored:
                yield f"{name if name != 'files' else 'a file that a setting names'} has changed since the run"
    if original.weights_version and pretrained.version(experiment.weights) != original.weights_version:
        yield f"the file of weights {experiment.weights} has changed since the run"
    if parts := _other_parts(original.fingerprints, part.fingerprints):
        yield f"the partition differs in {parts}"


def _other_parts(then: dict[str, str], now: dict[str, str]) -> str:
    """The parts of a partition (dataset, pixels, scanners, readers) whose fingerprints differ."""
    return ", ".join(name for name in then if now.get(name) != then[name])


def _new_root(original: Run, experiment: Experiment, part: Partition, into: Folder) -> Path:
    """A folder in which this run is not finished yet."""
    if into is not None:
        target = run_folder.folder_of(experiment, part, root_of(into))
        if target.exists():
            raise ValueError(f"{target} holds this run already, so nothing would be trained: give a new folder")
        return root_of(into)
    for number in itertools.count(1):
        root = original.folder.with_name(f"{original.folder.name}-again{'' if number == 1 else f'-{number}'}")
        if not run_folder.folder_of(experiment, part, root).exists():
            return root
    raise AssertionError


# -- after training ----------------------------------------------------------------------------------------------


def agreement(original: Run, again: Run, tolerance: float = 0.0) -> pd.DataFrame:
    """The table of `Reproduction`: what agrees between two runs."""
    rows = []
    for what, compared in PARTS.items():
        try:
            difference, number, detail = compared(original, again)
        except DamagedError as error:
            difference, number, detail = np.nan, None, f"cannot be compared: {error}"
        rows.append((what, bool(difference <= tolerance), difference, number, detail))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(round=table["round"].astype("Int64"))


Compared = tuple[float, int | None, str]  # largest difference, first round that differs, words


def _of_partition(original: Run, again: Run) -> Compared:
    then, now = original.partition_fingerprint, again.partition_fingerprint
    if then == now:
        return 0.0, None, f"identical, fingerprint {now}"
    parts = _other_parts(original.fingerprints, again.fingerprints) or "sites or splits of cases"
    return np.nan, None, f"differs in {parts}: fingerprint {then}, now {now}"


def _of_rounds(original: Run, again: Run) -> Compared:
    return _tables(original.rounds, again.rounds, ROUND_KEYS)


def _of_headline(original: Run, again: Run) -> Compared:
    """The headline metric at each site, test cases, after the last round."""
    then, now = (_last_scores(one) for one in (original, again))
    difference, _, _ = _tables(then, now, ["site"])
    shown = [f"{one['value'].mean():.4f}" if len(one) else "none" for one in (then, now)]
    return difference, None, f"{original.headline} on test cases {shown[0]}, again {shown[1]} (mean of sites)"


def _last_scores(one: Run) -> pd.DataFrame:
    rounds = one.rounds[one.rounds["metric"].eq(one.headline) & one.rounds["split"].eq("test")]
    last = rounds[rounds["round"].eq(rounds["round"].max())].drop_duplicates("site")
    return last[["site", "value"]].reset_index(drop=True)


def _of_predictions(original: Run, again: Run) -> Compared:
    return _tables(original.predictions, again.predictions, PREDICTION_KEYS)


def _of_ledger(original: Run, again: Run) -> Compared:
    return _tables(original.ledger, again.ledger, LEDGER_KEYS)


def _tables(then: pd.DataFrame, now: pd.DataFrame, keys: list[str]) -> Compared:
    """Compare two tables whose rows are in the same order."""
    then, now = (one.drop(columns=TIMED, errors="ignore") for one in (then, now))
    if list(then.columns) != list(now.columns) or len(then) != len(now):
        return np.nan, None, f"{len(then)} rows of {len(then.columns)} columns, again {len(now)} of {len(now.columns)}"
    differ, largest, at = np.zeros(len(then), bool), 0.0, 0
    for name in then.columns:
        one, other = then[name], now[name]
        if name in keys or not (pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other)):
            wrong = ~(one.astype(str).to_numpy() == other.astype(str).to_numpy())
            gap = np.where(wrong, np.inf, 0.0)
        else:
            a, b = one.to_numpy(np.float64), other.to_numpy(np.float64)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            with np.errstate(invalid="ignore"):
                gap = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
            wrong = ~same
        differ |= wrong
        if len(gap) and gap.max() > largest:
            largest, at = float(gap.max()), int(gap.argmax())
    if not differ.any():
        return 0.0, None, f"{len(then):,} rows, bit for bit"
    first = int(then.loc[differ, "round"].min()) if "round" in then else None
    where = ", ".join(f"{key} {then[key].iloc[at]}" for key in keys)
    begins = f", from round {first} on" if first is not None else ""
    return largest, first, f"{differ.sum():,} of {len(then):,} rows differ{begins}; by {largest:.3g} at {where}"


def _of_weights(original: Run, again: Run) -> Compared:
    if original.models != again.models:
        return np.nan, None, f"of {', '.join(original.models)}, again of {', '.join(again.models)}"
    largest, at, count = 0.0, "", 0
    for model, choice in itertools.product(original.models, CHOICES):
        then, now = original.weights(model, choice), again.weights(model, choice)
        if {name: one.shape for name, one in then.items()} != {name: one.shape for name, one in now.items()}:
            return np.nan, None, f"names or shapes of the {choice} model of {model} differ"
        for name, one in then.items():
            gap = _largest_gap(one, now[name])
            count += one.numel()
            if gap > largest:
                largest, at = gap, f"{name} of the {choice} model of {model}"
    return (
        (largest, None, f"differ, by {largest:.3g} at {at}") if at else (0.0, None, f"{count:,} numbers, bit for bit")
    )


def _largest_gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tensors; 0 only if they are equal, NaN at the same places included."""
    a, b = one.double().flatten(), other.double().flatten()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs().nan_to_num(nan=np.inf))
    return float(gap.max()) if len(gap) else 0.0


PARTS = {
    "partition": _of_partition,
    "rounds": _of_rounds,
    "headline": _of_headline,
    "predictions": _of_predictions,
    "weights": _of_weights,
    "ledger": _of_ledger,
}
