"""The title of each figure, computed from the table that the figure draws.

A title calls a method better or worse only where a 95 % confidence interval of the paired difference excludes 0.
Everything else is descriptive: ranges and means without a ranking.
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from fedlab.learning.mask_metrics import of_structure
from fedlab.learning.regression_metrics import REGRESSION_METRICS
from fedlab.plots.names import listed
from fedlab.plots.names import name as short
from fedlab.plots.style import metric_label, rises

NATURAL_UNIT = (
    "loss",
    "log_loss",
    "brier",
    "hd95",
    "false_lesions",
)  # differences of the other metrics are given in points (hundredths)
SUPPORTED = "(95 % CI excludes 0)"
LIKELY, UNLIKELY = "(p < 0.05, Holm)", "(p ≥ 0.05, Holm)"
TIE = 1.01  # costs within this factor count as equal


# -- numbers and words -----------------------------------------------------------------------------------------------


def in_natural_unit(metric: str) -> bool:
    """Return whether differences have the unit of the metric; those of others are given in points."""
    return of_structure(metric)[0] in NATURAL_UNIT or metric in REGRESSION_METRICS


def number(difference: float, metric: str) -> str:
    """Format a signed difference without its unit: hundredths ("points") or the metric's own unit; a dash if NaN."""
    if not np.isfinite(difference):
        return "–"
    size = f"{abs(difference):.3f}" if in_natural_unit(metric) else f"{100 * abs(difference):.1f}"
    size = size if len(size) <= 8 else f"{float(size):.2g}"  # the loss of a model that diverged
    return ("−" if difference < -1e-9 else "+") + size


def unit(metric: str) -> str:
    """Return the unit of `number`."""
    return metric_label(metric) if in_natural_unit(metric) else "points"


def distance(difference: float, metric: str) -> str:
    """Format the size of a difference with its unit: "3.1 points"."""
    return f"{number(abs(difference), metric)[1:]} {unit(metric)}"


def percent(share: float) -> str:
    """Format a share as "42 %"."""
    return f"{100 * share:.0f} %"


def megabytes(amount: float) -> str:
    """Format megabytes with at most three digits: "0.02", "1.5", "120", "1.2 GB", "3.1 TB"; a dash for none."""
    if 0 < amount < 0.005:
        return "< 0.01"
    if amount >= 1e6:
        return f"{amount / 1e6:.4g} TB"
    if amount >= 1000:
        return f"{amount / 1000:,.1f} GB"
    digits = 0 if amount >= 100 else 1 if amount >= 1 else 2
    return f"{amount:,.{digits}f}" if amount else "–"


def over(sites: int) -> str:
    """Return "over 4 sites" or "at one site"."""
    return "at one site" if sites == 1 else f"over {sites} sites"


def count(some: int, total: int, things: str) -> str:
    """Count sites or methods in words where it is all or none: "both sites", "none of 4 sites", "2 of 4 sites"."""
    whole = f"both {things}" if total == 2 else f"all {total} {things}"
    return whole if some == total else f"{some or 'none'} of {total} {things}"


# -- figures of partitions -------------------------------------------------------------------------------------------


def label_skew(counts: pd.DataFrame) -> float:
    """I(site; label) in bits of a sites x classes table: generalised Jensen-Shannon divergence of the labels."""
    joint = counts.to_numpy(float) / counts.to_numpy().sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


def partition(counts: pd.DataFrame, cases: pd.Series, exclusive: bool) -> str:
    """State the range of prevalence for two classes or labels that may overlap, of one class the sizes, else the skew.

    counts: sites x classes; cases: of each site; exclusive: whether a case has exactly one class. The skew expected
    under random assignment is (sites - 1) (classes - 1) / (2 n ln 2) bit.
    """
    sites, classes = counts.shape
    if exclusive and classes > 2 and sites > 1:
        expected = (sites - 1) * (classes - 1) / (2 * counts.to_numpy().sum() * np.log(2))
        skew = f"I(site; label) = {label_skew(counts):.2f} bit, {expected:.3f} expected by random assignment"
        return f"Label skew {over(sites)}: {skew}"
    if exclusive and classes == 1:
        low, high = f"{int(cases.min()):,}", f"{int(cases.max()):,}"
        each = f": {low if low == high else f'{low} to {high}'} at each" if sites > 1 else ""
        return f"{int(cases.sum()):,} cases {over(sites)}{each}"
    if exclusive and classes > 2:
        return f"One site holds all {int(cases.sum()):,} cases of {classes} classes"
    name = spoken_of(counts, cases, exclusive)
    share = counts.div(cases.where(cases > 0), axis=0)
    low, high = percent(share[name].min()), percent(share[name].max())
    if low == high:
        return f"Prevalence of {short(name)} is {low} {over(sites)}"
    return f"Prevalence of {short(name)} ranges from {low} to {high} {over(sites)}"


