"""Training round by round: metric (`curves`), forgetting between visits (`forgetting`), sites (`participation`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.analysis.grouping import check_only_seeds_differ
from fedlab.plots import style, titles
from fedlab.plots.inputs import OUTSIDE, SPLITS, by_size, headline_metric, listed, models_in_use, training_sizes
from fedlab.plots.names import more, names
from fedlab.plots.paper import LABEL, Paper, headline, label_below, legend, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 2.4  # inches: height of the axes of learning curves in print
FEW = 12  # evaluated rounds up to which each is marked
MOST = 8  # panels of `forgetting`
PANEL = 24  # characters of a name left of such a panel
SITE = 0.24  # inches: a row of `participation`
SIGNS = {  # state -> (marker, colour, filled)
    "took part": ("s", style.BLUE, True),
    "led": ("*", style.BLUE, True),
    "straggled": ("s", style.BLUE, False),
    "late": ("x", "#D55E00", True),
    "failed": ("X", "#D55E00", True),
    "absent": ("_", style.GREY, True),
    "not sampled": (".", style.PALE, True),
}
UNION = "all sites"  # site name of training on the pooled cases
EVENTS = {"leader": "led", "straggled": "straggled", "late": "late", "failed": "failed", "absent": "absent"}


# -- learning curves -------------------------------------------------------------------------------------------------


def curves(
    runs: Any, metric: str | None = None, *, ax: Axes | None = None, split: str = "val", width: float | None = None
) -> style.Drawing:
    """Draw the macro-average over sites of a metric in every evaluated round, a line a method.

    Bands span the seeds, from the worst to the best. The title states values of one round and claims no difference.

    Parameters
    ----------
    runs : Run or list of Run
        Runs of one setting that differ in method and seed.
    metric : str, optional
        A metric of the runs; their headline metric by default, the loss for training cases.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width in print in mm, such as 85 for a column of a journal, for `fedlab.plots.save_for_print`.
    split : {"val", "train"}, default "val"
        The cases on which models are evaluated.

    Returns
    -------
    Drawing
        (figure, table). table: method, round, value, low, high (range over seeds), seeds, sites (with a value).

    Raises
    ------
    ValueError
        If no round holds the metric, or two runs have the same method and seed.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = fedlab.run(exp.with_(method="fedavg"), folder=folder)
    ...     table = fedlab.plots.curves(run).table
    >>> list(table["round"])
    [1, 2]
    """
    found = listed(runs)
    name = headline_metric(found, metric, split)
    table = curve_table(found, name, split)
    layout = paper(width, 9, ax)
    with style.page(ax, layout.width, max(4, 1.4 + style.LINE * table["method"].nunique())) as ax:
        draw(ax, table, style.roles(table["method"]))
        value = f"{style.metric_label(name)} on {SPLITS[split]} cases"
        ax.set_ylabel(value if layout.narrow else f"{value},\nmacro-average over {_sites(table, found)}")
        label = "communication round" + _band(table)
        label_below(ax, layout, f"{label}; macro-average over {_sites(table, found)}" if layout.narrow else label)
        pad = _legend(ax, table, layout) + 6 if layout.narrow else 8
        headline(ax, layout, titles.curves(table, name, SPLITS[split]), pad, LINES)
        if not layout.narrow:
            _name_lines(ax, table)
    return style.Drawing(style.root(ax), table)


def curve_table(runs: list[Any], metric: str, split: str) -> pd.DataFrame:
    """Compute mean and range over seeds of the mean over sites, in rounds that all seeds of a method evaluated."""
    check_only_seeds_differ(runs)
    means = pd.concat(
        [site_means(run.rounds, metric, split).assign(method=run.method, seed=run.experiment.seed) for run in runs]
    )
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


def site_means(rounds: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Compute columns round, value, low, high, sites: mean, minimum, maximum and number of the sites with a value.

    Each site is evaluated on the model that it uses.
    """
    rows = rounds[rounds["split"].eq(split) & rounds["metric"].eq(metric) & ~rounds["site"].isin(OUTSIDE)]
    if rows.empty:
        known = sorted(set(rounds.loc[rounds["split"] == split, "metric"]))
        raise ValueError(
            f"no round holds {metric!r} of {split} cases: found {known}; choose one of these or another split"
        )
    by_round = models_in_use(rows).groupby("round")["value"]
    table = by_round.agg(value="mean", low="min", high="max", sites="count")
    return table.reset_index()


def draw(ax: Axes, table: pd.DataFrame, roles: dict[str, style.Role]) -> None:
    """Draw lines and bands of a table with columns method, round, value, low, high, federated methods on top."""
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


def _legend(ax: Axes, table: pd.DataFrame, layout: Paper) -> float:
    """Name the methods above the axes; return the height of the legend in points."""
    from matplotlib.lines import Line2D

    roles = style.roles(table["method"])
    looks = {name: roles[method] for method, name in names(roles, 2 * LABEL).items()}
    handles = [Line2D([], [], color=r.color, ls=r.dash, marker=r.marker, lw=1.2, ms=4.5) for r in looks.values()]
    return legend(ax, layout, handles, list(looks))


