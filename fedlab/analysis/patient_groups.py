"""`subgroups`: each method on the test cases of each group of patients, such as sexes, ages or scanners."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import Alignment, align, probabilities
from fedlab.analysis.grouping import by_setting
from fedlab.analysis.scores import Score, TestSet, apart
from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.core.typing import Bools
from fedlab.data import catalogue
from fedlab.data.cases import Cases
from fedlab.data.columns import NUMBERS, is_absent, kind_of
from fedlab.evaluation.intervals.interval import NONE, support
from fedlab.experiments.run_folder import Run

ALL, UNKNOWN = "all", "not known"
LEVELS = 12  # different values of a column up to which each is a group
SHARED = "patients are in several groups: no difference"


class Subgroups(pd.DataFrame):
    """The table of `fedlab.subgroups`: an ordinary DataFrame."""

    @property
    def _constructor(self) -> type["Subgroups"]:
        return Subgroups


def subgroups(
    runs: Sequence[Run],
    column: str,
    cases: Any = None,
    *,
    metric: str | None = None,
    bins: Sequence[float] | None = None,
    by: str | None = None,
    choice: str = "best",
) -> Subgroups:
    """Score each method on the test cases of each group that a column of the dataset makes.

    Test cases of all sites that trained are put together; each is predicted by the model that its site uses. Nothing is
    trained.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation. Seeds of a method are averaged.
    column : str
        A column of the dataset, such as "sex", "age" or "scanner".
    cases : Cases, Partition or pandas.DataFrame, optional
        Where the column is: the dataset, a partition of it, or a table with the columns `case` and `column`. By default
        the dataset of the runs is loaded.
    metric : str, optional
        As for `fedlab.compare`; the runs' own by default.
    bins : sequence of float, optional
        Inner limits of the groups of a column of numbers: [40, 65] makes below 40, from 40 to below 65, and at least
        65. By default a column of more than 12 different numbers is divided at the quartiles of the test cases.
    by : str, optional
        As for `fedlab.compare`.
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round.

    Returns
    -------
    Subgroups
        A row for each method and group, and for "all" and "not known" (no value in the column). Columns: method,
        metric, column, group, cases, patients, rarer (patients of the rarest class that the metric rests on), value
        with its 95 % interval low, high (with the rules of support of `fedlab.compare`: none below 2 patients of a
        class or 10 patients), difference to all other cases whose value is known, difference_low, difference_high, and
        note.

    Raises
    ------
    ValueError
        If there is no such column, the cases are not those of the runs, or `bins` are not ascending numbers.

    Notes
    -----
    Intervals of groups are not adjusted for their number: of 20 groups that do not differ, one is expected to have an
    interval of the difference without 0. The difference is that of independent test sets (MOVER); where patients are in
    several groups there is none.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.subgroups([fedlab.run(base, folder=folder)], "sex")
    >>> table["group"].tolist()
    ['all', 'F', 'M']
    """
    runs = list(runs)
    inside, _ = align(runs, metric, choice, "test", "true")
    values = _values(runs[0], column, cases).reindex(inside.table["case"])
    groups = _groups(values, bins, column)
    patients = inside.table["unit"].to_numpy()
    shared = any(len(np.intersect1d(patients[m], patients[~m & _known(groups)])) for m in _named(groups).values())
    rows = []
    for method, group in by_setting(runs, by).items():
        predicted = {int(run.experiment.seed): probabilities(run, inside) for run in group}
        for name, member in groups.items():
            score, rest = _score(inside, predicted, member), None
            if name in _named(groups) and len(_named(groups)) > 1 and not shared:
                rest = _score(inside, predicted, ~member & _known(groups))
            rows.append({"method": method, **_row(inside, column, name, score, rest, shared)})
    return Subgroups(rows)


def _row(part: Alignment, column: str, name: str, score: Score, rest: Score | None, shared: bool) -> dict[str, Any]:
    value, limits = (float("nan"), NONE) if rest is None else apart(score, rest)
    notes = [support(score.support)] if score.test.of_classes else []
    notes += [SHARED] * (shared and name not in (ALL, UNKNOWN))
    return {
        "metric": part.metric,
        "column": column,
        "group": name,
        "cases": len(score.test.y),
        "patients": score.test.patients,
        "rarer": score.support,
        "value": score.value,
        "low": score.limits.low,
        "high": score.limits.high,
        "difference": value,
        "difference_low": limits.low,
        "difference_high": limits.high,
        "note": "; ".join(filter(None, notes)),
    }


def _score(part: Alignment, predicted: dict[int, list[Any]], member: Bools) -> Score:
    """The score of a method on some of the cases."""
    test = TestSet(part.base, part.y[member], part.table["unit"].to_numpy()[member], len(part.classes))
    return Score(test, {seed: test.score([p[member] for p in models]) for seed, models in predicted.items()})


def _named(groups: dict[str, Bools]) -> dict[str, Bools]:
    return {name: member for name, member in groups.items() if name not in (ALL, UNKNOWN)}


def _known(groups: dict[str, Bools]) -> Bools:
    """The cases that have a value in the column."""
    return np.asarray(~groups[UNKNOWN] if UNKNOWN in groups else np.ones_like(groups[ALL]))


# -- groups ----------------------------------------------------------------------------------------------------------


def _values(run: Run, column: str, cases: Any) -> pd.Series:
    """The column of the dataset, by case."""
    if cases is None:
        cases = _dataset(run)
    table = cases if isinstance(cases, pd.DataFrame) else getattr(cases, "cases", cases).table
    for name in ("case", column):
        if name not in table:
            raise ValueError(f"the cases have no column {name!r}: {nearest(name, map(str, table.columns))}")
    found = pd.Series(table[column].to_numpy(), index=table["case"].to_numpy())
    missing = set(run.partition_table["case"]) - set(found.index)
    if missing or found.index.has_duplicates:
        what = f"{len(missing):,} cases of the runs are missing" if missing else "a case occurs twice"
        raise ValueError(f"{what} in the table of column {column!r}: pass the dataset of the runs as cases=")
    return found


def _dataset(run: Run) -> Cases:
    """The dataset of a run, if it can be loaded and is the one that was used."""
    name = run.experiment.dataset
    try:
        found = catalogue.load(name, run.experiment.target)
    except (ValueError, OSError) as error:
        raise ValueError(f"the dataset {name} cannot be loaded ({error}): pass it as cases=") from error
    if found.fingerprint != run.fingerprints.get("dataset", found.fingerprint):
        raise ValueError(f"the dataset {name} is not the one of the runs: pass that one as cases=")
    return found


def _groups(values: pd.Series, bins: Sequence[float] | None, column: str) -> dict[str, Bools]:
    """Name -> which cases (n,) are in a group: all, then the groups in natural order, then those without a value."""
    missing = values.isna().to_numpy() | np.asarray(is_absent(values))
    numeric = kind_of(values) in NUMBERS
    if bins is not None and not numeric:
        raise ValueError(f"bins={list(bins)}: the column {column!r} holds no numbers, so leave bins out")
    if numeric and (bins is not None or values.nunique() > LEVELS):
        codes, labels = _binned(values, bins)
    else:
        text = values.astype(str).to_numpy(object)
        labels = sorted(set(text[~missing]), key=natural)
        codes = np.array([labels.index(one) if not gone else -1 for one, gone in zip(text, missing, strict=True)])
    found: dict[str, Bools] = {ALL: np.ones(len(values), bool)}
    for k, label in enumerate(labels):
        if (member := (codes == k) & ~missing).any():
            found[f"{label} (value)" if label in (ALL, UNKNOWN) else label] = member
    return found | ({UNKNOWN: missing} if missing.any() else {})


def _binned(values: pd.Series, bins: Sequence[float] | None) -> tuple[Any, list[str]]:
    """The bin of each number, and the name of each bin."""
    numbers = values.to_numpy(np.float64)
    edges = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75])) if bins is None else np.asarray(bins, np.float64)
    if not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(
            f"bins={list(edges)}: give ascending numbers, the inner limits of the groups, such as [40, 65]"
        )
    called = [f"{edge:g}" for edge in edges]
    middle = [f"from {a} to below {b}" for a, b in pairwise(called)]
    return np.digitize(numbers, edges), [f"below {called[0]}", *middle, f"at least {called[-1]}"]
