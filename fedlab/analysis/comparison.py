"""Methods against each other at every site, from the predictions that runs keep; nothing is trained here.

Every method is judged on the same resampled cases, so its difference to the reference is paired. Several seeds of one
method are averaged, and the bootstrap then resamples seeds before cases.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis.alignment import MEAN, POOLED, WORST, Alignment, agree, as_used, kept, probabilities
from fedlab.analysis.bootstrap import UNDEFINED, Estimate, estimate, over_seeds, over_sites
from fedlab.analysis.usage import ALL, NOTHING, spending
from fedlab.core.registry import choose, nearest
from fedlab.core.rng import stream
from fedlab.learning.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from fedlab.experiments.run_folder import Run

__all__ = ["MEAN", "POOLED", "WORST", "as_used", "compare", "family", "matrix", "transfer"]


def compare(
    runs: "Sequence[Run]",
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
) -> pd.DataFrame:
    """One row per method and site, and per method for all cases pooled, the mean of sites and the worst site.

    Columns: method, site, cases, metric, value, low, high, versus, difference, difference_low, difference_high, seeds,
    note. Differences are paired, to the method whose name or family is `reference` (NaN without one): to "local" they
    are the benefit of federation, to "centralized" the gap that remains. metric: the runs' headline if None. labels:
    "true", or "marked" as each site's readers wrote them. A site whose labels leave the metric undefined is NaN and
    left out of mean and worst, whose notes count it. by: a setting in which runs of one method differ; it then is part
    of the method, "fedavg (normalisation=site)". use: "own", the model that each site uses; "global", the shared one
    also where sites have their own; parts that stay at sites are the sites' own in either, and methods that share no
    model say so in their notes.

    Each unseen site is one more row, "unseen: Site D", in no summary; there a method without a global model stands for
    the mean of what its sites' own models reach. Then there are columns gap, gap_low, gap_high: the generalisation gap,
    mean of sites less unseen site (NaN in other rows). unseen: "average", where parts of the model stay at sites, has
    the mean of them; "estimate" has batch normalisation statistics re-estimated on the unseen site's unlabelled images.

    What it cost stands beside: megabytes, messages, steps and cases in training, of the site (of all sites together in
    the summaries), the mean of seeds. ValueError for runs of different datasets or partitions, and for two runs of one
    method and seed.
    """
    choose("use", use, ("own", "global"))
    choose("unseen", unseen, ("average", "estimate"))
    (home, away), methods = agree(runs, metric, choice, split, labels, draws), _by_method(runs, by)
    scores = {method: _scores(group, home, away, use, unseen) for method, group in methods.items()}
    spent = {method: spending(group) for method, group in methods.items()}
    versus = _reference(list(methods), reference)
    rows = []
    for method, places in scores.items():
        notes = _notes(places, home) | _remarks(places, away)
        if use == "global" and not _shares(methods[method], home):
            notes = {
                site: "; ".join(filter(None, [told, "own models, none is shared"])) for site, told in notes.items()
            }
        for site, score in places.items():
            gain = score - scores[versus][site] if versus else UNDEFINED
            terms = away if site in away.sites else home
            row = {"method": method, "site": site, "cases": terms.size(site), "metric": terms.metric}
            row |= {"value": score.value, "low": score.low, "high": score.high, "versus": versus}
            row |= _ends("difference", gain) | {"seeds": len(methods[method]), "note": notes[site]}
            row |= spent[method].get(site, NOTHING if site in terms.sites else spent[method][ALL])
            if away.sites:
                row |= _ends("gap", places[MEAN] - score if site in away.sites else UNDEFINED)
            rows.append(row)
    return pd.DataFrame(rows)


def transfer(
    runs: "Sequence[Run]", metric: str | None = None, choice: str = "best", split: str = "test", draws: int = 2000
) -> pd.DataFrame:
    """What was learned in one place, tested at every site: trained_at, tested_on, metric, value, low, high, cases.

    First the own model of each site, from the local run or else from the first method that has such, then one block of
    rows per method with a global model. Tested also on unseen sites, "unseen: Site D".
    """
    (home, away), methods = agree(runs, metric, choice, split, "true", draws), _by_method(runs)
    owned = [name for name, group in methods.items() if all(_has_own(run, home) for run in group)]
    local = _reference(list(methods), "local") or next(iter(owned), "")
    models = [(site, site, methods[local]) for site in home.sites if local]
    models += [(method, "global", group) for method, group in methods.items() if family(method) != "local"]
    rows = []
    for trained_at, model, group in models:
        if all(model in set(kept(run, choice, split)["model"]) for run in group):
            for terms in (home, away):
                for site, score in _each(group, terms, terms.sites, model).items():
                    row = {"trained_at": trained_at, "tested_on": site, "metric": terms.metric, "value": score.value}
                    rows.append(row | {"low": score.low, "high": score.high, "cases": terms.size(site)})
    return pd.DataFrame(rows, columns=["trained_at", "tested_on", "metric", "value", "low", "high", "cases"])


def _shares(group: "list[Run]", home: Alignment) -> bool:
    """Whether a method ends with a model for all sites."""
    return all("global" in set(kept(run, home.choice, home.stored)["model"]) for run in group)


def _has_own(run: "Run", home: Alignment) -> bool:
    """Whether every site has a model of its own."""
    return set(home.sites) <= set(kept(run, home.choice, home.stored)["model"])


def matrix(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of `compare` for reading: methods x sites, each "0.87 (0.84 to 0.90)", a dash where undefined."""
    numbers = frame[["value", "low", "high"]].to_numpy(np.float64)
    texts = [f"{v:.2f} ({low:.2f} to {high:.2f})" if np.isfinite(v) else "–" for v, low, high in numbers]
    wide = frame.assign(text=texts).pivot(index="method", columns="site", values="text")
    return wide.loc[frame["method"].unique(), frame["site"].unique()].rename_axis(index=None, columns=None)


