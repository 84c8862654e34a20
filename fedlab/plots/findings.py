"""The findings that titles of figures on methods state, computed from the tables that the figures draw."""

import pandas as pd

from fedlab.plots.style import family, is_federated, metric_label, rises
from fedlab.plots.titles import count, distance, number, percent


def amount(megabytes: float) -> str:
    """Megabytes with as many digits as a reader wants."""
    if megabytes >= 1000:
        return f"{megabytes / 1000:,.1f} GB"
    digits = 0 if megabytes >= 100 else 1 if megabytes >= 1 else 2
    return f"{megabytes:,.{digits}f}" if megabytes else "–"


def ranking(table: pd.DataFrame, metric: str) -> str:
    """How many methods clearly beat the reference, and which is the best with its place under centralized training.

    table: method, value, gain, clear, versus, best first.
    """
    known = table.dropna(subset="value")
    if known.empty:
        return f"{metric_label(metric)} is undefined for every method"
    shared = known[known["method"].map(is_federated)]
    others = known[known["gain"].notna() & (known["method"].map(family) != "local")]
    best = str((shared if len(shared) else known)["method"].iloc[0])
    told = f"{best} is best of {len(shared)}" if len(shared) > 1 else f"{best} leads"
    central = known.loc[known["method"].map(family) == "centralized", "value"]
    value = float(known.loc[known["method"] == best, "value"].iloc[0])
    if len(central):
        gain = (value - float(central.iloc[0])) * (1 if rises(metric) else -1)
        level = number(gain, metric)[1:] == number(0.0, metric)[1:]
        told += ", level with centralized" if level else f", {distance(gain, metric)} {_side(gain)} centralized"
    if len(others):
        clear = int((others["clear"] > 0).sum())
        versus = str(others["versus"].iloc[0])
        told += f"; {count(clear, len(others), 'methods')} clearly beat{'s' * (clear == 1)} {versus}"
    return told


def _side(gain: float) -> str:
    return "above" if gain > 0 else "below"


def price(table: pd.DataFrame, metric: str, against: str) -> str:
    """The cheapest and the best of the methods that no other beats in both, and what the step between them costs.

    table: method, value, cost, best.
    """
    frontier = table[table["best"]].sort_values("cost")
    if frontier.empty:
        return "No method sends anything"
    cheap, dear = frontier.iloc[0], frontier.iloc[-1]
    unit = "MB" if against == "megabytes" else "minutes"
    if len(frontier) == 1:
        return f"{cheap['method']} is both best and cheapest, with {_cost(cheap['cost'])} {unit}"
    gain = distance(dear["value"] - cheap["value"], metric)
    times = dear["cost"] / cheap["cost"]
    return (
        f"{cheap['method']} is cheapest ({_cost(cheap['cost'])} {unit}); {dear['method']} is {gain} better for"
        f" {times:.1f} times as much"
    )


def _cost(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def forgetting(falls: pd.Series, metric: str) -> str:
    """By how much the metric of a site falls, on average, until the model comes back; and where it falls most.

    falls: site -> mean fall of the metric between its visits.
    """
    lost = falls.dropna() * (1 if rises(metric) else -1)
    if lost.empty:
        return "One visit a site: nothing can be said of forgetting"
    mean, worst = float(lost.mean()), str(lost.idxmax())
    if number(mean, metric)[1:] == number(0.0, metric)[1:]:
        told = "Between visits a site's metric stays level on average"
    else:
        told = f"Between visits a site {'loses' if mean > 0 else 'gains'} {distance(mean, metric)} on average"
    return told + (f", most at {worst} ({distance(lost[worst], metric)})" if lost[worst] > 0 and len(lost) > 1 else "")


def presence(table: pd.DataFrame, idle: int) -> str:
    """The share of site rounds that counted, who was missing most, and how many rounds merged nothing."""
    counted = table["state"].isin(["took part", "led", "straggled"])
    missing = (~counted).groupby(table["site"]).sum()
    rounds = table["round"].nunique()
    told = f"{percent(counted.mean())} of all site rounds counted"
    if missing.max() > 0:
        told += f"; {missing.idxmax()} was missing most, in {int(missing.max())} of {rounds} rounds"
    return told + (f"; in {idle} round{'s' * (idle != 1)} nothing was merged" if idle else "")


def leakage(table: pd.DataFrame) -> str:
    """What is told of an image at the first and at the last cut."""
    if table.empty:
        return "No cut to look at"
    known = 1 - table.set_index("cut")["unexplained"].clip(upper=1)
    first, last = known.index[0], known.index[-1]
    if first == last:
        return f"At cut {first} an attacker rebuilds {percent(known[first])} of the pixels' variance"
    above = "" if (table["correlation"] > table["null_high"]).all() else "; not every cut tells more than chance"
    return (
        f"An attacker rebuilds {percent(known[first])} of the pixels' variance at cut {first},"
        f" {percent(known[last])} at cut {last}{above}"
    )