def _name_lines(ax: Axes, table: pd.DataFrame) -> None:
    """Write each method's name at the end of its line."""
    last = table.dropna(subset="value").groupby("method", sort=False).last().reset_index()
    roles = style.roles(table["method"])
    style.end_labels(ax, [(row.round, row.value, row.method, roles[row.method].ink) for row in last.itertuples()])


def _band(table: pd.DataFrame) -> str:
    """Describe the band, if there are several seeds."""
    seeds = sorted({int(n) for n in table["seeds"] if n > 1})
    if not seeds:
        return ""
    return f" (band: worst to best of {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''} seeds)"


def _sites(table: pd.DataFrame, runs: list[Any]) -> str:
    """Count the sites with a value, and of how many if the metric is undefined at some."""
    least, most = int(table["sites"].min()), int(table["sites"].max())
    known = str(most) if least == most else f"{least} to {most}"
    total = max(len(set(run.partition_table["site"]) - set(getattr(run, "unseen", ()))) for run in runs)
    return f"{known} of {total} sites" if least < total else f"{total} site{'s' * (total != 1)}"


# -- forgetting between visits ---------------------------------------------------------------------------------------


def forgetting(run: Any, *, ax: Axes | None = None) -> style.Drawing:
    """Draw the validation metric at every site after every visit of a model that travels, a panel a site.

    Filled marks are visits to the panel's site, the line passes through visits elsewhere. The fall from a mark to just
    before the next one is forgetting; its mean is at the right. The line breaks, and no fall is counted, across rounds
    that were not evaluated (`evaluate_every` above 1). At most eight panels: the largest and the smallest sites.

    Parameters
    ----------
    run : Run
        A run of a method whose model travels (cyclic, split), trained with `watch_visits=True`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Drawing
        (figure, table). table: site, round, visit (numbered over all rounds), at (the site visited), value, own
        (whether the model has just been trained at this site).

    Raises
    ------
    ValueError
        If the run has no scores between visits.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = fedlab.run(exp.with_(method="cyclic", watch_visits=True), folder=folder)
    ...     table = fedlab.plots.forgetting(run).table
    >>> len(table)  # 2 rounds, 2 visits a round, evaluated at 2 sites
    8
    """
    table = visits_table(run)
    falls = lost(table)
    sizes = training_sizes([run])
    order = [site for site in by_size(sizes) if site in set(table["site"])]
    shown = order if len(order) <= MOST else [*order[: MOST // 2], *order[-MOST // 2 :]]
    metric, called = str(run.visits["metric"].iloc[0]), names(shown, PANEL)
    with style.page(ax, 9, 0.9 + 0.85 * len(shown)) as ax:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_axis_off()
        known = table.loc[table["site"].isin(shown), "value"].dropna()
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        spare = 0.08 * max(high - low, 0.05)
        for place, site in enumerate(shown):
            panel = ax.inset_axes((0.0, 1 - (place + 1) / len(shown) + 0.02, 1.0, 1 / len(shown) - 0.05))
            _visit_panel(
                panel, table[table["site"] == site], (low - spare, high + spare), f"{called[site]}\nn={sizes[site]:,}"
            )
            _fall(panel, falls.get(site, np.nan), metric)
            if place + 1 < len(shown):
                panel.set_xticklabels([])
            else:
                panel.set_xlabel(f"{_visits(table)}; {style.metric_label(metric)} on the validation cases of each site")
        style.headline(ax, titles.forgetting(falls, metric), pad=6)
    return style.Drawing(style.root(ax), table)


def visits_table(run: Any) -> pd.DataFrame:
    """Number the visits of all evaluated rounds; own: whether the model has just been trained at that site."""
    if run.visits.empty:
        raise ValueError(
            f"{run.method!r} has no scores between visits: run a method whose model travels (cyclic, split) with"
            " watch_visits=True"
        )
    frame = run.visits.sort_values(["round", "visit"], kind="stable")
    number = (frame["round"].ne(frame["round"].shift()) | frame["visit"].ne(frame["visit"].shift())).cumsum()
    own = frame["at"] == frame["site"]
    return frame.assign(visit=number, own=own)[["site", "round", "visit", "at", "value", "own"]]


def _stretches(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Split rows wherever a round is not followed by the next one."""
    return [stretch for _, stretch in rows.groupby((rows["round"].diff() > 1).cumsum())]


def _visits(table: pd.DataFrame) -> str:
    """Label the axis of visits."""
    return "visit" + (" (breaks: rounds that were not evaluated)" if len(_stretches(table)) > 1 else "")


def _visit_panel(panel: Axes, rows: pd.DataFrame, limits: tuple[float, float], name: str) -> None:
    """Draw one site: a line through all visits, marks at its own."""
    own = rows[rows["own"]]
    for stretch in _stretches(rows):
        panel.plot(stretch["visit"], stretch["value"], color=style.GREY, lw=0.9, zorder=1)
    panel.plot(own["visit"], own["value"], ls="none", marker="o", ms=4.5, color=style.BLUE, zorder=2)
    if rows["value"].isna().all():
        panel.text(0.01, 0.5, "undefined on these validation cases", transform=panel.transAxes, va="center", fontsize=8)
    panel.set_ylim(*limits)
    panel.set_xlim(0.5, rows["visit"].max() + 0.5)
    panel.spines[["top", "right"]].set_visible(False)
    panel.locator_params(axis="x", integer=True)
    panel.locator_params(axis="y", nbins=3)
    panel.tick_params(labelsize=8)
    panel.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=28, fontsize=8.5)


def _fall(panel: Axes, fall: float, metric: str) -> None:
    """Write the mean change at this site, right of its panel."""
    if np.isfinite(fall):
        look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8}
        text = f"{titles.number(-fall, metric)}\n{titles.unit(metric)}"
        panel.annotate(text, (1.0, 0.5), xytext=(10, 0), va="center", **look)


def lost(table: pd.DataFrame) -> pd.Series:
    """Compute by site the mean fall of the metric from a visit to just before the next one, in consecutive rounds."""
    falls = {}
    for site, rows in table.groupby("site"):
        each = [fall for stretch in _stretches(rows) for fall in _falls(stretch)]
        falls[site] = float(np.nanmean(each)) if len(each) and np.isfinite(each).any() else np.nan
    return pd.Series(falls, dtype=float)


def _falls(rows: pd.DataFrame) -> list[float]:
    """Return the fall from each visit at the site to just before the next one."""
    values, own = rows["value"].to_numpy(float), np.flatnonzero(rows["own"])
    return [float(values[first] - values[following - 1]) for first, following in pairwise(own)]


# -- participation of sites ------------------------------------------------------------------------------------------


def participation(run: Any, *, ax: Axes | None = None) -> style.Drawing:
    """Draw the participation of every site in every round, with the rounds in which nothing was merged shaded.

    States: took part, led (merged the models), straggled (did part of its steps), late (missed the deadline), failed,
    absent, not sampled.

    Parameters
    ----------
    run : Run
        A finished run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Drawing
        (figure, table). table: site, round, state.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = fedlab.run(exp.with_(method="fedavg"), folder=folder)
    ...     table = fedlab.plots.participation(run).table
    >>> set(table["state"])
    {'took part'}
    """
    table = participation_table(run)
    order = by_size(training_sizes([run]).drop(list(getattr(run, "unseen", ())), errors="ignore"))
    idle = sorted(set(run.events.loc[run.events["event"].isin(["nothing merged", "no quorum"]), "round"]))
    rows, pitch = style.fitting(len(order), SITE)
    left = [more(len(order) - rows, "sites")] * (len(order) > rows)
    order = order[:rows]
    with style.page(ax, 9, 1.3 + pitch * (rows + len(left))) as ax:
        for number in idle:
            ax.axvspan(number - 0.5, number + 0.5, color=style.PALE, alpha=0.6, lw=0, zorder=0)
        place = {site: row for row, site in enumerate(order)}
        for state, each in table[table["site"].isin(order)].groupby("state", sort=False):
            marker, color, filled = SIGNS[str(state)]
            look: dict[str, Any] = {"mfc": color if filled else "white", "mec": color, "mew": 1.3, "ls": "none"}
            size = {"*": 9.0, ".": 3.0}.get(marker, 5.5)
            ax.plot(each["round"], each["site"].map(place), marker=marker, ms=size, label=str(state), **look)
        ax.set_yticks(range(rows + len(left)), [*names(order).values(), *left])
        ax.set_ylim(rows + len(left) - 0.5, -0.5)
        ax.set_xlim(0.4, int(run.rounds["round"].max()) + 0.6)
        ax.locator_params(axis="x", integer=True)
        ax.set_xlabel("round" + (" (shaded: nothing merged)" if idle else ""))
        ax.tick_params(axis="y", length=0)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        style.headline(ax, titles.participation(table, idle))
    return style.Drawing(style.root(ax), table)


def participation_table(run: Any) -> pd.DataFrame:
    """Compute the state of every site in every round.

    Where the pooled cases of all sites are trained on, all sites take part; a site that only trained a model for itself
    does not.
    """
    rounds = run.rounds
    trained = rounds[(rounds["split"] == "train") & (rounds["metric"] == "loss") & rounds["value"].notna()]
    sites = [site for site in training_sizes([run]).index if site not in getattr(run, "unseen", ())]
    worked = set(zip(trained["site"], trained["round"], strict=True))
    worked |= {(site, number) for name, number in worked if name == UNION for site in sites}
    events = run.events[run.events["event"].isin(EVENTS)]
    states = {(e.site, e.round): EVENTS[e.event] for e in events.itertuples()}
    rows = [
        (site, number, states.get((site, number), "took part" if (site, number) in worked else "not sampled"))
        for site in sites
        for number in range(1, int(run.rounds["round"].max()) + 1)
    ]
    table = pd.DataFrame(rows, columns=["site", "round", "state"])
    return table.sort_values("state", key=lambda s: s.map(list(SIGNS).index), kind="stable", ignore_index=True)
