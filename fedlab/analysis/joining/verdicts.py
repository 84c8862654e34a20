"""The verdict of each site: join, take the model without giving, ensemble, stay local, or cannot tell.

All models are judged on the same test cases of a site, so that gains are paired. Nothing is trained here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import Alignment, align, check_margin, margin_of, probabilities, stored_predictions
from fedlab.analysis.comparison import family, find_reference, score_methods
from fedlab.analysis.grouping import by_setting, check_one_setting, differences
from fedlab.analysis.joining.rule import (
    CANNOT,
    ENSEMBLE,
    FREE,
    JOIN,
    NOTHING,
    PATIENTS,
    RARER,
    STAY,
    Statement,
    decide,
    statement,
)
from fedlab.analysis.scores import Estimate, Gain, Score, TestSet
from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.evaluation import report_metrics
from fedlab.evaluation.evaluate import UNSEEN
from fedlab.evaluation.intervals.decisions import LOSES, SAME, UNKNOWN, holm
from fedlab.evaluation.intervals.interval import t_quantile
from fedlab.evaluation.intervals.repeats import SEEDS
from fedlab.experiments.run_folder import Run

USUAL = {
    "binary": ("auroc", "brier"),
    "segmentation": ("dice",),
    "regression": ("mae",),
}  # metrics in the order in which they may decide
OTHERS = ("brier",)  # of other tasks: errors of differences of their AUROC were never measured
ONE_SIDED = 0.025  # level of "some site gains", after Holm
POWER = 3.3  # standard errors in a margin that show no difference with a power of 80 % (2.9, and room for Student's t)
MEAN_OF_MODELS, WEIGHTED = "ensemble of the local models", "ensemble of the local models, weighted by cases"
NOT_METHODS = ("local", "centralized", "ensemble")
Scores = dict[str, Score]


class Verdict(pd.DataFrame):
    """The table of `fedlab.verdict`: an ordinary DataFrame that prints a sentence for each site."""

    @property
    def _constructor(self) -> type["Verdict"]:
        return Verdict

    def __repr__(self) -> str:
        if not {"sentence", "may_join", "p_holm", "site", "margin"} <= set(self):
            return repr(pd.DataFrame(self))
        return "\n".join([*self["sentence"], *_conclusions(self)])

    def _repr_html_(self) -> str | None:
        shown = [name for name in SHOWN if name in self]
        with pd.option_context("display.html.use_mathjax", False, "display.max_colwidth", None):
            return pd.DataFrame(self)[shown or list(self)].to_html(index=False, float_format="%.3f", na_rep="–")


SHOWN = ["site", "verdict", "patients", "rarer", "metric", "gain", "low", "high", "sentence"]


def verdict(
    runs: Sequence[Run],
    margin: float | None = None,
    metric: str | Sequence[str] | None = None,
    *,
    method: str | None = None,
    choice: str = "best",
) -> Verdict:
    """Say of each site whether it should join, and on what evidence.

    The gain of a model over the local one is taken on the same test patients of the site. It "gains" or "loses" where
    its 95 % interval excludes 0, is "no different" where its 90 % interval lies within the margin, and else "cannot
    tell". In this order:

    * gain without giving (free ride): the federated model that is trained without the site gains over the local one,
      and either the one with the site does not, or it is better by less than the margin (90 % interval);
    * join: the federated model gains, and the ensemble of the local models does not gain over it;
    * ensemble: the ensemble gains over the local model;
    * stay local: the federated model loses (negative transfer), or is no different within the margin;
    * cannot tell: anything else, and always with fewer than 5 patients of the rarer class for an AUROC, or 10 patients
      (2 of a second class) for a mean of scores.

    Parameters
    ----------
    runs : sequence of Run
        Of one federation: `local`, one federated method or more, perhaps `ensemble`; perhaps also the runs of
        `fedlab.leave_one_out`, which show what a site gains without giving. Of several federated methods the one is
        judged that is best on validation cases (mean of sites).
    margin : float, optional
        The largest difference that would not matter, in the unit of the metric, set before the results are seen.
        By default 0.02, and a tenth of the standard deviation of the test cases' targets for an error of a regression.
    metric : str or sequence of str, optional
        A metric, or two: the second one decides where the first one cannot tell. By default AUROC, then the Brier
        score, which is more precise with few cases, for binary tasks; the Brier score for other classification; Dice
        for segmentation; the mean absolute error for regression.
    method : str, optional
        The federated method to judge, or its family.
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round.

    Returns
    -------
    Verdict
        A DataFrame with a row for each site; printed, a sentence for each. Columns:

        site, verdict; sentence: the evidence in words; metric: the one that decided, else the last that has an
        interval.
        cases, patients: of the test set; rarer: patients of its rarest class (NaN in segmentation and regression).
        method, local, federated: the method judged and the values of both models.
        gain, low, high, finding: federated minus local, positive where it is better, with its 95 % interval.
        may_join: whether the lower limit lies above minus the margin (no worse by more than the margin).
        negative_transfer: whether the federated model loses.
        p_value: one-sided, of no gain by any of the metrics (Bonferroni over these); p_holm: adjusted over sites.
        ensemble: the ensemble that was judged, with ensemble_gain, ensemble_low, ensemble_high, ensemble_finding.
        left_out: sites left out in the run without this site, with free_gain, free_low, free_high, free_finding (its
        gain over local) and giving, giving_low, giving_high, giving_finding (what taking part adds to it).
        needed: patients that would show "no different" with a power of about 80 % if there is no difference, where the
        verdict is "cannot tell". margin, seeds, note: on the other metric, and on seeds.

    Raises
    ------
    ValueError
        If there is no local or no federated run, runs are of different federations, or a metric is not defined.

    Notes
    -----
    With one metric, each of "join", "ensemble" and "gain without giving" is wrong in at most 2.5 % of sites where the
    model in question does not gain; with two metrics in at most 5 %. That each site may join needs no correction for
    the number of sites (Berger 1982, Technometrics 24:295); that some site gains needs Holm's. One look only: the rule
    does not hold if test sets grow until it decides. `benchmarks/verdict.py` measures it.

    The ensemble is the mean of probabilities (uniform, or weighted by training cases: the better one on validation
    cases). Without a run of `ensemble` it is made of the predictions of the local run; of masks it cannot be.

    References
    ----------
    .. [1] D. J. Schuirmann, J Pharmacokinet Biopharm 15:657, 1987; H. Finner, K. Strassburger, Ann Stat 30:1194, 2002.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.verdict(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
    >>> table["site"].tolist(), set(table["verdict"]) <= {"join", "ensemble", "stay local", "cannot tell"}
    (['Site A', 'Site B'], True)
    """
    check_margin(margin)
    inside, without = _apart(list(runs))
    names = _metrics(metric, inside[0])
    candidates = _candidates(inside, method)
    judged = _Judged(candidates, without, margin, choice, inside)
    by_metric = [judged.rows(name) for name in names]
    rows = [_joined([found[site] for found in by_metric]) for site in by_metric[0]]
    table = pd.DataFrame(rows)
    table.insert(list(table).index("p_value") + 1, "p_holm", holm(list(table["p_value"])))
    return Verdict(table)


# -- which runs there are --------------------------------------------------------------------------------------------


def _apart(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the federation, and those that leave more sites out, checked to be of the same cases."""
    if not runs:
        raise ValueError("there are no runs to judge: pass the runs of one grid")
    fewest = min((set(run.unseen) for run in runs), key=len)
    inside, without = ([run for run in runs if (set(run.unseen) == fewest) == same] for same in (True, False))
    for run in without:
        if not fewest < set(run.unseen):
            raise ValueError(
                f"runs hold out {sorted(fewest)} and {sorted(run.unseen)}: pass runs of one federation, and those of"
                " fedlab.leave_one_out of the same one"
            )
        check_same_cases(run, inside[0])
    return inside, without


def check_same_cases(run: Run, whole: Run) -> None:
    """Raise ValueError unless a run without some sites has the cases of the whole federation, at the same sites."""
    one, two = (getattr(each, "fingerprints", {}) for each in (run, whole))
    apart = [part for part in {**one, **two} if one.get(part) != two.get(part)]
    pair = whole.partition_table.merge(run.partition_table, on="case", how="left", suffixes=("", "_without"))
    left = pair["site"].isin(set(run.unseen) - set(whole.unseen)).to_numpy(bool)
    tested = (pair["split"] == "test").to_numpy(bool)
    there = pair["site_without"].notna().to_numpy(bool)
    same = (pair["site"] == pair["site_without"]) & (left | (pair["split"] == pair["split_without"]))
    if apart or not (same | ~there).all() or not there[tested].all():
        found = apart or differences(run, whole)
        raise ValueError(
            f"{run.method!r} without {', '.join(sorted(run.unseen))} has other cases than {whole.method!r}"
            f" ({', '.join(map(str, found))}): make such runs with fedlab.leave_one_out of the same experiment and"
            " partition"
        )


def _metrics(metric: str | Sequence[str] | None, run: Run) -> list[str]:
    """The metrics in the order in which they may decide."""
    names = USUAL.get(run.task, OTHERS) if metric is None else [metric] if isinstance(metric, str) else list(metric)
    if not 0 < len(set(names)) == len(names) <= 2:
        raise ValueError(f"metric={metric!r}: name one metric, or two that differ, in the order in which they decide")
    for name in names:
        report_metrics.check(name, run.task)
        if report_metrics.higher_is_better(name) is None:
            usual = "mae" if run.task == "regression" else "auroc, brier or accuracy"
            raise ValueError(f"metric={name!r} is best at some value between: judge by {usual}")
    return list(names)


@dataclass(frozen=True)
class _Candidates:
    """Names of the reference, of federated methods and of ensembles, and the runs of all methods."""

    local: str
    federated: list[str]
    ensembles: list[str]
    methods: Mapping[str, list[Run]]


def _candidates(runs: list[Run], method: str | None) -> _Candidates:
    """Sort the methods of the runs by the part that they play; names in an order that is not that of the runs."""
    methods = by_setting(runs)
    local = find_reference(list(methods), "local")
    if not local:
        raise ValueError(
            f"no run has method 'local', with which {', '.join(methods)} would be compared: run it as well"
        )
    federated = sorted(name for name in methods if family(name) not in NOT_METHODS)
    if method is not None:
        wanted = [name for name in federated if method in (name, family(name))]
        federated = [method] if method in federated else wanted
        if not federated:
            raise ValueError(f"no run has the federated method {method!r}: {nearest(method, methods)}")
    if not federated:
        raise ValueError(f"no federated method among {', '.join(methods)}: run one as well, such as fedavg")
    ensembles = sorted(name for name in methods if family(name) == "ensemble")
    return _Candidates(local, federated, ensembles, methods)


# -- the evidence at each site ---------------------------------------------------------------------------------------


class _Judged:
    """Local, federated and ensemble models, and those trained without a site, judged by any metric."""

    def __init__(
        self, candidates: _Candidates, without: list[Run], margin: float | None, choice: str, runs: list[Run]
    ) -> None:
        self.of, self.margin, self.choice, self.runs = candidates, margin, choice, runs
        self.local = candidates.methods[candidates.local]
        self.ensembles = self._ensembles()
        self.method = self._best({name: self._stored(name) for name in candidates.federated})
        self.ensemble = self._best(self.ensembles)
        self.without = self._left_out(without)

    def _stored(self, name: str) -> Callable[[Alignment], Scores]:
        """The function that scores a method at each site."""
        return lambda alignment: _sites(score_methods({name: self.of.methods[name]}, alignment, alignment)[name])

    def _ensembles(self) -> dict[str, Callable[[Alignment], Scores]]:
        """The functions that score each ensemble; those of the local runs where there is no run of one."""
        if self.of.ensembles:
            return {name: self._stored(name) for name in self.of.ensembles}
        if self.local[0].task == "segmentation" or not all(_try_everywhere(run, self.choice) for run in self.local):
            return {}
        return {
            name: partial(_mean_of_models, self.local, weighted=weighted)
            for name, weighted in ((MEAN_OF_MODELS, False), (WEIGHTED, True))
        }

    def _best(self, models: dict[str, Callable[[Alignment], Scores]]) -> str:
        """The one that is best on validation cases, mean of sites; the first one where that is not known."""
        if len(models) < 2 or not all(_has(run, self.choice, "val") for run in self.runs):
            return next(iter(models), "")
        annotated = all("annotated" in run.predictions for run in self.runs)
        alignment = align(self.runs, None, self.choice, "val", "annotated" if annotated else "true")[0]
        up = report_metrics.higher_is_better(alignment.metric)
        means = {}
        for name, score in models.items():
            known = [found.value for site, found in score(alignment).items() if site in alignment.scored]
            means[name] = (1 if up else -1) * round(float(np.mean(known)), 12) if known else float("nan")
        known_names = [name for name, value in means.items() if np.isfinite(value)]
        return max(known_names, key=lambda name: means[name]) if known_names else next(iter(models))

    def _left_out(self, runs: list[Run]) -> dict[str, list[Run]]:
        """Site -> the runs of the judged method that leave it out, with as few others as possible."""
        found: dict[str, dict[frozenset[str], list[Run]]] = {}
        usual = set(self.runs[0].unseen)
        for run in sorted(runs, key=lambda run: int(run.experiment.seed)):
            if run.method == self.method:
                check_one_setting(run, self.of.methods[self.method][0], argument="")
                for site in set(run.unseen) - usual:
                    found.setdefault(site, {}).setdefault(frozenset(run.unseen), []).append(run)
        return {site: each[min(each, key=lambda out: (len(out), sorted(out)))] for site, each in found.items()}

    def rows(self, metric: str) -> dict[str, dict[str, Any]]:
        """Site -> its row by one metric."""
        alignment = align(self.runs, metric, self.choice, "test", "true")[0]
        local, federated = self._stored(self.of.local)(alignment), self._stored(self.method)(alignment)
        ensemble = self.ensembles[self.ensemble](alignment) if self.ensemble else {}
        return {
            site: self._row(site, alignment, local[site], federated[site], ensemble.get(site))
            for site in alignment.sites
        }

    def _row(
        self, site: str, alignment: Alignment, local: Score, federated: Score, ensemble: Score | None
    ) -> dict[str, Any]:
        """The columns of a site by one metric."""
        group = self.without.get(site, [])
        free = _scored_outside(group, alignment, site) if group else None
        margin = margin_of(alignment, self.margin)
        said = {
            "federated": self._say(margin, federated, local),
            "ensemble": self._say(margin, ensemble, local),
            "over_federated": self._say(margin, ensemble, federated),
            "free": self._say(margin, free, local),
            "giving": self._say(margin, federated, free),
        }
        word = decide(**said, margin=margin)
        gain, test = said["federated"], federated.test
        row = {
            "site": site,
            "verdict": word,
            "sentence": "",
            "metric": alignment.metric,
            "cases": alignment.size(site),
            "patients": federated.patients,
            "rarer": _rarer(test, alignment),
            "method": self.method,
            "local": local.value,
            "federated": federated.value,
            **_columns(gain, "gain", "low", "high", "finding"),
            "may_join": bool(gain.at_95.low > -margin),
            "negative_transfer": gain.says == LOSES,
            "p_value": gain.p_value,
            "ensemble": self.ensemble,
            **_columns(said["ensemble"], "ensemble_gain", "ensemble_low", "ensemble_high", "ensemble_finding"),
            "left_out": ", ".join(sorted(set(group[0].unseen) - set(self.runs[0].unseen), key=natural))
            if group
            else "",
            **_columns(said["free"], "free_gain", "free_low", "free_high", "free_finding"),
            **_columns(said["giving"], "giving", "giving_low", "giving_high", "giving_finding"),
            "needed": _needed(gain, federated.patients, margin) if word == CANNOT else float("nan"),
            "margin": margin,
            "seeds": len(Gain(federated, local).values),
            "note": "",
        }
        return row | {"sentence": _sentence(row)}

    @staticmethod
    def _say(margin: float, first: Score | None, second: Score | None) -> Statement:
        return NOTHING if first is None or second is None else statement(Gain(first, second), margin)


def _sites(scores: Mapping[str, Estimate]) -> Scores:
    return {site: score for site, score in scores.items() if isinstance(score, Score)}


def _has(run: Run, choice: str, split: str) -> bool:
    """Whether a run keeps predictions of a split."""
    return bool(((run.predictions["choice"] == choice) & (run.predictions["split"] == split)).any())


def _try_everywhere(run: Run, choice: str) -> bool:
    """Whether each site's model predicts the cases of every site."""
    pairs = stored_predictions(run, choice, "test")[["model", "site"]].drop_duplicates()
    return len(pairs) == pairs["model"].nunique() * pairs["site"].nunique()


def _mean_of_models(group: list[Run], alignment: Alignment, *, weighted: bool) -> Scores:
    """Score the mean of the probabilities of all local models at each site."""
    predicted: dict[int, np.ndarray] = {}
    for run in group:
        models = sorted(set(stored_predictions(run, alignment.choice, alignment.stored)["model"]), key=natural)
        table = run.partition_table
        counts = table.loc[table["split"] == "train", "site"].value_counts()
        weights = [float(counts.get(model, 0)) if weighted else 1.0 for model in models]
        each = [probabilities(run, alignment, model)[0] for model in models]
        predicted[int(run.experiment.seed)] = np.average(each, axis=0, weights=weights)
    found = {}
    for site in alignment.sites:
        test, rows = alignment.test_set(site), alignment.spans[site]
        found[site] = Score(test, {seed: test.score([p[rows]]) for seed, p in predicted.items()})
    return found


def _scored_outside(group: list[Run], alignment: Alignment, site: str) -> Score:
    """Score the models of runs that leave a site out on its test cases."""
    table = alignment.table.iloc[alignment.spans[site]]
    outside = replace(alignment, table=table.reset_index(drop=True), sites=[site], stored=UNSEEN)
    test = outside.test_set(site)
    return Score(test, {int(run.experiment.seed): test.score(probabilities(run, outside)) for run in group})


def _rarer(test: TestSet, alignment: Alignment) -> float:
    """Patients of the rarest class that the task has and the test set may lack; NaN without classes that exclude one
    another.
    """
    if alignment.segmented or alignment.numeric or test.y.ndim == 2:
        return float("nan")
    return float(min(len(np.unique(test.patient[test.y == label])) for label in range(test.classes)))


def _columns(said: Statement, gain: str, low: str, high: str, finding: str) -> dict[str, Any]:
    word = said.says if said.known else ""
    return {gain: said.value, low: said.at_95.low, high: said.at_95.high, finding: word}


def _needed(gain: Statement, patients: int, margin: float) -> float:
    """Patients that would show no difference, rounded up to two digits; NaN where it is not for lack of patients."""
    if not gain.known or patients < 2:
        return float("nan")
    error = gain.at_95.width / 2 / t_quantile(patients - 1)
    wanted = patients * (POWER * error / margin) ** 2
    if wanted <= patients:
        return float("nan")
    digit = 10.0 ** max(0, int(np.log10(wanted)) - 1)
    return float(np.ceil(wanted / digit) * digit)


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of a site: by the first metric that decides, else by the last one that has an interval."""
    known = [row for row in rows if np.isfinite(row["low"])]
    row = next((row for row in rows if row["verdict"] != CANNOT), known[-1] if known else rows[0])
    notes = [_other(other) for other in rows if other is not row]
    if row["seeds"] == 0:
        notes.append(f"{row['method']} and local have no seed in common")
    elif 1 < row["seeds"] < SEEDS:
        notes.append(f"{row['seeds']} seeds have no interval: run one, or {SEEDS} or more")
    p_values = [other["p_value"] for other in rows if np.isfinite(other["p_value"])]
    smallest = min(1.0, len(rows) * min(p_values)) if p_values else float("nan")
    return row | {"p_value": smallest, "note": "; ".join(notes)}


# -- in words --------------------------------------------------------------------------------------------------------


def _other(row: dict[str, Any]) -> str:
    """What another metric says of the gain."""
    label = report_metrics.metric_label(row["metric"])
    if not np.isfinite(row["low"]):
        return f"{label}: too few cases"
    calibrate = ": recalibrate before use" if row["finding"] == LOSES and row["metric"] == "brier" else ""
    return f"{label}: {row['finding']} ({_span(row, '')}){calibrate}"


def _sentence(row: dict[str, Any]) -> str:
    """A sentence on a site."""
    return f"{row['site']}: {row['verdict']}. {REASONS[row['verdict']](row)}."


def _span(row: dict[str, Any], prefix: str) -> str:
    return f"{_signed(row[prefix + 'low'])} to {_signed(row[prefix + 'high'])}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _cases(row: dict[str, Any]) -> str:
    """The counts behind a verdict."""
    patients = f"{row['patients']} test patient{'s' * (row['patients'] != 1)}"
    return patients if np.isnan(row["rarer"]) else f"{patients}, {row['rarer']:.0f} of the rarer class"


def _evidence(row: dict[str, Any], gain: str = "gain", prefix: str = "") -> str:
    """A gain with its interval, and the counts behind it."""
    label = report_metrics.metric_label(row["metric"])
    return f"{_signed(row[gain])} {label}, 95 % CI {_span(row, prefix)}; {_cases(row)}"


def _joining(row: dict[str, Any]) -> str:
    return f"{row['method']} gains over the local model ({_evidence(row)})"


def _riding(row: dict[str, Any]) -> str:
    evidence = _evidence(row, "free_gain", "free_")
    text = f"{row['method']} trained without {row['left_out']} gains over the local model ({evidence})"
    if np.isfinite(row["giving_low"]):
        text += f"; taking part adds {_signed(row['giving'])} ({_span(row, 'giving_')})"
    return text


def _ensembling(row: dict[str, Any]) -> str:
    evidence = _evidence(row, "ensemble_gain", "ensemble_")
    return (
        f"The {row['ensemble']} gains over the local model ({evidence}); {row['method']}: {row['finding'] or UNKNOWN}"
    )


def _staying(row: dict[str, Any]) -> str:
    if row["finding"] == SAME:
        within = f"within a margin of {row['margin']:g}"
        return f"{row['method']} is no different from the local model {within} ({_evidence(row)})"
    return f"{row['method']} loses to the local model: negative transfer ({_evidence(row)})"


def _not_telling(row: dict[str, Any]) -> str:
    if not np.isfinite(row["low"]):
        if 1 < row["seeds"] < SEEDS:
            return f"{row['seeds']} seeds have no interval: run one, or {SEEDS} or more"
        least = f"{RARER} of the rarer class" if row["metric"] == "auroc" else f"{PATIENTS} patients, both classes"
        least = f"{PATIENTS} patients" if np.isnan(row["rarer"]) else least
        return f"Too few cases: {_cases(row)}; {report_metrics.metric_label(row['metric'])} needs {least} at least"
    more = "the gain lies near the margin"
    if np.isfinite(row["needed"]):
        more = f"about {row['needed']:,.0f} test patients would decide"
    width = f"an interval {row['high'] - row['low']:.3f} wide"
    return f"The gain of {row['method']} over the local model is uncertain ({_evidence(row)}), {width}; {more}"


REASONS: dict[str, Callable[[dict[str, Any]], str]] = {
    JOIN: _joining, FREE: _riding, ENSEMBLE: _ensembling, STAY: _staying, CANNOT: _not_telling
}  # fmt: skip


def _conclusions(table: pd.DataFrame) -> list[str]:
    """What is said of all sites together."""
    gaining = list(table.loc[table["p_holm"] < ONE_SIDED, "site"])
    lines = []
    if len(table) > 1 and table["may_join"].all():
        lines.append(f"Every site may join: each lower limit lies above −{table['margin'].iloc[0]:g}.")
    if len(table) > 1:
        some = f"Some site gains (Holm over {len(table)} sites): {', '.join(gaining)}."
        lines.append(some if gaining else f"After Holm over {len(table)} sites none is shown to gain.")
    return lines
