"""`Study`: doses x methods x sites x seeds as one object that is planned, run, resumed and put in a table."""

import json
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fedlab.core import files
from fedlab.core.warnings import each_once, warn
from fedlab.engine.devices import duration, find_device
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.experiment_file import load_fields
from fedlab.experiments.interruption import explained
from fedlab.experiments.observer import Observer, announce, find_observer, finished
from fedlab.experiments.processes import PendingRun
from fedlab.experiments.run_folder import Run
from fedlab.experiments.runner import Folder, planned_folders, root_of
from fedlab.studies import schedule
from fedlab.studies.design import CROSSED, Design, PlannedRun
from fedlab.studies.pace import estimate
from fedlab.studies.schedule import Executor
from fedlab.studies.table import study_table

NAMED = 3  # errors of failed runs that a warning names, at most


class Study:
    """Doses of heterogeneity, each with several methods, partition seeds and seeds.

    A study is written like an experiment in which some fields have a list of values. Axes of the federation (sites,
    quantity, prevalence, presentation, population, acquisition, annotation, geography) are raised one at a time: the
    first value of a list is the base dose, at which an axis stays while another is raised. Every dose is run with each
    method, partition seed and seed. Runs that have no axis raised are shared by all axes.

    With `splits="common"`, the test cases of a site are the same at every dose, so that what a dose costs is measured
    on the same patients.

    Parameters
    ----------
    base : Experiment, optional
        The settings that all runs share; the defaults of `fedlab.Experiment` if left out.
    folder : str or Path, optional
        Where run folders are kept, by default `$FEDLAB_RUNS` or `out/runs`.
    **fields
        Fields of `fedlab.Experiment`. A list of values for an axis, `method`, `seed` or `partition_seed` is varied.

    Attributes
    ----------
    experiments : list of Experiment
        All runs, each once.
    runs : list of Run
        The finished runs.

    Raises
    ------
    ValueError
        If a field or value is impossible, or no axis has several doses.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> folder = tempfile.TemporaryDirectory()
    >>> study = fedlab.Study(base, folder=folder.name, prevalence=[0.0, 0.8], method=["local", "fedavg"])
    >>> study
    Study of prevalence (2 doses), 2 methods, 1 partition seed, 1 seed: 4 runs in 2 federations
    >>> len(study.run())
    4
    >>> study.table().query("site == 'mean of sites' and method == 'fedavg'")[["axis", "dose"]].values.tolist()
    [['prevalence', 0.0], ['prevalence', 0.8]]
    >>> folder.cleanup()
    """

    def __init__(self, base: Experiment | None = None, *, folder: Folder = None, **fields: Any) -> None:
        self.design = Design.of(Experiment() if base is None else base, fields)
        self.folder = folder

    @property
    def experiments(self) -> list[Experiment]:
        return [planned.experiment for planned in self.design.runs]

    @cached_property
    def _targets(self) -> list[Path]:
        """The folder of each run; ValueError where a federation or a model is impossible."""
        found: list[Path] = []
        for _, group in groupby(self.design.runs, PlannedRun.federation):
            planned = list(group)
            try:
                found += planned_folders([one.experiment for one in planned], self.folder)
            except ValueError as error:
                raise ValueError(f"{_words(planned[0])}: {error}") from error
        return found

    def _finished(self) -> list[tuple[PlannedRun, Run]]:
        found = []
        for planned, target in zip(self.design.runs, self._targets, strict=True):
            if target.exists():
                found.append((planned, run_folder.read(target)))
        return found

    @property
    def runs(self) -> list[Run]:
        return [run for _, run in self._finished()]

    def estimate(self, workers: int = 1) -> str:
        """Estimate how long the runs take that are not finished.

        One run of each method is tried with one and with three rounds, in a folder that is removed again.

        Parameters
        ----------
        workers : int, default 1
            Runs at a time, assumed not to slow each other.

        Returns
        -------
        str
            The number of runs and the time, such as "40 runs, about 12 min".
        """
        left = [one.experiment for one in self._pending()]
        return f"{len(left)} runs, about {duration(estimate(left) / workers)}" if left else "no run is left"

    def run(self, *, live: bool | Observer = False, workers: int = 1, client: Executor | None = None) -> list[Run]:
        """Run all experiments that are not finished.

        Everything is validated before the first run starts. An interrupted study resumes when it is run again: finished
        runs are kept, unfinished ones go on after their last round. A run that fails ends no other; it is named in a
        warning and in `status`, and tried again next time.

        Parameters
        ----------
        live : bool or Observer, default False
            True shows a line of progress with the time that is left.
        workers : int, default 1
            Runs at a time, each in its own process with its share of the processor's cores.
        client : Executor, optional
            Runs elsewhere, one task a run: a `dask.distributed.Client` with one thread a worker, or an executor of
            submitit or concurrent.futures, whose workers see the same folder.

        Returns
        -------
        list of Run
            The finished runs.

        Raises
        ------
        ValueError
            If a dose is impossible, a device is not on this machine (without `client`), or `workers` is below 1.

        Warns
        -----
        UserWarning
            If runs failed.
        """
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers={workers!r}: give a number of processes, from 1 up")
        observer, count = find_observer(live), len(self.design.runs)
        announce(observer, f"{count} runs: making their federations")
        with explained(self._kept), each_once():
            if pending := self._pending():
                for device in {one.experiment.device for one in pending} if client is None else ():
                    find_device(device)
                schedule.run_all(pending, workers, client, None if observer is None else observer.tell)
        status = self.status()
        if observer is not None:
            observer.conclude(f"{(status['state'] == 'finished').sum()} of {len(status)} runs finished")
        if failures := _failures(status):
            warn(f"{failures}; see status()")
        for one in (found := self.runs):
            finished(observer, one)
        return found

    def _kept(self) -> str:
        """What there is of the study, in words."""
        count, planned = len(self.design.runs), self.__dict__.get("_targets")  # not again if it was interrupted
        done = "no" if planned is None else sum(target.exists() for target in planned)
        return f"{done} of {count} runs are finished, and all finished rounds are kept in {root_of(self.folder)}"

    def _pending(self) -> list[PendingRun]:
        each = zip(self.experiments, self._targets, strict=True)
        return [PendingRun(experiment, None, target) for experiment, target in each if not target.exists()]

    def status(self) -> pd.DataFrame:
        """What has become of each run.

        Returns
        -------
        pandas.DataFrame
            Columns run (its number in the plan), axis ("base" where no axis is raised), dose, partition_seed, method,
            seed, state ("finished", "failed", "begun" or "waiting"), round (the last that is stored; 0 before the
            first, all of a finished run), and error (of a failed run).
        """
        rows = []
        for number, (planned, target) in enumerate(zip(self.design.runs, self._targets, strict=True)):
            one, error = planned.experiment, schedule.failure(target)
            work = run_folder.unfinished(target)
            state = "finished" if target.exists() else "failed" if error else "begun" if work.exists() else "waiting"
            done = one.rounds if state == "finished" else PendingRun(one, None, target).round
            rows.append((number, planned.axis, planned.dose, *(getattr(one, f) for f in CROSSED), state, done, error))
        return pd.DataFrame(rows, columns=["run", "axis", "dose", *CROSSED, "state", "round", "error"])

    def table(
        self, metric: str | None = None, *, reference: str = "local", choice: str = "best", shift: bool = True
    ) -> pd.DataFrame:
        """What each dose costs: the metric of every method at every dose, with intervals.

        Intervals are two-sided, 95 %, with the patient as the unit. The cost of a dose is the loss against the base
        dose of its axis with the same method; with the same test cases at both doses (`splits="common"`) it is paired.
        With three or more partition seeds intervals are about new partitions, else, with three or more seeds, about new
        seeds; with two there is none.

        Parameters
        ----------
        metric : str, optional
            Name of a metric; by default the headline metric of the runs.
        reference : str, default "local"
            The method to which gains are taken.
        choice : {"best", "last"}, default "best"
            Model of the round that is best on validation cases, or of the last round.
        shift : bool, default True
            Also measure the realised shift of each federation.

        Returns
        -------
        pandas.DataFrame
            A row for each axis, dose and method, for the mean of sites and, with one partition seed, for each site.
            Columns: axis, dose, method, site, metric, value, low, high, interval, support, cases; cost, cost_low,
            cost_high (positive is worse; 0 at the base dose), cost_p, cost_p_holm (adjusted over the doses of all
            axes); versus, gain, gain_low, gain_high (to the reference, positive is better); seeds, partitions (how
            many), varied (what the interval is about), sd_cases, sd_seeds, sd_partitions (standard deviation of the
            value that each contributes); measure, shift, shift_null (realised shift of the axis and its mean under
            random assignment); paired (whether the cost is over the same test cases).

        Raises
        ------
        ValueError
            If no run is finished.
        """
        finished = self._finished()
        if not finished:
            failures = _failures(self.status())
            raise ValueError(f"no run of this study is finished: {failures or 'call run() first'}")
        if left := len(self.design.runs) - len(finished):
            warn(f"{left} of {len(self.design.runs)} runs are not finished and left out of the table: call run()")
        shifts = self._shifts if shift else None
        return study_table(list(self.design.levels()), finished, metric, reference, choice, shifts)

    @cached_property
    def _shifts(self) -> dict[str, Any]:
        """The measured shifts of each federation, by its settings; filled as they are needed."""
        return {}

    def save(self, path: str | Path) -> Path:
        """Write the study as YAML, with one line a field; lists are varied.

        The file is read by `Study.load`, by `papermill -f`, and by `python -m fedlab.studies`.

        Parameters
        ----------
        path : str or Path
            The file to write.

        Returns
        -------
        Path
        """
        target = files.resolve(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        fields = json.loads(json.dumps(self.design.fields()))
        files.write_text(target, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=None))
        return target

    @classmethod
    def load(cls, path: str | Path, *, folder: Folder = None) -> "Study":
        """Read a study from YAML.

        Parameters
        ----------
        path : str or Path
            A file with fields of the experiment, such as `prevalence: [0, 0.5, 1]`.
        folder : str or Path, optional
            Where run folders are kept.

        Returns
        -------
        Study

        Raises
        ------
        ValueError
            If the file is no mapping, or a field or value is impossible.
        """
        return cls(folder=folder, **load_fields(path, "study", "prevalence: [0, 0.5, 1]"))

    def jobs(self, path: str | Path) -> Path:
        """Write a list of commands, one for each run that is not finished, for the job array of a cluster.

        The study itself is written next to it. Line k of the list is the job of array index k.

        Parameters
        ----------
        path : str or Path
            The list to write, such as "jobs.txt".

        Returns
        -------
        Path

        Raises
        ------
        ValueError
            If the study names functions of your own, which only this process knows.
        """
        own = sorted({name for one in self.experiments for _, name in one.user_names()})
        if own:
            raise ValueError(
                f"{', '.join(own)}: defined in this process only, so that no job can run them: use run(workers=...) or"
                " run(client=...)"
            )
        target = files.resolve(path)
        saved = self.save(target.with_suffix(".yaml"))
        folder = self._targets[0].parent
        pending = {one.target for one in self._pending()}
        numbers = [number for number, target_ in enumerate(self._targets) if target_ in pending]
        lines = [f'python -m fedlab.studies "{saved}" --folder "{folder}" --run {number}' for number in numbers]
        files.write_text(target, "".join(f"{line}\n" for line in lines))
        return target

    def __repr__(self) -> str:
        axes = ", ".join(f"{axis} ({len(doses)} doses)" for axis, doses in self.design.doses.items())
        named = {"method": "method", "partition_seed": "partition seed", "seed": "seed"}
        counts = [(len(self.design.crossed[field]), word) for field, word in named.items()]
        crossed = ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in counts)
        federations = len({planned.federation() for planned in self.design.runs})
        return f"Study of {axes}, {crossed}: {len(self.design.runs)} runs in {federations} federations"


def _failures(status: pd.DataFrame) -> str:
    """How many runs failed, and the first with each error; empty if none did."""
    failed = status[status["state"] == "failed"]
    if failed.empty:
        return ""
    shown = []
    for error, runs in list(failed.groupby("error", sort=False))[:NAMED]:
        first = runs.iloc[0]
        dose = "" if pd.isna(first["dose"]) else f" {first['dose']}"
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        shown.append(f"run {first['run']} ({first['method']}, {first['axis']}{dose}){more}: {error}")
    others = failed["error"].nunique() - len(shown)
    return (
        f"{len(failed)} of {len(status)} runs failed: {'; '.join(shown)}{f'; {others} other errors' if others else ''}"
    )


def _words(planned: PlannedRun) -> str:
    """The federation of a planned run, in an error."""
    where = "base doses" if planned.dose is None else f"{planned.axis}={planned.dose!r}"
    return f"{where}, partition seed {planned.experiment.partition_seed}"
