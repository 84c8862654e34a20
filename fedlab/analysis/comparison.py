"""Compare methods at every site from the stored predictions of their runs; nothing is trained here.

All methods are scored on the same resampled cases, so that differences to the reference are paired. Several seeds of
one method are averaged; the bootstrap then resamples seeds before cases.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis.alignment import (
    MEAN,
    POOLED,
    WORST,
    Alignment,
    align,
    probabilities,
    stored_predictions,
)
from fedlab.analysis.bootstrap import UNDEFINED, Estimate, estimate, over_seeds, over_sites
from fedlab.analysis.usage import NO_USE, resource_use
from fedlab.core.registry import choose, nearest
from fedlab.core.rng import stream
from fedlab.experiments.run_folder import Run
from fedlab.federation import ALL
from fedlab.learning.metrics import HIGHER_IS_BETTER

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
            Methods and sites in the order of the table.

        Examples
        --------
        >>> import tempfile
        >>> import fedlab
        >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = fedlab.compare(fedlab.grid(base, folder=folder, method=["local", "fedavg"]), draws=50)
        >>> table.matrix().index.tolist()
        ['local', 'fedavg']
        >>> table.matrix().columns.tolist()
        ['Site A', 'Site B', 'pooled', 'mean of sites', 'worst site']
        """
        wide = pd.DataFrame(self).assign(text=_interval_texts(self, "value", "low", "high"))
        wide = wide.pivot(index="method", columns="site", values="text")
        return wide.loc[self["method"].unique(), self["site"].unique()].rename_axis(index=None, columns=None)

    def _readable(self) -> pd.DataFrame:
        """The columns to print; all columns of a table that has lost some of them."""
        frame = pd.DataFrame(self)
        if not {"method", "site", "cases", "metric", *VALUE, *DIFFERENCE, "versus", "note"} <= set(frame):
            return frame
        shown = frame[["method", "site", "cases"]].copy()
        shown[", ".join(frame["metric"].unique())] = _interval_texts(frame, *VALUE)
        if versus := ", ".join(filter(None, frame["versus"].unique())):
            shown[f"difference to {versus}"] = _interval_texts(frame, *DIFFERENCE)
        return shown.assign(note=frame["note"])

    def __repr__(self) -> str:
        with pd.option_context("display.max_columns", None, "display.width", 160):
            return repr(self._readable())

    def _repr_html_(self) -> str | None:
        return self._readable()._repr_html_()  # type: ignore[no-any-return]


VALUE = ("value", "low", "high")
DIFFERENCE = ("difference", "difference_low", "difference_high")