def family(method: str) -> str:
    """The method without its knobs: "fedprox" of "fedprox(mu=0.01)"."""
    return method.split("(")[0].strip()


def _by_method(runs: "Sequence[Run]", by: str | None = None) -> "dict[str, list[Run]]":
    """Method -> its runs by ascending seed; methods in the order they were passed."""
    methods: dict[str, list[Run]] = {_named(run, by): [] for run in runs}
    for run in sorted(runs, key=lambda run: int(run.experiment.seed)):
        group = methods[_named(run, by)]
        if group and group[-1].experiment.seed == run.experiment.seed:
            raise ValueError(
                f"two runs of {run.method!r} have seed {run.experiment.seed}: only seeds are averaged, so compare one"
                " setting at a time, or say by='...' in which setting they differ"
            )
        group.append(run)
    return methods


def _named(run: "Run", by: str | None) -> str:
    """The method of a run, with the setting that is compared."""
    if by is None:
        return run.method
    fields = type(run.experiment).model_fields
    if by not in fields:
        raise ValueError(f"by is {by!r}, no setting of an experiment: {nearest(by, fields)}")
    return f"{run.method} ({by}={getattr(run.experiment, by)})"


def _scores(group: "list[Run]", home: Alignment, away: Alignment, use: str, unseen: str) -> dict[str, Estimate]:
    """Site, summary of sites, or unseen site -> what a method reaches there."""
    model = "global" if use == "global" and _shares(group, home) else None
    scores = _each(group, home, [*home.sites, POOLED], model)
    inside = [scores[site] for site in home.scored]
    worst = np.min if HIGHER_IS_BETTER[home.metric] else np.max
    scores |= {MEAN: over_sites(inside, np.mean), WORST: over_sites(inside, worst)}
    return scores | _each(group, away, away.sites, stranger=unseen)


def _each(
    group: "list[Run]", terms: Alignment, places: list[str], model: str | None = None, stranger: str = "average"
) -> dict[str, Estimate]:
    """What a method reaches at sites, or pooled: the model used there, or the one named."""
    asked = [probabilities(run, terms, model, stranger) for run in group] if places else []
    return {place: _score(asked, group, terms, place) for place in places}


def _score(asked: list[list[NDArray[np.float64]]], group: "list[Run]", terms: Alignment, site: str) -> Estimate:
    """The mean over seeds, which are resampled alike for methods that share them.

    asked: of each run the probabilities of each model whose score counts; their mean does.
    """
    rows = terms.spans[site]
    y, drawn = terms.y[rows], terms.multiplicities[:, rows]
    found = [over_sites([estimate(terms.metric, y, p[rows], drawn) for p in each], np.mean) for each in asked]
    seeds = [int(run.experiment.seed) for run in group]
    return found[0] if len(found) == 1 else over_seeds(found, stream(0, "bootstrap", "seeds", *seeds))


def _ends(name: str, difference: Estimate) -> dict[str, float]:
    return {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}


def _reference(methods: list[str], reference: str) -> str:
    """The method of that name, or the only one of that family; empty if there is none."""
    if reference in methods:
        return reference
    relatives = [method for method in methods if family(method) == reference]
    if len(relatives) > 1:
        raise ValueError(f"reference {reference!r} may be any of {relatives}: name one of them")
    if not relatives and reference != "local":
        raise ValueError(f"no run has method {reference!r}: {nearest(reference, methods)}")
    return relatives[0] if relatives else ""


def _notes(scores: dict[str, Estimate], terms: Alignment) -> dict[str, str]:
    """What a reader must know of each number; the worst site's note begins with its name."""
    notes = _remarks(scores, terms) | {POOLED: terms.remark(POOLED), MEAN: "", WORST: ""}
    left_out = len(terms.sites) - len(terms.scored)
    if left_out:
        notes |= dict.fromkeys([MEAN, WORST], f"{left_out} of {len(terms.sites)} sites left out")
    if terms.scored and np.isfinite([scores[site].value for site in terms.scored]).all():
        worst = min if HIGHER_IS_BETTER[terms.metric] else max
        notes[WORST] = "; ".join(filter(None, [worst(terms.scored, key=lambda s: scores[s].value), notes[WORST]]))
    return notes


def _remarks(scores: dict[str, Estimate], terms: Alignment) -> dict[str, str]:
    """What a reader must know of each site's number."""
    broken = [site for site in terms.scored if not np.isfinite(scores[site].value)]
    return {site: terms.remark(site) for site in terms.sites} | dict.fromkeys(broken, "predictions are not finite")
