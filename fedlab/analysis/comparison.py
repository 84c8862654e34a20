"""Compare methods at every site from the stored predictions of their runs; nothing is trained here.

All methods are scored on the same cases, so that differences to the reference are paired. Several seeds of one method
are averaged; intervals are then about new seeds and new cases.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import (
    HELD_OUT,
    MEAN,
    POOLED,
    WORST,
    Alignment,
    align,
    check_margin,
    check_stored,
    margin_of,
    probabilities,
    stored_predictions,
)
from fedlab.analysis.grouping import by_setting
from fedlab.analysis.scores import SHARES, UNCERTAIN, Estimate, Gain, MeanOfSites, Score, apart
from fedlab.analysis.thresholds import Disagreement, disagreement
from fedlab.analysis.usage import NO_USE, resource_use, rounds_trained, unequal_budgets
from fedlab.core.registry import choose, nearest
from fedlab.core.summary import Summary, listed, named, plural
from fedlab.core.warnings import ProtocolWarning, warn
from fedlab.evaluation import report_metrics
from fedlab.evaluation.evaluate import CROSS_SITES, LIMITED
from fedlab.evaluation.intervals.calibration import ENOUGH, tail_probability
from fedlab.evaluation.intervals.decisions import finding, holm
from fedlab.evaluation.intervals.interval import NONE, Interval, support
from fedlab.evaluation.intervals.repeats import SEEDS
from fedlab.experiments.run_folder import Run
from fedlab.federation import ALL
from fedlab.learning import mask_metrics

__all__ = ["MEAN", "POOLED", "WORST", "Comparison", "compare", "family", "transfer"]


class Comparison(pd.DataFrame):
    """The table of `fedlab.compare`: an ordinary DataFrame that prints its main columns in words."""

    @property
    def _constructor(self) -> type["Comparison"]:
        return Comparison

    def matrix(self) -> pd.DataFrame:
        """Methods x sites, each cell "0.87 (0.84 to 0.90)", or a dash where the metric is undefined.

        Returns
        -------
        pandas.DataFrame
            Methods and sites in the order of the table. Of several metrics the rows are metric and method.

        Examples
        --------
        >>> import tempfile
        >>> import fedlab
        >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = fedlab.compare(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
        >>> table.matrix().index.tolist()
        ['local', 'fedavg']
        >>> table.matrix().columns.tolist()
        ['Site A', 'Site B', 'pooled', 'mean of sites', 'worst site']
        """
        wide = pd.DataFrame(self).assign(text=_interval_texts(self, "value", "low", "high"))
        rows = ["metric", "method"] if "metric" in self and self["metric"].nunique() > 1 else ["method"]
        order = wide[rows].drop_duplicates()
        wide = wide.pivot(index=rows, columns="site", values="text")
        index = pd.MultiIndex.from_frame(order) if len(rows) > 1 else pd.Index(order["method"])
        return wide.loc[index, self["site"].unique()].rename_axis(index=[None] * len(rows), columns=None)

    def _readable(self) -> pd.DataFrame:
        """The columns to print; all columns of a table that has lost some of them."""
        frame = pd.DataFrame(self)
        if not {"method", "site", "cases", "metric", *VALUE, *DIFFERENCE, "versus", "note"} <= set(frame):
            return frame
        several = frame["metric"].nunique() > 1
        shown = frame[["metric"] * several + ["method", "site", "cases"]].copy()
        shown["value" if several else ", ".join(frame["metric"].unique())] = _interval_texts(frame, *VALUE)
        if versus := ", ".join(filter(None, frame["versus"].unique())):
            shown[f"difference to {versus}"] = _interval_texts(frame, *DIFFERENCE)
        return shown.assign(note=frame["note"])

    def __repr__(self) -> str:
        with pd.option_context("display.max_columns", None, "display.width", 160):
            return repr(self._readable())

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.html.use_mathjax", False):  # names with "$" are no formulas
            table = self._readable()._repr_html_()  # type: ignore[operator]
        if len(self) <= FEW or not {"method", "site", "metric", "versus", "finding"} <= set(self):
            return str(table)
        rows = f"<details><summary>all {len(self):,} rows</summary>{table}</details>"
        return self._summary().html() + rows

    def _summary(self) -> Summary:
        """What is compared, and what is found at how many sites."""
        frame = pd.DataFrame(self)
        sites = frame.loc[~frame["site"].isin([MEAN, POOLED, WORST]), ["method", "site", "finding"]]
        methods, metrics = list(frame["method"].unique()), listed(frame["metric"].unique())
        facts = {"reference": named(", ".join(frame["versus"].unique()))}
        for method, rows in sites.groupby("method", sort=False) if frame["metric"].nunique() == 1 else ():
            counts = rows["finding"].replace("", None).dropna().value_counts()
            facts[named(method)] = ", ".join(f"{word} at {count}" for word, count in counts.items())
        title = (
            f"Comparison of {plural(len(methods), 'method')} at {plural(sites['site'].nunique(), 'site')}: {metrics}"
        )
        calls = ("table.matrix()", "fedlab.plots.differences(table)", "fedlab.conclusions(table)")
        return Summary(title, facts, calls)


FEW = 12  # rows that are shown without a summary
EACH = "[*]"  # after the name of a metric of masks: that of each structure
VALUE = ("value", "low", "high")
DIFFERENCE = ("difference", "difference_low", "difference_high")


def _interval_texts(frame: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    """Numbers and their intervals as text; what is undefined is left out, a dash if all is."""
    return [_interval_text(*row) for row in frame[[value, low, high]].to_numpy(np.float64)]


def _interval_text(value: float, low: float, high: float) -> str:
    limits = "" if np.isnan(low) else f"{low:.2f} to {high:.2f}"
    if np.isfinite(value):
        return f"{value:.2f} ({limits})" if limits else f"{value:.2f}"
    return limits or "–"


def compare(
    runs: Sequence[Run],
    metric: str | Sequence[str] | None = None,
    *,
    reference: str = "local",
    choice: str = "best",
    split: str = "test",
    labels: str = "true",
    by: str | None = None,
    use: str = "own",
    unseen: str = "average",
    margin: float | None = None,
    draws: int | None = None,
) -> Comparison:
    """Compare methods at every site, with intervals and paired differences.

    Intervals are two-sided, 95 %, with the patient as the unit; the column `interval` names the method. With several
    seeds they are about new seeds and new cases (three seeds or more; none with two).

    Parameters
    ----------
    runs : sequence of Run
        Runs of one federation, at most one for each method and seed.
    metric : str or sequence of str, optional
        Name of a metric, or several, each a block of rows; by default the headline metric of the runs. Besides those of
        `fedlab.learning.metrics`, for binary tasks: "sensitivity" and "specificity" (of the decision p > 0.5),
        "calibration_slope" (1 is best, below it probabilities are too extreme), "calibration_intercept" (0 is best,
        above it they are too low) and "squared_calibration_error" (unbiased, so that it may be below 0). In
        segmentation "dice[core]" is the Dice of the structure "core", and "dice[*]" that of each structure.
    reference : str, default "local"
        Method (or its family) to which differences are taken: "local" gives the benefit of federation,
        "centralized" the gap that remains. Differences are NaN where no run has it.
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round.
    split : {"test", "val"}, default "test"
        Cases to compare on.
    labels : {"true", "annotated"}, default "true"
        True labels, or those that the readers of each site wrote.
    by : str, optional
        A field of the experiment in which runs of one method differ; it becomes part of the method's name, as in
        "fedavg (normalisation=site)".
    use : {"own", "global"}, default "own"
        The model that each site uses, or the shared model also where sites have their own. Local (private) parameters
        are those of the site in both cases. Methods without a shared model say so in their notes.
    unseen : {"average", "estimate"}, default "average"
        What held-out sites use where models have local parameters: their mean over sites, or the shared model with
        batch norm adapted to the unlabelled images of the held-out site.
    margin : float, optional
        The largest difference that would not matter, in the unit of the metric, set before the results are seen: a
        method is "no different" from the reference where the 90 % interval of its difference lies within the margin.
        By default 0.02, and a tenth of the standard deviation of the test cases' targets for an error of a regression.
    draws : int, optional
        Without effect, and refused in a later version: nothing is resampled any more.

    Returns
    -------
    Comparison
        A DataFrame with a row for each metric, method and site, and for each method three summaries: "pooled" (micro,
        all cases), "mean of sites" (macro-average) and "worst site". Columns: method, site, cases, metric, value, low,
        high, interval, varied, support, versus, difference, difference_low, difference_high, p_value, p_holm, finding,
        seeds, note; megabytes, messages, steps, samples (in training, mean over seeds; of all sites in the summaries),
        rounds (trained, mean over seeds), and classes (that the cases have: a metric that is a mean over classes is the
        mean over these; of several sites the fewest).
        varied: what the interval is about, "test cases" or "test cases, 3 seeds"; empty where there is none.
        support: patients of the rarest class, or all patients for a metric that is no mean over classes; of the class
        for sensitivity and specificity. Below 2 there is no interval, below 5 it is marked "uninformative", below 10
        "low support".
        finding: "gains", "loses", "no different" (within the margin) or "cannot tell". p_value: of no difference;
        p_holm: adjusted for all methods and sites, for all methods in a summary (Holm), within each metric.
        The worst site has an interval but no value, since the worst observed value is biased.
        Differences are over the seeds that a method shares with the reference; the note says where these are not all.
        A held-out site is a row "unseen: Site D", in no summary; then columns gap, gap_low, gap_high hold the
        generalization gap, mean of sites minus held-out site. A site whose labels leave the metric undefined is NaN and
        left out of mean and worst.

    Raises
    ------
    ValueError
        If the runs have different cases, pixels, sites, splits, scanners or readers, runs of one method differ in
        anything but their seed, or a metric is not defined for their task.

    Warns
    -----
    ProtocolWarning
        If methods were trained with unequal budgets, or lack seeds of the reference, if a model ranks the cases of a
        site well and yet decides badly, so that threshold or calibration is wrong, or if masks of a method hardly
        overlap the true ones.

    References
    ----------
    .. [1] R. G. Newcombe, Stat Med 25:559, 2006 (AUROC); N. A. Obuchowski, Biometrics 53:567, 1997 (several images of a
       patient); G. Y. Zou, A. Donner, Stat Med 27:1693, 2008 (differences); S. Holm, Scand J Stat 6:65, 1979.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"])
    ...     table = fedlab.compare(runs)
    >>> table["site"].unique().tolist()
    ['Site A', 'Site B', 'pooled', 'mean of sites', 'worst site']
    >>> table["interval"].unique().tolist()
    ['Newcombe', 'sum of variances', 'limits of sites']
    """
    choose("use", use, ("own", "global"))
    choose("unseen", unseen, ("average", "estimate"))
    check_margin(margin)
    if draws is not None:
        warn("compare(draws=...) has no effect: intervals are no longer drawn by a bootstrap", DeprecationWarning)
    names = _names(metric, runs)
    (inside, outside), methods = align(runs, names[0], choice, split, labels), by_setting(runs, by)
    for name in names[1:]:
        report_metrics.check(name or inside.metric, inside.task, inside.classes)
        check_stored(runs, name or inside.metric)
    versus = find_reference(list(methods), reference)
    remarks = _remarks_on_methods(methods, versus, by)
    for method, group in methods.items():
        if use == "global" and not _has_shared_model(group, inside):
            remarks[method].insert(0, NOT_SHARED)
    used = {method: resource_use(group) for method, group in methods.items()}
    trained = {method: float(np.mean([rounds_trained(run) for run in group])) for method, group in methods.items()}
    blocks: list[pd.DataFrame] = []
    wrong: dict[tuple[str, str], Disagreement] = {}
    for name in names:
        inside, outside = (replace(part, metric=name or part.metric) for part in (inside, outside))
        scores, rows = score_methods(methods, inside, outside, use, unseen), []
        wrong = wrong if blocks else _disagreements(scores)
        if inside.metric == "dice":
            _warn_of_empty_masks(scores)
        for method, site, row in _scored_rows(scores, versus, inside, outside, margin_of(inside, margin)):
            said = [row["note"], str(wrong.get((method, site), "")), *remarks[method]]
            row |= {"seeds": len(methods[method]), "note": "; ".join(filter(None, said))}
            row |= used[method].get(site, NO_USE if site in {*inside.sites, *outside.sites} else used[method][ALL])
            row |= {"rounds": trained[method], "classes": (outside if site in outside.sites else inside).present(site)}
            if outside.sites:
                row |= _gap(scores[method][MEAN], scores[method][site] if site in outside.sites else None)
            rows.append(row)
        blocks.append(_with_holm(pd.DataFrame(rows)))
    return Comparison(pd.concat(blocks, ignore_index=True))


def _scored_rows(
    scores: dict[str, dict[str, Estimate]], versus: str, inside: Alignment, outside: Alignment, margin: float
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (method, site, columns) of one metric: scores, differences to the reference, and notes on both."""
    for method, places in scores.items():
        notes = _notes(places, inside, outside)
        over_reference = gains(places, scores[versus]) if versus else {}
        for site, score in places.items():
            alignment = outside if site in outside.sites else inside
            row: dict[str, Any] = {"method": method, "site": site, "cases": alignment.size(site)}
            row["metric"] = alignment.metric
            row |= _value(score, site, alignment) | {"versus": versus}
            row |= _difference(over_reference.get(site), alignment.metric, margin, method == versus)
            yield method, site, row | {"seeds": 0, "note": "; ".join(filter(None, notes[site]))}


NOT_SHARED = "own models, none is shared"
NAMED = 4  # methods that a warning names, at most
VERDICT = 5  # patients of the rarest class below which a difference has no verdict
FOUND = 0.1  # mean Dice below which a method has hardly found anything
NO_EVENTS = pd.DataFrame(columns=["event"])


def transfer(runs: Sequence[Run], metric: str | None = None, choice: str = "best", split: str = "test") -> pd.DataFrame:
    """Test the model of each site, and the shared model of each method, at every site (cross-site generalization).

    Parameters
    ----------
    runs : sequence of Run
        Runs of one dataset and partition.
    metric : str, optional
        Name of a metric; by default the headline metric of the runs.
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round.
    split : {"test", "val"}, default "test"
        Cases to test on.

    Returns
    -------
    pandas.DataFrame
        Columns trained_at, tested_on, metric, value, low, high, cases. First the models of sites, from the local run
        or else from the first method that has them, then a block of rows for each method with a shared model.
        Held-out sites are rows "unseen: Site D".
    """
    (inside, outside), methods = align(runs, metric, choice, split, "true"), by_setting(runs)
    owned = [name for name, group in methods.items() if all(_has_site_models(run, inside) for run in group)]
    local = find_reference(list(methods), "local") or next(iter(owned), "")
    models = [(site, site, methods[local]) for site in inside.sites if local]
    models += [(method, "global", group) for method, group in methods.items() if family(method) != "local"]
    rows = []
    for trained_at, model, group in models:
        _check_cross_site(group, model)
        if all(model in set(stored_predictions(run, choice, split)["model"]) for run in group):
            for alignment in (inside, outside):
                for site, score in _score_sites(group, alignment, alignment.sites, model).items():
                    row: dict[str, Any] = {"trained_at": trained_at, "tested_on": site, "metric": alignment.metric}
                    row |= _ends(score) | {"cases": alignment.size(site)}
                    rows.append(row)
    return pd.DataFrame(rows, columns=["trained_at", "tested_on", "metric", "value", "low", "high", "cases"])


def _check_cross_site(group: list[Run], model: str) -> None:
    """Raise ValueError for the own model of a site in a run that keeps predictions of own cases only."""
    limited = [run for run in group if LIMITED in set(getattr(run, "events", NO_EVENTS)["event"])]
    if limited and model != "global":
        raise ValueError(
            f"{limited[0].method!r} has more than {CROSS_SITES} sites, so that each site's model predicts the cases of"
            f" its own site only: draw cross-site generalization of at most {CROSS_SITES} sites, or compare methods at"
            " every site"
        )


def _has_shared_model(group: list[Run], alignment: Alignment) -> bool:
    """Whether a method ends with one model for all sites."""
    found = (stored_predictions(run, alignment.choice, alignment.stored) for run in group)
    return all("global" in set(predictions["model"]) for predictions in found)


def _has_site_models(run: Run, alignment: Alignment) -> bool:
    """Whether every site has its own model."""
    return set(alignment.sites) <= set(stored_predictions(run, alignment.choice, alignment.stored)["model"])


def family(method: str) -> str:
    """The method without its arguments: "fedprox" of "fedprox(mu=0.01)"."""
    return method.split("(")[0].strip()


def score_methods(
    methods: dict[str, list[Run]], inside: Alignment, outside: Alignment, use: str = "own", unseen: str = "average"
) -> dict[str, dict[str, Estimate]]:
    """Score each method, a list of runs that differ in their seed, at each site and in the summaries of sites."""
    return {method: _scores(group, inside, outside, use, unseen) for method, group in methods.items()}


def _scores(group: list[Run], inside: Alignment, outside: Alignment, use: str, unseen: str) -> dict[str, Estimate]:
    """Score a method at each site, in the summaries of sites, and at each held-out site."""
    model = "global" if use == "global" and _has_shared_model(group, inside) else None
    scores: dict[str, Estimate] = dict(_score_sites(group, inside, [*inside.sites, POOLED], model))
    mean = MeanOfSites([scores[site] for site in inside.scored])
    scores |= {MEAN: mean, WORST: mean}
    return scores | _score_sites(group, outside, outside.sites, external=unseen)


def _score_sites(
    group: list[Run], alignment: Alignment, places: list[str], model: str | None = None, external: str = "average"
) -> dict[str, Score]:
    """Score a method at sites or on the pool, with the model used there or the one named."""
    predicted = [probabilities(run, alignment, model, external) for run in group] if places else []
    seeds = [int(run.experiment.seed) for run in group]
    found = {}
    for place in places:
        test, rows = alignment.test_set(place), alignment.spans[place]
        each = [test.score([p[rows] for p in models]) for models in predicted]
        found[place] = Score(test, dict(zip(seeds, each, strict=True)))
    return found


def gains(places: dict[str, Estimate], reference: dict[str, Estimate]) -> dict[str, Estimate]:
    """The paired difference to the reference at each site and in the mean, over the seeds that both methods have."""
    found: dict[str, Estimate] = {
        site: Gain(score, other)
        for site, score in places.items()
        if isinstance(score, Score) and isinstance(other := reference[site], Score)
    }
    mean = places[MEAN]
    scored = [site for site, score in places.items() if isinstance(mean, MeanOfSites) and score in mean.sites]
    return found | {MEAN: MeanOfSites([found[site] for site in scored])}


def _value(score: Estimate, site: str, alignment: Alignment) -> dict[str, Any]:
    """The columns of a score: value, low, high, interval, support."""
    if site == WORST and isinstance(score, MeanOfSites):
        up, value, name = report_metrics.higher_is_better(alignment.metric), float("nan"), "limits of sites"
        limits = NONE if up is None else score.worst(up)
    else:
        limits, value, name = score.limits, score.value, score.method
    has_limits = not np.isnan(limits.low)
    found = {"value": value, "low": limits.low, "high": limits.high, "interval": name if has_limits else ""}
    return found | {"varied": _varied(score) if has_limits else "", "support": _support(score)}


def _varied(score: Estimate) -> str:
    """What an interval is about."""
    seeds = len(score.values)
    return "test cases" + (f", {seeds} seeds" if seeds > 1 else "")


def _support(score: Estimate) -> int:
    """Patients behind a score; of several sites the fewest."""
    if isinstance(score, MeanOfSites):
        return min((_support(site) for site in score.sites), default=0)
    return score.support if isinstance(score, Score) else 0


def _difference(gain: Estimate | None, metric: str, margin: float, itself: bool) -> dict[str, Any]:
    """The columns of a difference to the reference."""
    limits, value, p_value, said = NONE, float("nan"), float("nan"), ""
    up = report_metrics.higher_is_better(metric)
    if gain is not None and itself:
        limits, value = (Interval(0.0, 0.0), 0.0) if np.isfinite(gain.value) else (NONE, float("nan"))
    elif gain is not None:
        limits, value, p_value = gain.limits, gain.value, gain.p_value
        said = "" if up is None else _finding(gain, up, margin)
    names = ("difference", "difference_low", "difference_high", "p_value", "finding")
    return dict(zip(names, (value, *limits, p_value, said), strict=True))


def _finding(gain: Estimate, higher_is_better: bool, margin: float) -> str:
    """What can be said of a difference; nothing where too few patients support it."""
    if isinstance(gain, Gain) and gain.test.of_classes and gain.test.support < VERDICT:
        return "cannot tell" if np.isfinite(gain.limits.low) else ""
    sided = [
        limit if higher_is_better else Interval(-limit.high, -limit.low) for limit in (gain.limits, gain.interval(0.9))
    ]
    return finding(sided[0], sided[1], margin)


def _gap(mean: Estimate, score: Estimate | None) -> dict[str, float]:
    """The columns of the generalization gap: mean of sites minus held-out site."""
    value, limits = apart(mean, score) if score is not None else (float("nan"), NONE)
    return {"gap": value, "gap_low": limits.low, "gap_high": limits.high}


def _with_holm(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the column p_holm, adjusted over all methods and sites, and over all methods in each summary."""
    kind = np.where(frame["site"].str.startswith(HELD_OUT), HELD_OUT, "sites")
    family_of = frame["site"].where(frame["site"].isin([POOLED, MEAN, WORST]), kind)
    adjusted = frame["p_value"].groupby(family_of).transform(lambda p: holm(list(p)))
    frame.insert(list(frame.columns).index("p_value") + 1, "p_holm", adjusted)
    return frame


def _disagreements(scores: dict[str, dict[str, Estimate]]) -> dict[tuple[str, str], Disagreement]:
    """Where methods rank cases well and decide badly, by method and site; warns of it."""
    found = {
        (method, site): wrong
        for method, places in scores.items()
        for site, score in places.items()
        if isinstance(score, Score) and (wrong := disagreement(score))
    }
    named = []
    for method in dict.fromkeys(method for method, _ in found):
        shown = [
            f"{site} ({wrong.brief})" for (name, site), wrong in found.items() if name == method and site != POOLED
        ]
        named.append(
            f"{method!r} " + (f"at {_some(shown)}" if shown else f"over all cases ({found[method, POOLED].brief})")
        )
    if named:
        each = (scores[method][site] for method, site in found)
        two = all(score.test.classes == 2 for score in each if isinstance(score, Score))
        binary = "; compare calibration_intercept and calibration_slope, or choose the threshold on validation cases"
        warn(
            f"good ranking, bad decisions: {_some(named, '; ')}. Look at batch norm statistics and at the prevalence of"
            f" the training cases{binary * two}; the notes say what other decisions would gain",
            ProtocolWarning,
        )
    return found


def _warn_of_empty_masks(scores: dict[str, dict[str, Estimate]]) -> None:
    """Warn of methods that find next to nothing, as networks that segment do after little training without Adam."""
    means = {method: places[MEAN].value for method, places in scores.items()}
    if named := [f"{method!r} ({value:.3f})" for method, value in means.items() if value < FOUND]:
        warn(
            f"the mean Dice of {_some(named)} is below {FOUND}, which is hardly any overlap: more rounds, or"
            " optimizer='adam' with lr=0.003, may be needed before methods can be compared",
            ProtocolWarning,
        )


def _names(metric: str | Sequence[str] | None, runs: Sequence[Run]) -> list[str | None]:
    """The metrics to compare; None is the headline metric. "dice[*]" names that of each structure."""
    if metric is None:
        return [None]
    structures = list(runs[0].structures[1:]) if len(runs) and runs[0].task == "segmentation" else []
    names = []
    for name in [metric] if isinstance(metric, str) else list(metric):
        each = structures if str(name).endswith(EACH) else []
        names += [f"{name.removesuffix(EACH)}[{structure}]" for structure in each] or [name]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"metric={names!r}: name one metric or more, each once")
    return [*names]


def _shared_seeds(methods: dict[str, list[Run]], method: str, versus: str) -> set[int]:
    """Seeds that a method and the reference have; empty without a reference."""
    if not versus:
        return set()
    one, two = ({int(run.experiment.seed) for run in methods[name]} for name in (method, versus))
    return one & two


def _remarks_on_methods(methods: dict[str, list[Run]], versus: str, by: str | None) -> dict[str, list[str]]:
    """Notes on a method that hold at every site: unequal budgets, and seeds that it does not share; warns of both."""
    budgets = unequal_budgets(methods, by)
    notes: dict[str, list[str]] = {method: [] for method in methods}
    for method, parts in budgets.items():
        notes[method].append("budget: " + ", ".join(f"{part}={text or 'none'}" for part, text in parts.items()))
    if budgets:
        shown = [f"{method!r} {notes[method][0].removeprefix('budget: ')}" for method in methods]
        warn(
            f"methods were trained with unequal budgets ({_some(shown)}), which their differences include: train them"
            " with the same rounds and local work to compare the methods alone",
            ProtocolWarning,
        )
    partly = []
    for method, group in methods.items() if versus else ():
        shared = len(_shared_seeds(methods, method, versus))
        if shared < max(len(group), len(methods[versus])):
            partly.append(method)
            seeds = f"the {shared} seed{'s' * (shared != 1)} that {versus!r} shares"
            notes[method].append(f"difference over {seeds}" if shared else f"no seed in common with {versus!r}")
    if partly:
        warn(
            f"paired differences to {versus!r} need shared seeds, so that those of {_some(map(repr, partly))} are over"
            " the seeds that both have (NaN if there is none): run all methods with the same seeds",
            ProtocolWarning,
        )
    return notes


def _some(names: Iterable[str], comma: str = ", ") -> str:
    """Names in a sentence, the first few of many."""
    each = list(names)
    return comma.join(each[:NAMED]) + (f" and {len(each) - NAMED} more" if len(each) > NAMED else "")


def _ends(score: Estimate) -> dict[str, float]:
    return {"value": score.value, "low": score.limits.low, "high": score.limits.high}


def find_reference(methods: list[str], reference: str) -> str:
    """The method of that name, or the only one of that family; empty where no run has it."""
    if reference in methods:
        return reference
    relatives = [method for method in methods if family(method) == reference]
    if len(relatives) > 1:
        raise ValueError(f"reference {reference!r} may be any of {relatives}: name one of them")
    if not relatives and reference != "local":
        raise ValueError(f"no run has method {reference!r}: {nearest(reference, methods)}")
    return relatives[0] if relatives else ""


def _notes(places: dict[str, Estimate], inside: Alignment, outside: Alignment) -> dict[str, list[str]]:
    """Notes on each score."""
    notes = {}
    for site, score in places.items():
        if isinstance(score, Score):
            alignment = outside if site in outside.sites else inside
            notes[site] = [_remark(score, alignment, site), _support_remark(score, alignment.classes)]
    left_out = len(inside.sites) - len(inside.scored)
    for site in (MEAN, WORST):
        notes[site] = [f"{left_out} of {len(inside.sites)} sites left out"] if left_out else []
    mean = places[MEAN]
    without = [site for site in inside.scored if np.isnan(places[site].limits.low)]
    if without and np.isfinite(mean.value):
        for site in (MEAN, WORST):
            notes[site].append(f"no interval, since there is none at {_some(without)}")
    if isinstance(mean, MeanOfSites) and np.isfinite(mean.differ):
        word = "sites differ" if mean.differ < 0.05 else "no evidence that sites differ"
        notes[MEAN].append(f"{word} (p = {mean.differ:.2g})")
    biases = [by_chance for site in inside.scored if (by_chance := _by_chance(places[site])) is not None]
    if biases and len(biases) == len(inside.scored):
        notes[MEAN].append(f"biased upwards: {np.mean(biases):.2f} expected if calibrated")
    if report_metrics.higher_is_better(inside.metric) is None:
        notes[WORST] = [f"no worst site: {report_metrics.metric_label(inside.metric)} may be too low or too high"]
    return notes


def _by_chance(score: Estimate) -> float | None:
    """The calibration error that calibrated probabilities have on as many cases."""
    found = score.calibrated if isinstance(score, Score) else None
    return None if found is None else float(found.mean())


def _remark(score: Score, alignment: Alignment, site: str) -> str:
    """A note on the cases of a site, or that a model diverged."""
    if np.isfinite(score.value) or not len(score.test.y):
        return alignment.remark(site)
    if site not in alignment.scored and site != POOLED:
        return alignment.remark(site) or f"too few {alignment.split} cases"
    models = [p for seed in score.seeds.values() for p in seed.models]
    finite = mask_metrics.is_finite if alignment.segmented else lambda p: bool(np.isfinite(p).all())
    return "predictions are not finite" if not all(finite(p) for p in models) else alignment.remark(site)


def _left_out(score: Score) -> str:
    """How many cases a metric of masks leaves out: those without the structures in mask and prediction."""
    models = [p for seed in score.seeds.values() for p in seed.models]
    counts = sorted({int(mask_metrics.undefined(score.test.metric, p).sum()) for p in models})
    if not counts or not counts[-1]:
        return ""
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    where = "in the mask" if score.test.metric in mask_metrics.OF_TRUE else "in mask and prediction"
    return f"{shown} of {len(score.test.y)} cases left out: no structure {where}"


def _support_remark(score: Score, classes: list[str]) -> str:
    """A note on how much the cases support a value and its interval, or why there is none."""
    test, whole = score.test, len(score.values)
    if not np.isfinite(score.value):
        return _left_out(score) if test.segmented else ""
    said = [_left_out(score)] if test.segmented and _left_out(score) else []
    if score.calibrated is not None:
        p_value = tail_probability(score.calibrated, score.value)
        said.append(f"biased upwards: {score.calibrated.mean():.2f} expected if calibrated (p = {p_value:.2g})")
    if whole > 1 and whole < SEEDS:
        said.append(f"no interval over {whole} seeds: train {SEEDS} or more")
    elif test.of_classes and (word := support(test.support)):
        of = (
            f"class {classes[SHARES[test.metric]]!r}" if test.reported and test.metric in SHARES else "the rarest class"
        )
        said.append(f"{word}: {test.support} {'patient' if test.support == 1 else 'patients'} of {of}")
    elif test.metric in UNCERTAIN:
        said.append("no interval: none held its level in simulations; that of mae did")
    elif test.metric == "ece" and len(test.y) < ENOUGH:
        said.append(f"no interval below {ENOUGH} cases")
    elif np.isnan(score.limits.low):
        known = bool(test.reported and not test.reported.limits and test.counted is None)
        said.append(
            "no interval, and unbiased: may be below 0" if known else f"no interval for {score.patients} patients"
        )
    return "; ".join(said)