def _interval_texts(frame: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    """Numbers and their intervals as text; a dash where undefined."""
    numbers = frame[[value, low, high]].to_numpy(np.float64)
    return [f"{v:.2f} ({low:.2f} to {high:.2f})" if np.isfinite(v) else "–" for v, low, high in numbers]


def compare(
    runs: Sequence[Run],
    metric: str | None = None,
    *,
    reference: str = "local",
    choice: str = "best",
    split: str = "test",
    labels: str = "true",
    by: str | None = None,
    use: str = "own",
    unseen: str = "average",
    draws: int = 2000,
) -> Comparison:
    """Compare methods at every site, with intervals and paired differences.

    Intervals are 95 % percentile intervals of a bootstrap that is stratified by site and class and keeps patients
    whole; with several seeds of a method it resamples seeds first.

    Parameters
    ----------
    runs : sequence of Run
        Runs of one dataset and partition, at most one for each method and seed.
    metric : str, optional
        Name of a metric; by default the headline metric of the runs.
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
    draws : int, default 2000
        Number of bootstrap draws.

    Returns
    -------
    Comparison
        A DataFrame with a row for each method and site, and for each method three summaries: "pooled" (micro, all
        cases), "mean of sites" (macro-average) and "worst site". Columns: method, site, cases, metric, value, low,
        high, versus, difference, difference_low, difference_high, seeds, note; megabytes, messages, steps, samples (in
        training, mean over seeds; of all sites in the summaries). A held-out site is a row "unseen: Site D", in no
        summary; then columns gap, gap_low, gap_high hold the generalization gap, mean of sites minus held-out site.
        A site whose labels leave the metric undefined is NaN and left out of mean and worst.

    Raises
    ------
    ValueError
        If the runs have different datasets or partitions, or two runs have one method and seed.

    References
    ----------
    .. [1] B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"])
    ...     table = fedlab.compare(runs, draws=50)
    >>> table["site"].unique().tolist()
    ['Site A', 'Site B', 'pooled', 'mean of sites', 'worst site']
    >>> bool((table.loc[table["method"] == "local", "difference"] == 0).all())
    True
    """
    choose("use", use, ("own", "global"))
    choose("unseen", unseen, ("average", "estimate"))
    (inside, outside), methods = align(runs, metric, choice, split, labels, draws), _by_method(runs, by)
    scores = {method: _scores(group, inside, outside, use, unseen) for method, group in methods.items()}
    used = {method: resource_use(group) for method, group in methods.items()}
    versus = _reference(list(methods), reference)
    rows = []
    for method, places in scores.items():
        notes = _notes(places, inside) | _remarks(places, outside)
        if use == "global" and not _has_shared_model(methods[method], inside):
            notes = {site: "; ".join(filter(None, [note, NOT_SHARED])) for site, note in notes.items()}
        for site, score in places.items():
            gain = score - scores[versus][site] if versus else UNDEFINED
            alignment = outside if site in outside.sites else inside
            row: dict[str, Any] = {"method": method, "site": site, "cases": alignment.size(site)}
            row["metric"] = alignment.metric
            row |= {"value": score.value, "low": score.low, "high": score.high, "versus": versus}
            row |= _ends("difference", gain) | {"seeds": len(methods[method]), "note": notes[site]}
            row |= used[method].get(site, NO_USE if site in alignment.sites else used[method][ALL])
            if outside.sites:
                row |= _ends("gap", places[MEAN] - score if site in outside.sites else UNDEFINED)
            rows.append(row)
    return Comparison(rows)


NOT_SHARED = "own models, none is shared"


def transfer(
    runs: Sequence[Run], metric: str | None = None, choice: str = "best", split: str = "test", draws: int = 2000
) -> pd.DataFrame:
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
    draws : int, default 2000
        Number of bootstrap draws.

    Returns
    -------
    pandas.DataFrame
        Columns trained_at, tested_on, metric, value, low, high, cases. First the models of sites, from the local run
        or else from the first method that has them, then a block of rows for each method with a shared model.
        Held-out sites are rows "unseen: Site D".
    """
    (inside, outside), methods = align(runs, metric, choice, split, "true", draws), _by_method(runs)
    owned = [name for name, group in methods.items() if all(_has_site_models(run, inside) for run in group)]
    local = _reference(list(methods), "local") or next(iter(owned), "")
    models = [(site, site, methods[local]) for site in inside.sites if local]
    models += [(method, "global", group) for method, group in methods.items() if family(method) != "local"]
    rows = []
    for trained_at, model, group in models:
        if all(model in set(stored_predictions(run, choice, split)["model"]) for run in group):
            for alignment in (inside, outside):
                for site, score in _score_sites(group, alignment, alignment.sites, model).items():
                    row: dict[str, Any] = {"trained_at": trained_at, "tested_on": site, "metric": alignment.metric}
                    row |= {"value": score.value, "low": score.low, "high": score.high, "cases": alignment.size(site)}
                    rows.append(row)
    return pd.DataFrame(rows, columns=["trained_at", "tested_on", "metric", "value", "low", "high", "cases"])


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


def _by_method(runs: Sequence[Run], by: str | None = None) -> dict[str, list[Run]]:
    """Group runs by method, in the order they were passed; the runs of a method by ascending seed."""
    methods: dict[str, list[Run]] = {_named(run, by): [] for run in runs}
    for run in sorted(runs, key=lambda run: int(run.experiment.seed)):
        group = methods[_named(run, by)]
        if group and group[-1].experiment.seed == run.experiment.seed:
            raise ValueError(
                f"two runs of {run.method!r} have seed {run.experiment.seed}: only seeds are averaged, so compare one"
                " setting at a time, or name the field in which they differ with by='...'"
            )
        group.append(run)
    return methods


def _named(run: Run, by: str | None) -> str:
    """The name of a run's method, with the field that is compared."""
    if by is None:
        return run.method
    fields = type(run.experiment).model_fields
    if by not in fields:
        raise ValueError(f"by is {by!r}, no field of an experiment: {nearest(by, fields)}")
    return f"{run.method} ({by}={getattr(run.experiment, by)})"


def _scores(group: list[Run], inside: Alignment, outside: Alignment, use: str, unseen: str) -> dict[str, Estimate]:
    """Score a method at each site, in the summaries of sites, and at each held-out site."""
    model = "global" if use == "global" and _has_shared_model(group, inside) else None
    scores = _score_sites(group, inside, [*inside.sites, POOLED], model)
    scored = [scores[site] for site in inside.scored]
    worst = np.min if HIGHER_IS_BETTER[inside.metric] else np.max
    scores |= {MEAN: over_sites(scored, np.mean), WORST: over_sites(scored, worst)}
    return scores | _score_sites(group, outside, outside.sites, external=unseen)


def _score_sites(
    group: list[Run], alignment: Alignment, places: list[str], model: str | None = None, external: str = "average"
) -> dict[str, Estimate]:
    """Score a method at sites or on the pool, with the model used there or the one named."""
    predicted = [probabilities(run, alignment, model, external) for run in group] if places else []
    return {place: _score(predicted, group, alignment, place) for place in places}


def _score(predicted: list[list[NDArray[np.float64]]], group: list[Run], alignment: Alignment, site: str) -> Estimate:
    """The mean score over seeds; methods with the same seeds share their resamples.

    predicted: for each run the probabilities of each model in use, whose scores are averaged.
    """
    rows = alignment.spans[site]
    y, drawn = alignment.y[rows], alignment.multiplicities[:, rows]
    found = [over_sites([estimate(alignment.metric, y, p[rows], drawn) for p in each], np.mean) for each in predicted]
    seeds = [int(run.experiment.seed) for run in group]
    return found[0] if len(found) == 1 else over_seeds(found, stream(0, "bootstrap", "seeds", *seeds))


def _ends(name: str, difference: Estimate) -> dict[str, float]:
    return {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}


def _reference(methods: list[str], reference: str) -> str:
    """The method of that name, or the only one of that family; empty where no run has it."""
    if reference in methods:
        return reference
    relatives = [method for method in methods if family(method) == reference]
    if len(relatives) > 1:
        raise ValueError(f"reference {reference!r} may be any of {relatives}: name one of them")
    if not relatives and reference != "local":
        raise ValueError(f"no run has method {reference!r}: {nearest(reference, methods)}")
    return relatives[0] if relatives else ""


def _notes(scores: dict[str, Estimate], alignment: Alignment) -> dict[str, str]:
    """Notes on each score; that of the worst site begins with its name."""
    notes = _remarks(scores, alignment) | {POOLED: alignment.remark(POOLED), MEAN: "", WORST: ""}
    left_out = len(alignment.sites) - len(alignment.scored)
    if left_out:
        notes |= dict.fromkeys([MEAN, WORST], f"{left_out} of {len(alignment.sites)} sites left out")
    if alignment.scored and np.isfinite([scores[site].value for site in alignment.scored]).all():
        worst = min if HIGHER_IS_BETTER[alignment.metric] else max
        notes[WORST] = "; ".join(filter(None, [worst(alignment.scored, key=lambda s: scores[s].value), notes[WORST]]))
    return notes


def _remarks(scores: dict[str, Estimate], alignment: Alignment) -> dict[str, str]:
    """Notes on the score of each site."""
    broken = [site for site in alignment.scored if not np.isfinite(scores[site].value)]
    return {site: alignment.remark(site) for site in alignment.sites} | dict.fromkeys(
        broken, "predictions are not finite"
    )
