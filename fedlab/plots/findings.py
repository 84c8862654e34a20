"""The findings that titles of figures on methods state, computed from the tables that the figures draw."""

from collections.abc import Collection, Sized

import pandas as pd

from fedlab.plots.style import family, is_federated, metric_label, rises
from fedlab.plots.titles import count, distance, listed, number, percent


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
    others = known[known["gain"].notna() & (known["method"] != known["versus"])]
    best = str((shared if len(shared) else known)["method"].iloc[0])
    level = list(shared.loc[shared["value"] == shared["value"].iloc[0], "method"]) if len(shared) else [best]
    told = f"{listed(level)} {_are(level)} best of {len(shared)}" if len(shared) > 1 else f"{best} leads"
    central = known.loc[known["method"].map(family) == "centralized", "value"]
    value = float(known.loc[known["method"] == best, "value"].iloc[0])
    if len(central) and family(best) != "centralized":
        gain = (value - float(central.iloc[0])) * (1 if rises(metric) else -1)
        equal = number(gain, metric)[1:] == number(0.0, metric)[1:]
        told += ", level with centralized" if equal else f", {distance(gain, metric)} {_side(gain)} centralized"
    return told + (f"; {_clear(others)}" if len(others) else "")


def _clear(others: pd.DataFrame) -> str:
    """How many of the methods that are not the reference clearly beat it."""
    clear, versus = int((others["clear"] > 0).sum()), str(others["versus"].iloc[0])
    if len(others) == 1:
        return f"{others['method'].iloc[0]} {'clearly beats' if clear else 'does not clearly beat'} {versus}"
    return f"{count(clear, len(others), 'methods')} clearly beat{'s' * (clear == 1)} {versus}"


def _side(gain: float) -> str:
    return "above" if gain > 0 else "below"


def price(table: pd.DataFrame, metric: str, against: str) -> str:
    """The cheapest and the best of the methods that no other beats, what the step between them costs, who is left out.

    table: method, value, cost, best; NaN where undefined.
    """
    missing = list(table.loc[table[["value", "cost"]].isna().any(axis=1), "method"])
    left_out = f"; {listed(missing)} left out as undefined" if missing else ""
    frontier = table[table["best"]].sort_values("cost", kind="stable")
    if frontier.empty:
        sends = (table["cost"] != 0).any()
        return ("No method that sends anything has a value" if sends else "No method sends anything") + left_out
    unit = "MB" if against == "megabytes" else "minutes"
    least, most = frontier["cost"].iloc[[0, -1]]
    cheap, dear = (frontier[frontier["cost"] == cost] for cost in (least, most))
    if least == most:
        return f"{_who(cheap)} both best and cheapest, with {_cost(least)} {unit}{left_out}"
    gain = distance(dear["value"].iloc[0] - cheap["value"].iloc[0], metric)
    step = f"{_who(dear)} {gain} better for {most / least:.1f} times as much"
    return f"{_who(cheap)} cheapest ({_cost(least)} {unit}); {step}{left_out}"


def _who(tied: pd.DataFrame) -> str:
    """ "a is", or "a and b are" where methods tie."""
    return f"{listed(list(tied['method']))} {_are(tied)}"


def _are(several: Sized) -> str:
    return "is" if len(several) == 1 else "are"


def _cost(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def forgetting(falls: pd.Series, metric: str) -> str:
    """By how much the metric of a site falls, on average, until the model comes back; and where it falls most.

    falls: site -> mean fall of the metric between its visits.
    """
    lost = falls.dropna() * (1 if rises(metric) else -1)
    if lost.empty:
        return "No site is watched from one visit to its next: nothing can be said of forgetting"
    mean, worst = float(lost.mean()), str(lost.idxmax())
    if number(mean, metric)[1:] == number(0.0, metric)[1:]:
        told = "Between visits a site's metric stays level on average"
    else:
        told = f"Between visits a site {'loses' if mean > 0 else 'gains'} {distance(mean, metric)} on average"
    return told + (f", most at {worst} ({distance(lost[worst], metric)})" if lost[worst] > 0 and len(lost) > 1 else "")


def presence(table: pd.DataFrame, idle: Collection[int]) -> str:
    """The share of site rounds that counted, who was missing most, and how many rounds merged nothing (`idle`)."""
    there = table["state"].isin(["took part", "led", "straggled"])
    missing = (~there).groupby(table["site"]).sum()
    told = f"{percent((there & ~table['round'].isin(idle)).mean())} of all site rounds counted"
    if (most := int(missing.max())) > 0:
        who = list(missing.index[missing == most])
        was = f"{listed(who)} {'was' if len(who) == 1 else 'were'} missing most"
        told += f"; {was}, in {most} of {table['round'].nunique()} rounds"
    return told + (f"; in {len(idle)} round{'s' * (len(idle) != 1)} nothing was merged" if idle else "")


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
