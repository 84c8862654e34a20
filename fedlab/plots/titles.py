"""The finding that a figure's title states, computed from the table that the figure draws.

No title claims more than its table holds: a direction is named only where the numbers have it, a difference is called
clear only where its interval excludes zero.
"""

import numpy as np
import pandas as pd

from fedlab.plots.reading import by_size
from fedlab.plots.style import family, is_federated, metric_label, rises

NATURAL_UNIT = (
    "loss",
    "log_loss",
    "brier",
)  # the other metrics are shares of one: their differences are told in points
RESOLVED = 0.01  # a gap between the bounds smaller than this is not divided by


def number(difference: float, metric: str) -> str:
    """A signed difference without its unit: hundredths ("points") or the metric's own unit; a dash if undefined."""
    if not np.isfinite(difference):
        return "–"
    text = f"{difference:+.3f}" if metric in NATURAL_UNIT else f"{100 * difference:+.1f}"
    return text.replace("-", "−" if float(text) else "+")


def unit(metric: str) -> str:
    """The unit of `number`."""
    return metric_label(metric) if metric in NATURAL_UNIT else "points"


def distance(difference: float, metric: str) -> str:
    """The size of a difference with its unit: "3.1 points"."""
    return f"{number(abs(difference), metric)[1:]} {unit(metric)}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def over(sites: int) -> str:
    return "at one site" if sites == 1 else f"over {sites} sites"


def count(some: int, sites: int, things: str = "sites") -> str:
    """How many of the sites (or other things), in words where it is all or none."""
    if sites == 1:
        return "the only site" if some else "no site"
    whole = f"both {things}" if sites == 2 else f"all {sites} {things}"
    return whole if some == sites else f"{some or 'none'} of {sites} {things}"


def label_skew(counts: pd.DataFrame) -> float:
    """I(site; label) in bits of a sites x classes table: generalised Jensen-Shannon divergence of label laws."""
    joint = counts.to_numpy(float) / counts.to_numpy().sum()
    chance = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / chance[seen])).sum())


def partition(counts: pd.DataFrame, cases: pd.Series, exclusive: bool) -> str:
    """The range of prevalence for two classes or for labels that may overlap, else the measured label skew.

    counts: sites x classes; cases: of each site; exclusive: whether a case has exactly one class. The skew expected by
    chance is (sites - 1) (classes - 1) / (2 n ln 2) bit.
    """
    sites, classes = counts.shape
    if exclusive and classes > 2 and sites > 1:
        by_chance = (sites - 1) * (classes - 1) / (2 * counts.to_numpy().sum() * np.log(2))
        skew = f"I(S;Y) = {label_skew(counts):.2f} bit, {by_chance:.3f} expected by chance"
        return f"Measured label skew {over(sites)}: {skew}"
    if exclusive and classes > 2:
        return f"One site holds all {int(cases.sum()):,} cases of {classes} classes"
    share = counts.div(cases.where(cases > 0), axis=0)
    name = counts.columns[1] if exclusive and classes == 2 else (share.max() - share.min()).idxmax()
    low, high = percent(share[name].min()), percent(share[name].max())
    if low == high:
        return f"Prevalence of {name} is {low} {over(sites)}"
    return f"Prevalence of {name} runs from {low} to {high} {over(sites)}"


def curves(table: pd.DataFrame, metric: str) -> str:
    """How far the best federated method got by its last round, seen from the two bounds if they were run.

    table: columns method, round, value. The share of the gap is told only if the bounds lie at least 0.01 apart in the
    expected order and the method ends between them.
    """
    ends = table.dropna(subset="value").sort_values("round").groupby("method").last()
    score = ends["value"] if rises(metric) else -ends["value"]
    who, best = _best(score)
    if not who:
        return f"{metric_label(metric)} is undefined in every round"
    rounds = int(ends["round"][best])
    start = f"After {rounds} round{'s' * (rounds != 1)} {who}"
    local, central = _bound(score, "local"), _bound(score, "centralized")
    if is_federated(best) and central - local >= RESOLVED and local < score[best] < central:
        closed = percent((score[best] - local) / (central - local))
        return f"{start} has closed {closed} of the gap from local to centralized"
    for name, bound in (("centralized", central), ("local", local)):
        if np.isfinite(bound) and family(best) != name:
            return f"{start} is {_stands(score[best] - bound, metric, name)}"
    return f"{start} reaches {metric_label(metric)} {ends['value'][best]:.3f}"