def spoken_of(counts: pd.DataFrame, cases: pd.Series, exclusive: bool) -> Any:
    """Return the class whose prevalence the title of a partition states: the second of two, else the most varied.

    None where it states none: of one class, or of more than two of which a case has exactly one.
    """
    if exclusive and counts.shape[1] != 2:
        return None
    share = counts.div(cases.where(cases > 0), axis=0)
    return counts.columns[1] if exclusive else (share.max() - share.min()).idxmax()


def samples(brightness: pd.Series, scanners: int | None) -> str:
    """State the range of mean image brightness over rows, in percent of full scale, and the number of scanners.

    brightness: mean pixel value of each site or class, in [0, 1]; scanners: how many sites have a simulated scanner,
    None where rows are no sites.
    """
    known = brightness.dropna()
    if known.empty:
        return "No image to show"
    low, high = known.idxmin(), known.idxmax()
    ends = f"ranges from {percent(known[low])} ({short(low)}) to {percent(known[high])} ({short(high)})"
    level = f"is {percent(known[low])}" if percent(known[low]) == percent(known[high]) else ends
    tail = "" if scanners is None else f"; {scanners or 'no'} simulated scanner{'s' * (scanners > 1)}"
    return f"Mean image brightness {level}{tail}"


def cases(count: int, total: int, brightness: pd.Series) -> str:
    """State how many cases were chosen, and the range of mean image brightness over rows.

    count, total: of the cases that were chosen and of all; brightness: mean pixel value of each row, in [0, 1].
    """
    level = samples(brightness, None)
    chosen = f"{count:,} cases" if count == total else f"{count:,} of {total:,} cases"
    return f"{chosen}: {level[0].lower()}{level[1:]}"


def shift(table: pd.DataFrame) -> str:
    """State the axes whose measure lies outside its null interval; table: a row an axis, columns axis and beyond."""
    if table.empty:
        return "No axis to measure"
    beyond = [str(axis) for axis in table.loc[table["beyond"], "axis"]]
    rest = [str(axis) for axis in table.loc[~table["beyond"], "axis"]]
    if not beyond:
        return f"No shift beyond chance in {listed(rest)}"
    return f"Sites differ beyond chance in {listed(beyond)}" + (f"; no shift detected in {listed(rest)}" * bool(rest))


def population(table: pd.DataFrame, column: str) -> str:
    """State the range over sites of a number's median, or of the share of the level that differs most."""
    name = "50 %" if "50 %" in table else str((table.max() - table.min()).drop("n").idxmax())
    known = table[name].dropna()
    if known.empty:
        return f"No site has a value of {short(column)}"
    low, high = str(known.idxmin()), str(known.idxmax())
    ends = [f"{known[site]:g}" if name == "50 %" else percent(known[site]) for site in (low, high)]
    what = f"Median {short(column)}" if name == "50 %" else f"Share of {short(column)} {short(name)}"
    if ends[0] == ends[1]:
        return f"{what} is {ends[0]} {over(len(known))}"
    return f"{what} ranges from {ends[0]} ({short(low)}) to {ends[1]} ({short(high)})"


def doses(own: pd.DataFrame, others: pd.DataFrame) -> str:
    """State on how many axes the measured shift rises with its dose, and where dose 0 and the other axes lie.

    own: columns axis, dose, value, beyond (share of seeds) of each axis's own measure, medians over seeds; others:
    column beyond, a row for each measure of another axis, dose and seed.
    """
    ranks = own.groupby("axis")[["dose", "value"]].rank().assign(axis=own["axis"])
    rho = ranks.groupby("axis").apply(lambda rows: rows["dose"].corr(rows["value"]))
    axes, rising = len(rho), int((rho >= 0.99).sum())
    what = "the axis" if axes == 1 and rising else "no axis" if not rising else count(rising, axes, "axes")
    zero = own.loc[own["dose"] == 0]
    calm = "; dose 0 lies within the null interval" if len(zero) and (zero["beyond"] <= 0.5).all() else ""
    share = float(others["beyond"].mean()) if len(others) else np.nan
    leak = f"; other axes lie outside theirs in {percent(share)} of cells" if share > 0 else ""
    leak = "; no other axis leaves its own" if share == 0 else leak
    return f"The measured shift rises with the dose on {what}{calm}{leak}"


