"""How the methods learn, round after round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from fedlab.plots import style, titles
from fedlab.plots.reading import OUTSIDE, SPLITS, headline_metric, listed, used

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 12  # evaluated rounds up to which each is marked


def curves(runs: Any, metric: str | None = None, *, ax: Axes | None = None, split: str = "val") -> style.Drawing:
    """The mean over sites of a metric in every evaluated round, a line a method; the band spans its seeds.

    runs: runs of one setting that differ in method and seed. metric: the runs' headline if None (training: the loss).
    Returns the figure and a table: method, round, value, low, high (worst and best seed), seeds, sites (with a value).
    """
    found = listed(runs)
    name = headline_metric(found, metric, split)
    table = curve_table(found, name, split)
    with style.page(ax, 9, 4) as ax:
        draw(ax, table, style.roles(table["method"]))
        ax.set_xlabel("communication round" + _band(table))
        ax.set_ylabel(f"{style.metric_label(name)} on {SPLITS[split]} cases,\nmean over {_sites(table, found)}")
        style.headline(ax, titles.curves(table, name))
        _name_lines(ax, table)
    return style.Drawing(style.root(ax), table)


def curve_table(runs: list[Any], metric: str, split: str) -> pd.DataFrame:
    """Mean, worst and best over seeds of the mean over sites; only rounds that all seeds of a method evaluated."""
    means = pd.concat([site_means(run.rounds, metric, split).assign(**_who(run)) for run in runs])
    twice = means.duplicated(["method", "seed", "round"])
    if twice.any():
        method, seed = means.loc[twice, ["method", "seed"]].iloc[0]
        raise ValueError(f"found several runs of {method!r} with seed {seed}: draw the runs of one setting at a time")
    table = means.groupby(["method", "round"], sort=False).agg(
        value=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        seeds=("seed", "size"),
        sites=("sites", "min"),
    )
    table = table.reset_index().sort_values(["method", "round"], kind="stable", ignore_index=True)
    complete = table["seeds"] == table.groupby("method")["seeds"].transform("max")
    return table[complete].reset_index(drop=True)


def _who(run: Any) -> dict[str, Any]:
    return {"method": run.method, "seed": run.experiment.seed}


def site_means(rounds: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Columns round, value, low, high, sites: mean, least, most and number of the sites with a value.

    Each site is judged on the model that it uses.
    """
    rows = rounds[rounds["split"].eq(split) & rounds["metric"].eq(metric) & ~rounds["site"].isin(OUTSIDE)]
    if rows.empty:
        known = sorted(set(rounds.loc[rounds["split"] == split, "metric"]))
        raise ValueError(
            f"no round holds {metric!r} of {split} cases: found {known}; choose one of these or another split"
        )
    by_round = used(rows).groupby("round")["value"]
    table = by_round.agg(value="mean", low="min", high="max", sites="count")
    return table.reset_index()


def draw(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    """Lines and bands of a table with columns method, round, value, low, high; bounds below the federated methods."""
    for method, rows in table.groupby("method", sort=False):
        role = roles[str(method)]
        marker = role.marker if len(rows) <= FEW else ""
        over = 3 if style.is_federated(str(method)) else 2
        if (rows["high"] > rows["low"]).any():
            ax.fill_between(rows["round"], rows["low"], rows["high"], color=role.color, alpha=0.15, lw=0, zorder=1)
        ax.plot(
            rows["round"],
            rows["value"],
            color=role.color,
            linestyle=role.dash,
            marker=marker,
            markersize=4.5,
            zorder=over,
            label=method,
            clip_on=False,
        )
    first, last = table["round"].min(), table["round"].max()
    ax.set_xlim((first, last) if last > first else (first - 0.5, last + 0.5))
    ax.locator_params(axis="x", integer=True)


def _name_lines(ax: Axes, table: pd.DataFrame) -> None:
    last = table.dropna(subset="value").groupby("method", sort=False).last().reset_index()
    roles = style.roles(table["method"])
    style.end_labels(ax, [(row.round, row.value, row.method, roles[row.method].ink) for row in last.itertuples()])


def _band(table: pd.DataFrame) -> str:
    seeds = sorted({int(n) for n in table["seeds"] if n > 1})
    if not seeds:
        return ""
    return f" (band: worst to best of {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''} seeds)"


def _sites(table: pd.DataFrame, runs: list[Any]) -> str:
    """How many sites have a value, and of how many if the metric is undefined at some."""
    least, most = int(table["sites"].min()), int(table["sites"].max())
    known = str(most) if least == most else f"{least} to {most}"
    total = max(len(set(run.partition_table["site"]) - set(getattr(run, "unseen", ()))) for run in runs)
    return f"{known} of {total} sites" if least < total else f"{total} site{'s' * (total != 1)}"