def _best(score: pd.Series) -> tuple[str, str]:
    """(subject of the sentence, method): the best federated method, or the best of the bounds if there is none."""
    federated = [method for method in score.index if is_federated(method)]
    among = federated or list(score.index)
    if not among:
        return "", ""
    best = max(among, key=lambda method: score[method])
    return (f"{best} (best of {len(federated)})" if len(federated) > 1 else best), best


def _bound(score: pd.Series, name: str) -> float:
    found = [value for method, value in score.items() if family(str(method)) == name]
    return float(found[0]) if found else np.nan


def _stands(gain: float, metric: str, other: str) -> str:
    """Where a method stands by its gain (positive: better) on another."""
    if number(gain, metric)[1:] == number(0.0, metric)[1:]:
        return f"level with {other}"
    return f"{distance(gain, metric)} {'better' if gain > 0 else 'worse'} than {other}"


def local_vs_global(gains: pd.DataFrame, metric: str, method: str, of: int = 1) -> str:
    """At how many sites a method beats its reference, at how many clearly, and where it gains most.

    gains: the method's rows of sites with columns site, value, n, versus, gain (positive: better), clear (1 or -1 where
    the gain's interval excludes zero). of: the number of federated methods of which this one is the best.
    """
    who = f"{method} (best of {of})" if of > 1 else method
    known = gains[gains["versus"] != method].dropna(subset="gain").set_index("site")
    if known.empty:
        return _range(gains, metric, who)
    versus, sites, most = known["versus"].iloc[0], len(known), str(known["gain"].idxmax())
    better, clear, worse = (int(found.sum()) for found in (known["gain"] > 0, known["clear"] > 0, known["clear"] < 0))
    if sites == 1:
        told = "clearly beats" if clear else "does not clearly beat"
        return f"{who} {'clearly loses to' if worse else told} {versus} at {most}"
    verb = "clearly beats" if 0 < clear == better else "beats"
    surely = f", {f'clearly at {clear}' if clear else 'nowhere clearly'}" if clear < better else ""
    lost = f" and clearly loses at {'all' if worse == sites else worse}" if worse else ""
    order = by_size(gains.set_index("site")["n"])
    place = {order[0]: ", the largest", order[-1]: ", the smallest"}.get(most, "")
    top = f"; it gains most at {most}{place}" if better else ""
    return f"{who} {verb} {versus} at {count(better, sites)}{surely}{lost}{top}"


def _range(gains: pd.DataFrame, metric: str, who: str) -> str:
    known = gains.dropna(subset="value").set_index("site")["value"]
    if known.empty:
        return f"{metric_label(metric)} is undefined at every site"
    low, high = known.idxmin(), known.idxmax()
    if low == high:
        return f"{who} reaches {metric_label(metric)} {known[low]:.2f} at {low}"
    ends = f"from {known[low]:.2f} ({low}) to {known[high]:.2f} ({high})"
    return f"{metric_label(metric)} of {who} runs {ends}"


def transfer(values: pd.DataFrame, metric: str) -> str:
    """What local models lose away from home on average, and how often the best shared model beats the home model.

    values: models x sites; rows named as columns are the sites' own models, the others shared ones. Away from home:
    every visitor against the model trained there, on the same cases; where all is defined this is the mean of the
    diagonal less that of the other cells. The shared model is the best federated one by its mean, if there is any.
    """
    scores = values if rises(metric) else -values
    own = [site for site in scores.columns if site in scores.index]
    home = pd.Series(np.diag(scores.loc[own, own]), index=own, dtype=float)
    away = (scores.loc[own, own] - home).mask(np.eye(len(own), dtype=bool)).stack().dropna()
    told = [_away(-float(away.mean()), metric)] if len(away) else []
    shared = scores.drop(index=own).dropna(how="all")
    shared = shared[shared.index.map(is_federated)] if any(map(is_federated, shared.index)) else shared
    if len(shared):
        best = str(shared.mean(axis=1).idxmax())
        gain = (shared.loc[best] - home).dropna()
        if len(gain):
            told.append(f"{best} beats the home model at {count(int((gain > 0).sum()), len(gain))}")
    return "; ".join(told) or f"{metric_label(metric)} of each model at each site"