# -- figures of runs -------------------------------------------------------------------------------------------------


def curves(table: pd.DataFrame, metric: str, split: str = "validation") -> str:
    """State the metric after the last round: of one method, of each of up to three, else the range.

    table: columns method, round, value.
    """
    ends = table.dropna(subset="value").sort_values("round").groupby("method").last().sort_values("value")
    if ends.empty:
        return f"{metric_label(metric)} is undefined in every round"
    last = int(ends["round"].max())
    values = [f"{value:.3f} ({short(method)})" for method, value in ends["value"].items()]
    text = listed(values, whole=True) if len(values) <= 3 else f"{values[0]} to {values[-1]}"
    return f"{metric_label(metric)} on {split} cases after {last} round{'s' * (last != 1)}: {text}"


def local_vs_global(gains: pd.DataFrame, metric: str) -> str:
    """Count the sites at which methods are better or worse than their reference, by the 95 % CI of paired differences.

    gains: the rows of sites of all federated methods with columns method, site, value, versus, gain (positive:
    better), and clear (1 or -1 where the interval of the gain excludes 0).
    """
    known = gains[gains["versus"] != gains["method"]].dropna(subset="gain")
    if known.empty:
        return _value_range(gains, metric)
    versus, methods, sites = short(known["versus"].iloc[0]), known["method"].unique(), known["site"].nunique()
    better, worse = int((known["clear"] > 0).sum()), int((known["clear"] < 0).sum())
    subject = short(methods[0]) if len(methods) == 1 else "Methods"
    bare = _without_interval(known)
    if bare == sites:
        of = f"{subject} and {versus}" if len(methods) == 1 else f"{len(methods)} methods and {versus}"
        return f"{metric_label(metric)} of {of}: no interval holds its level, so no difference is shown"
    if sites == 1 and len(methods) == 1:
        site = short(known["site"].iloc[0])
        return f"{subject} is {_verdict(better, worse)} {versus} at {site} {_interval(better or worse)}"
    where = count if len(methods) == 1 else lambda some, total, _: f"{some or 'none'} of {total} method-site pairs"
    verb = "is" if len(methods) == 1 else "are"
    if not better and not worse:
        return f"{subject} {verb} not shown to differ from {versus} at any of {sites} sites {_interval(False, bare)}"
    other = f", worse at {worse}" if better and worse else ""
    some, word = (better, "better") if better else (worse, "worse")
    return f"{subject} {verb} {word} than {versus} at {where(some, len(known), 'sites')}{other} {_interval(True, bare)}"


def _verdict(better: int, worse: int) -> str:
    return "better than" if better else "worse than" if worse else "not shown to differ from"


def _without_interval(known: pd.DataFrame) -> int:
    """At how many sites no gain has an interval."""
    if "gain_low" not in known:
        return 0
    return int((~known["gain_low"].notna().groupby(known["site"]).any()).sum())


def _interval(excludes: object, bare: int = 0) -> str:
    """What the 95 % intervals say, and at how many sites there is none."""
    text = SUPPORTED if excludes else "(95 % CI includes 0)"
    return f"{text[:-1]}; none at {bare} site{'s' * (bare != 1)})" if bare else text


def _value_range(gains: pd.DataFrame, metric: str) -> str:
    """State the range of a method's metric over sites, where there is nothing to compare it with."""
    known = gains.dropna(subset="value").set_index("site")
    if known.empty:
        return f"{metric_label(metric)} is undefined at every site"
    methods = known["method"].unique()
    known = known[known["method"] == methods[0]]
    low, high = known["value"].idxmin(), known["value"].idxmax()
    ends = f"from {known['value'][low]:.2f} ({short(low)}) to {known['value'][high]:.2f} ({short(high)})"
    text = f"is {known['value'][low]:.2f} at {short(low)}" if low == high else f"ranges {ends}"
    return f"{metric_label(metric)} of {short(methods[0])} {text}"


def transfer(values: pd.DataFrame, metric: str) -> str:
    """State what sites' own models reach on their own test cases and, on average, on those of the other sites.

    values: models x sites; rows named as columns are the sites' own models. Both means are over the same pairs of a
    model trained elsewhere and a site, so that undefined cells drop out of both.
    """
    own = [site for site in values.columns if site in values.index]
    square = values.loc[own, own].to_numpy(float)
    home = np.broadcast_to(np.diag(square), square.shape)
    pairs = np.isfinite(square) & np.isfinite(home) & ~np.eye(len(own), dtype=bool)
    if not pairs.any():
        return f"{metric_label(metric)} of each model at each site"
    ends = f"{home[pairs].mean():.2f} at their own site, {square[pairs].mean():.2f} at other sites"
    return f"Cross-site generalization: mean {metric_label(metric)} of local models is {ends}"


