"""Who took part in which round, who led, who failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from fedlab.plots import findings, style
from fedlab.plots.reading import by_size, training_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNS = {  # state -> (marker, colour, filled, meaning)
    "took part": ("s", style.BLUE, True),
    "led": ("*", style.BLUE, True),
    "straggled": ("s", style.BLUE, False),
    "late": ("x", "#D55E00", True),
    "failed": ("X", "#D55E00", True),
    "absent": ("_", style.GREY, True),
    "not drawn": (".", style.PALE, True),
}
UNION = "all sites"  # the name under which training on their pooled cases is written down
EVENTS = {"leader": "led", "straggled": "straggled", "late": "late", "failed": "failed", "absent": "absent"}


def presence(run: Any, *, ax: Axes | None = None) -> style.Drawing:
    """Every site in every round: took part, led the merge, did part of its work, came too late, failed, was absent.

    Rounds in which nothing was merged are shaded. Returns the figure and a table: site, round, state.
    """
    table = presence_table(run)
    order = by_size(training_sizes([run]).drop(list(getattr(run, "unseen", ())), errors="ignore"))
    idle = sorted(set(run.events.loc[run.events["event"].isin(["nothing merged", "no quorum"]), "round"]))
    with style.page(ax, 9, 1.3 + 0.24 * len(order)) as ax:
        for number in idle:
            ax.axvspan(number - 0.5, number + 0.5, color=style.PALE, alpha=0.6, lw=0, zorder=0)
        for state, rows in table.groupby("state", sort=False):
            marker, color, filled = SIGNS[str(state)]
            look: dict[str, Any] = {"mfc": color if filled else "white", "mec": color, "mew": 1.3, "ls": "none"}
            size = {"*": 9.0, ".": 3.0}.get(marker, 5.5)
            places = [order.index(site) for site in rows["site"]]
            ax.plot(rows["round"], places, marker=marker, ms=size, label=str(state), **look)
        ax.set_yticks(range(len(order)), order)
        ax.set_ylim(len(order) - 0.5, -0.5)
        ax.set_xlim(0.4, int(run.rounds["round"].max()) + 0.6)
        ax.locator_params(axis="x", integer=True)
        ax.set_xlabel("round" + (" (shaded: nothing merged)" if idle else ""))
        ax.tick_params(axis="y", length=0)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        style.headline(ax, findings.presence(table, idle))
    return style.Drawing(style.root(ax), table)


def presence_table(run: Any) -> pd.DataFrame:
    """The state of every site in every round, the most telling one where there are several.

    Where the union of all sites is trained, all of them take part; who only trained a model of its own does not.
    """
    rounds = run.rounds
    trained = rounds[(rounds["split"] == "train") & (rounds["metric"] == "loss") & rounds["value"].notna()]
    sites = [site for site in training_sizes([run]).index if site not in getattr(run, "unseen", ())]
    worked = set(zip(trained["site"], trained["round"], strict=True))
    worked |= {(site, number) for name, number in worked if name == UNION for site in sites}
    events = run.events[run.events["event"].isin(EVENTS)]
    told = {(e.site, e.round): EVENTS[e.event] for e in events.itertuples()}
    rows = [
        (site, number, told.get((site, number), "took part" if (site, number) in worked else "not drawn"))
        for site in sites
        for number in range(1, int(run.rounds["round"].max()) + 1)
    ]
    table = pd.DataFrame(rows, columns=["site", "round", "state"])
    return table.sort_values("state", key=lambda s: s.map(list(SIGNS).index), kind="stable", ignore_index=True)