def _away(lost: float, metric: str) -> str:
    if number(lost, metric)[1:] == number(0.0, metric)[1:]:
        return "Sites' own models lose nothing away from home"
    return f"Sites' own models {'lose' if lost > 0 else 'gain'} {distance(lost, metric)} away from home"


def samples(brightness: pd.Series, scanners: int | None) -> str:
    """The range of mean image brightness over rows, in percent of full scale, and the simulated scanners behind it.

    brightness: mean pixel value of each site or class, in [0, 1]; scanners: how many sites have a scanner of their own,
    None where rows are no sites.
    """
    known = brightness.dropna()
    if known.empty:
        return "No image to show"
    low, high = known.idxmin(), known.idxmax()
    ends = f"runs from {percent(known[low])} ({low}) to {percent(known[high])} ({high})"
    level = f"is {percent(known[low])}" if percent(known[low]) == percent(known[high]) else ends
    tail = "" if scanners is None else f"; {scanners or 'no'} simulated scanner{'s' * (scanners > 1)}"
    return f"Mean image brightness {level}{tail}"


def listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shift(table: pd.DataFrame) -> str:
    """In which axes sites differ more than by chance; table: a row an axis with the columns axis and beyond."""
    if table.empty:
        return "No axis to measure"
    beyond = [str(axis) for axis in table.loc[table["beyond"], "axis"]]
    rest = [str(axis) for axis in table.loc[~table["beyond"], "axis"]]
    if not beyond:
        return f"Sites differ no more than by chance in {listed(rest)}"
    return f"Sites differ beyond chance in {listed(beyond)}" + (f", not in {listed(rest)}" if rest else "")


def population(table: pd.DataFrame, column: str) -> str:
    """The range over sites of a number's median, or of the share of the level that differs most."""
    name = "50 %" if "50 %" in table else str((table.max() - table.min()).drop("n").idxmax())
    known = table[name].dropna()
    if known.empty:
        return f"No site has a value of {column}"
    low, high = str(known.idxmin()), str(known.idxmax())
    told = [f"{known[site]:g}" if name == "50 %" else percent(known[site]) for site in (low, high)]
    what = f"Median {column}" if name == "50 %" else f"Share of {column} {name}"
    if told[0] == told[1]:
        return f"{what} is {told[0]} {over(len(known))}"
    return f"{what} runs from {told[0]} ({low}) to {told[1]} ({high})"


def doses(own: pd.DataFrame, others: pd.DataFrame) -> str:
    """On how many axes the measured shift rises with its dose, and whether dose 0 and the other axes stay at chance.

    own: columns axis, dose, value, beyond (share of seeds) of each axis's own measure, medians over seeds; others:
    column beyond, a row each measure of another axis at each dose and seed.
    """
    ranks = own.groupby("axis")[["dose", "value"]].rank().assign(axis=own["axis"])
    rho = ranks.groupby("axis").apply(lambda rows: rows["dose"].corr(rows["value"]))
    axes, rising = len(rho), int((rho >= 0.99).sum())
    what = "the axis" if axes == 1 and rising else "no axis" if not rising else count(rising, axes, "axes")
    zero = own.loc[own["dose"] == 0]
    calm = "; at dose 0 it is chance" if len(zero) and (zero["beyond"] <= 0.5).all() else ""
    share = float(others["beyond"].mean()) if len(others) else np.nan
    leak = f"; other axes lie beyond chance in {percent(share)} of cells" if share > 0 else ""
    leak = "; no other axis leaves chance" if share == 0 else leak
    return f"The measured shift rises with the dose on {what}{calm}{leak}"