def ranking(table: pd.DataFrame, metric: str) -> str:
    """Count the methods that are better or worse than the reference, by p-values after Holm.

    table: method, value, gain, clear, versus.
    """
    known = table.dropna(subset="value")
    if known.empty:
        return f"{metric_label(metric)} is undefined for every method"
    others = known[known["gain"].notna() & (known["method"] != known["versus"])]
    if others.empty:
        return f"Mean {metric_label(metric)} over sites of {count(len(known), len(table), 'methods')}"
    better, worse, versus = (others["clear"] > 0).sum(), (others["clear"] < 0).sum(), short(others["versus"].iloc[0])
    if "gain_low" in others and others["gain_low"].isna().all() and not better and not worse:
        methods = f"{len(others)} methods" if len(others) > 1 else short(others["method"].iloc[0])
        return f"The difference of {methods} to {versus} has no interval"
    if len(others) == 1:
        by = LIKELY if better or worse else UNLIKELY
        return f"{short(others['method'].iloc[0])} is {_verdict(better, worse)} {versus} {by}"
    if not better and not worse:
        return f"No method of {len(others)} is better or worse than {versus} {UNLIKELY}"
    word = "better" if better else "worse"
    some = count(int(better or worse), len(others), "methods")
    verb = "is" if some.startswith("1 ") else "are"
    tail = f", {worse} worse" if better and worse else ""
    return f"{some[0].upper() + some[1:]} {verb} {word} than {versus}{tail} {LIKELY}"


def communication_cost(table: pd.DataFrame, against: str) -> str:
    """State the range of the cost over the methods that send models, and the methods left out as undefined.

    table: method, value, cost; NaN where undefined.
    """
    undefined = table[["value", "cost"]].isna().any(axis=1)
    missing = list(table.loc[undefined, "method"])
    left_out = f"; {listed(missing)} left out as undefined" if missing else ""
    sends = table[~undefined & (table["cost"] > 0)].sort_values("cost", kind="stable")
    if sends.empty:
        return "No method that sends models has a value" + left_out
    unit = "MB" if against == "megabytes" else "minutes"
    low, high = sends["cost"].iloc[[0, -1]]
    what = "Communication" if against == "megabytes" else "Estimated time"
    cheap = listed(list(sends.loc[sends["cost"] <= TIE * low, "method"]))
    if high <= TIE * low:
        return f"{what} of {cheap} is {_cost(low)} {unit}{left_out}"
    dear = listed(list(sends.loc[sends["cost"] * TIE >= high, "method"]))
    return f"{what} ranges from {_cost(low)} {unit} ({cheap}) to {_cost(high)} {unit} ({dear}){left_out}"


