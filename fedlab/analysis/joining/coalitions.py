"""What each site contributes: the federation without it, and Shapley values over all coalitions of sites."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.joining.absent_sites import without
from fedlab.core.rng import stream
from fedlab.core.typing import Floats
from fedlab.evaluation import report_metrics
from fedlab.evaluation.intervals.interval import NONE, Interval, t_quantile
from fedlab.evaluation.intervals.repeats import over_seeds
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.observer import Observer
from fedlab.experiments.run_folder import Run
from fedlab.experiments.runner import grid
from fedlab.learning import mask_metrics
from fedlab.learning.metrics import METRICS, targets
from fedlab.partitioning.partitions import Partition

MOST = 6  # sites of which all coalitions are trained, 2 ** 6 - 1
DRAWS = 400  # resamples of validation patients
Coalition = frozenset[str]
Values = Mapping[Coalition, Any]


def contributions(
    experiment: Experiment,
    *,
    partition: Partition | None = None,
    seed: Sequence[int] = (0, 1, 2),
    metric: str | None = None,
    shapley: bool | None = None,
    choice: str = "last",
    folder: str | Path | None = None,
    live: bool | Observer = False,
    workers: int = 1,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Measure what each site contributes to the shared model.

    Coalitions of sites train together, and the others are held out. Each coalition is judged on the same validation
    cases of all sites with true labels, each site with the same weight. A coalition without sites predicts the shares
    of the classes among all training cases (a mask without any structure in segmentation).

    Parameters
    ----------
    experiment : Experiment
        Of the whole federation, with a method that has one shared model.
    partition : Partition, optional
        The explicit partition; by default the one that the experiment describes.
    seed : sequence of int, default (0, 1, 2)
        Seeds of training.
    metric : str, optional
        What a coalition is worth; the headline metric by default. Losses and errors count negative.
    shapley : bool, optional
        Whether to train all coalitions (2 ** sites - 1 trainings a seed); by default with up to six sites.
    choice : {"last", "best"}, default "last"
        Model of the last round, or of the one that is best on validation cases, which then are no fair judge.
    folder, live, workers
        As for `fedlab.grid`.
    draws : int, default 400
        Resamples of the validation patients of each site.

    Returns
    -------
    pandas.DataFrame
        A row for each site: site, cases (for training), leave_one_out (value of all sites minus that without this
        one) with its 95 % interval low, high; shapley with shapley_low, shapley_high (NaN if not computed); metric,
        seeds, patients (of validation), worth (of all sites together) and nothing (of none). `attrs["values"]` has the
        value of each coalition. Intervals are about new patients and, with three seeds or more, new seeds (none with
        two); they are paired over coalitions.

    Raises
    ------
    ValueError
        If there are fewer than two sites, too many for Shapley values, no shared model, or no validation cases.

    Notes
    -----
    The Shapley value of site k is the mean over all orders of what it adds when it joins: the sum over coalitions S
    without k, of size s, of s! (K - s - 1)! / K! (v(S + k) - v(S)) [1]_. Values of all sites sum to v(all) - v(none).

    References
    ----------
    .. [1] L. S. Shapley, A value for n-person games, 1953.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.contributions(base, seed=[0], metric="brier", folder=folder)
    >>> bool(abs(table["shapley"].sum() - (table["worth"] - table["nothing"])[0]) < 1e-12)
    True
    """
    part = experiment.make_partition() if partition is None else partition
    sites = [site for site in part.sites if site not in part.unseen]
    exact = len(sites) <= MOST if shapley is None else shapley
    if len(sites) < 2 or (exact and len(sites) > MOST):
        raise ValueError(
            f"found {len(sites)} site{'s' * (len(sites) != 1)}: contributions need two, and Shapley values at most"
            f" {MOST}; pass shapley=False for what is lost without each site"
        )
    whole: Coalition = frozenset(sites)
    wanted = list(coalitions(sites)) if exact else [whole, *(whole - {site} for site in sites)]
    runs: dict[Coalition, list[Run]] = {}
    for members in wanted:
        smaller = without(part, sorted(whole - members)) if members != whole else part
        base = experiment.with_(unseen=list(smaller.unseen)) if members != whole else experiment
        given = smaller if members != whole else partition
        runs[members] = grid(base, partition=given, folder=folder, live=live, workers=workers, seed=list(seed))
    judge = _Judge(part, sites, runs, metric, choice, draws)
    values = {members: judge.value(group) for members, group in runs.items()} | {frozenset(): judge.nothing()}
    added = {site: values[whole] - values[whole - {site}] for site in sites}
    each = shapley_values(values, sites) if exact else {}
    rows = []
    for site in sites:
        lost, fair = (_estimate(found.get(site), judge.patients) for found in (added, each))
        rows.append(
            {
                "site": site,
                "cases": int(((part.table["site"] == site) & (part.table["split"] == "train")).sum()),
                "leave_one_out": lost[0],
                "low": lost[1].low,
                "high": lost[1].high,
                "shapley": fair[0],
                "shapley_low": fair[1].low,
                "shapley_high": fair[1].high,
                "metric": judge.metric,
                "seeds": len(seed),
                "patients": judge.patients,
                "worth": float(values[whole][:, 0].mean()),
                "nothing": float(values[frozenset()][:, 0].mean()),
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["values"] = {" + ".join(sorted(who)) or "none": float(v[:, 0].mean()) for who, v in values.items()}
    return table


# -- values of coalitions --------------------------------------------------------------------------------------------


def coalitions(players: Sequence[str]) -> Iterator[Coalition]:
    """All coalitions that have a member.

    Examples
    --------
    >>> from fedlab.analysis.joining.coalitions import coalitions
    >>> [sorted(members) for members in coalitions(["a", "b"])]
    [['a'], ['b'], ['a', 'b']]
    """
    for size in range(1, len(players) + 1):
        yield from map(frozenset, combinations(players, size))


def shapley_values(values: Values, players: Sequence[str]) -> dict[str, Any]:
    """The Shapley value of each player, from the value (number or array) of each coalition and of the empty one.

    Examples
    --------
    >>> from fedlab.analysis.joining.coalitions import shapley_values
    >>> gloves = {"": 0, "L": 0, "R": 0, "S": 0, "LR": 1, "LS": 1, "RS": 0, "LRS": 1}  # one left, two right gloves
    >>> found = shapley_values({frozenset(members): worth for members, worth in gloves.items()}, "LRS")
    >>> {player: round(value, 4) for player, value in found.items()}
    {'L': 0.6667, 'R': 0.1667, 'S': 0.1667}
    """
    n, found = len(players), {}
    weights = [factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)]
    for player in players:
        others: list[Coalition] = [frozenset(), *coalitions([other for other in players if other != player])]
        found[player] = sum(weights[len(who)] * (values[who | {player}] - values[who]) for who in others)
    return found


def _estimate(found: Floats | None, patients: int) -> tuple[float, Interval]:
    """The mean over seeds and its interval, from values (seeds, 1 + draws), the first of all patients."""
    if found is None:
        return float("nan"), NONE
    values, drawn = found[:, 0], found[:, 1:].mean(0)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2 or patients < 2:
        return float(values.mean()), NONE
    mean, half = float(values.mean()), t_quantile(patients - 1) * float(drawn.std(ddof=1))
    return mean, over_seeds(values, Interval(mean - half, mean + half))


class _Judge:
    """The validation cases that all coalitions are judged on, and how often each patient is drawn."""

    def __init__(
        self,
        part: Partition,
        sites: Sequence[str],
        runs: Mapping[Coalition, list[Run]],
        metric: str | None,
        choice: str,
        draws: int,
    ) -> None:
        first = next(iter(runs.values()))[0]
        self.task, self.classes, self.choice = first.task, len(first.classes), choice
        self.metric = metric or first.headline
        report_metrics.check(self.metric, self.task)
        between = report_metrics.higher_is_better(self.metric) is None or bool(report_metrics.find(self.metric))
        if between or (self.task == "segmentation" and self.metric not in ("dice", "iou")):
            usual = "mae or rmse" if self.task == "regression" else "auroc, brier, accuracy or dice"
            raise ValueError(f"metric={self.metric!r} cannot judge coalitions: choose {usual}")
        self.sign = 1.0 if report_metrics.higher_is_better(self.metric) else -1.0
        validation = part.table[(part.table["split"] == "val") & part.table["site"].isin(sites)]
        known = [set(self._shared(run)["case"]) for group in runs.values() for run in group]
        self.cases = validation[validation["case"].isin(set.intersection(*known))].reset_index(drop=True)
        if self.cases.empty:
            raise ValueError(
                "no validation case is predicted by all coalitions: partition with validation cases, and not with"
                " splits='common', where held-out sites have test cases alone"
            )
        self.facts = self._of(first)
        numeric = self.task == "regression"
        self.y = targets(self.facts["target" if numeric else "label"], self.task, self.classes)
        self.columns = [name for name in self.facts if name in self._columns(first)]
        self.training = targets(
            (part.cases.targets if numeric else part.cases.labels)[
                part.rows[(part.table["split"] == "train").to_numpy()]
            ],
            self.task,
            self.classes,
        )
        unit = np.unique(self.facts["unit"].astype(str), return_inverse=True)[1]
        self.patients = len(set(unit))
        self.places = [
            (rows, _resampled(unit[rows], draws, stream(0, "contributions", site)))
            for site in sites
            if len(rows := np.flatnonzero(self.cases["site"] == site)) and self._defined(rows)
        ]
        if not self.places:
            raise ValueError(f"{self.metric} is undefined at every site: choose another metric, such as brier")

    def _shared(self, run: Run) -> pd.DataFrame:
        """The predictions of the shared model for validation cases and for held-out sites."""
        at = run.predictions
        at = at[(at["choice"] == self.choice) & (at["model"] == "global") & at["split"].isin(("val", "unseen"))]
        if at.empty:
            raise ValueError(f"{run.method!r} has no shared model to judge: choose a method such as fedavg")
        return at

    def _of(self, run: Run) -> pd.DataFrame:
        """The predictions of a run in the order of the cases."""
        return self._shared(run).set_index("case").loc[self.cases["case"]].reset_index()

    def _columns(self, run: Run) -> Iterable[str]:
        if self.task == "segmentation":
            return mask_metrics.columns(len(run.structures))
        return ["prediction"] if self.task == "regression" else [f"p{index}" for index in range(self.classes)]

    def _defined(self, rows: np.ndarray) -> bool:
        guess = self.facts[self.columns].to_numpy(np.float64)[rows]
        return bool(np.isfinite(self._measure()(self.y[rows], guess)))

    def _measure(self) -> Callable[..., Any]:
        return METRICS.function(self.metric)

    def value(self, group: Sequence[Run]) -> Floats:
        """The value of a coalition, (seeds, 1 + draws); the first is that of all patients."""
        return np.array([self._value(self._of(run)[self.columns].to_numpy(np.float64)) for run in group])

    def _value(self, p: Floats) -> Floats:
        each = [self._measure()(self.y[rows], p[rows], weights) for rows, weights in self.places]
        return np.asarray(self.sign * np.mean(each, axis=0))

    def nothing(self) -> Floats:
        """The value of no site, (1, 1 + draws)."""
        if self.task == "segmentation":
            empty = self.facts.copy()
            for name in (column for column in self.columns if column.startswith("fn")):
                empty[name] = empty[name] + empty["tp" + name[2:]]
            empty[[name for name in self.columns if not name.startswith("fn")]] = 0.0
            return self._value(empty[self.columns].to_numpy(np.float64))[None]
        if self.task == "regression":
            return self._value(np.full((len(self.cases), 1), self.training.mean()))[None]
        member = self.training if self.training.ndim == 2 else self.training[:, None] == np.arange(self.classes)
        return self._value(np.tile(member.mean(0), (len(self.cases), 1)))[None]


def _resampled(unit: np.ndarray, draws: int, rng: np.random.Generator) -> Floats:
    """How often each case counts, (1 + draws, cases): once, then as often as its patient is drawn."""
    person = np.unique(unit, return_inverse=True)[1]
    patients = int(person.max()) + 1
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), draws)
    return np.concatenate([np.ones((1, len(person))), drawn[:, person].astype(np.float64)])