def _cost(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def forgetting(falls: pd.Series, metric: str) -> str:
    """State by how much the metric of a site falls, on average, until the model comes back.

    falls: site -> mean fall of the metric between its visits.
    """
    lost = falls.dropna() * (1 if rises(metric) else -1)
    if lost.empty:
        return "No site is evaluated from one visit to its next: forgetting cannot be measured"
    mean, worst = float(lost.mean()), str(lost.idxmax())
    fewer, greater = int((lost < 0).sum()), int((lost > 0).sum())
    counts = f"{count(greater, len(lost), 'sites')} lose{'s' * (greater == 1)}"
    if len(lost) == 1:
        counts = f"{short(worst)} {'loses' if greater else 'gains'}"
    elif fewer:
        counts = f"{counts} and {fewer} gain{'s' * (fewer == 1)}"
    most = f", most at {short(worst)} ({distance(lost[worst], metric)})" if greater and len(lost) > 1 else ""
    change = "a loss" if mean > 0 else "a gain"
    size = f"{change} of {distance(mean, metric)} on average"
    return f"Between two visits {counts} {metric_label(metric)}: {size}{most}"


def participation(table: pd.DataFrame, idle: Collection[int]) -> str:
    """State the share of site rounds that were merged, the sites that missed most, and the rounds without a merge.

    idle: rounds in which nothing was merged.
    """
    present = table["state"].isin(["took part", "led", "straggled"])
    missing = (~present).groupby(table["site"]).sum()
    text = f"{percent((present & ~table['round'].isin(idle)).mean())} of all site rounds were merged"
    if (most := int(missing.max())) > 0:
        sites = list(missing.index[missing == most])
        was = f"{listed(sites)} {'was' if len(sites) == 1 else 'were'} missing most"
        text += f"; {was}, in {most} of {table['round'].nunique()} rounds"
    return text + (f"; nothing was merged in {len(idle)} round{'s' * (len(idle) != 1)}" if idle else "")


def leakage(table: pd.DataFrame) -> str:
    """State the share of the pixels' variance that the attacker reconstructs at the first and at the last cut."""
    if table.empty:
        return "No cut to look at"
    known = 1 - table.set_index("cut")["unexplained"].clip(upper=1)
    first, last = known.index[0], known.index[-1]
    text = f"A linear attack reconstructs {percent(known[first])} of the pixels' variance at cut {first}"
    if first != last:
        text += f", {percent(known[last])} at cut {last}"
    within = (table["correlation"] <= table["null_high"]).sum()
    return text + (f"; distance correlation within its null at {count(within, len(table), 'cuts')}" if within else "")


# -- figures of segmentation -----------------------------------------------------------------------------------------


def contours(table: pd.DataFrame, by: str) -> str:
    """State the Dice of the worst case over sites with the method that chose the cases, and with the two references.

    table: columns site, which, and one for each method.
    """
    worst = table[table["which"] == "worst"]
    what = "The worst test case" if len(worst) == 1 else "The worst test case of each site"
    others = [name for name in ("local", "centralized") if name in table and name != by and worst[name].notna().any()]
    each = [f"{_span(worst[name])} with {short(name)}" for name in [by, *others]]
    return f"{what} by {short(by)}: Dice {listed(each, whole=True)}"


def case_scores(table: pd.DataFrame, metric: str) -> str:
    """State the range over sites of the median, of up to three methods, else of all together.

    table: columns site, method, median.
    """
    known = table.dropna(subset="median")
    if known.empty:
        return f"{metric_label(metric)} is undefined for every test case"
    methods = list(dict.fromkeys(known["method"]))
    spans = {method: _span(known.loc[known["method"] == method, "median"]) for method in methods}
    if len(methods) > 3:
        return f"Median {metric_label(metric)} of a site's cases: {_span(known['median'])} with {len(methods)} methods"
    text = ", ".join(f"{span} with {short(method)}" for method, span in spans.items())
    return f"Median {metric_label(metric)} of a site's cases: {text}"


def volume_agreement(table: pd.DataFrame, structure: str, unit: str) -> str:
    """State by how much methods predict too much or too little, as a share of the true volume, up to three methods.

    table: columns method, true and bias over all sites.
    """
    known = table[table["true"] > 0].dropna(subset="bias")
    if known.empty:
        return f"No test case has {short(structure)} in its mask: volumes cannot be compared"
    shares = known["bias"] / known["true"]
    each = [f"{100 * share:+.0f} % ({short(method)})" for method, share in zip(known["method"], shares, strict=True)]
    text = listed(each, whole=True) if len(each) <= 3 else f"{100 * shares.min():+.0f} % to {100 * shares.max():+.0f} %"
    return f"Predicted minus true volume of {short(structure)}, mean over test cases: {text}".replace("-", "−")


def predicted_vs_true(table: pd.DataFrame, target: str) -> str:
    """State the mean absolute error of up to three methods, or their range. table: columns method and mae."""
    known = table.dropna(subset="mae")
    if known.empty:
        return f"No test case has a prediction of {target}"
    each = [f"{digits(mae)} ({short(method)})" for method, mae in zip(known["method"], known["mae"], strict=True)]
    text = (
        listed(each, whole=True) if len(each) <= 3 else f"{digits(known['mae'].min())} to {digits(known['mae'].max())}"
    )
    return f"Mean absolute error of predicted {target}: {text}"


def digits(value: float, count: int = 3) -> str:
    """A number with so many significant digits: 12.0, 0.120, 1234.

    Examples
    --------
    >>> from fedlab.plots.titles import digits
    >>> digits(12.04), digits(0.1204), digits(1234.4), digits(0.0)
    ('12.0', '0.120', '1234', '0.00')
    """
    places = count - 1 - (math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0)
    return f"{value:.{max(0, places)}f}"


def signed(value: float) -> str:
    """A difference with its sign and three significant digits."""
    return f"{'−' if value < 0 else '+'}{digits(abs(value))}" if math.isfinite(value) else "–"


def _span(values: pd.Series) -> str:
    """Return "0.71 to 0.83", or one number."""
    known = values.dropna()
    ends = [f"{known.min():.2f}", f"{known.max():.2f}"] if len(known) else ["–", "–"]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
