"""Does every dose do what it says, and nothing else? `python benchmarks/doses.py [dataset ...]`.

Moves one axis at a time over doses 0, 0.1, ..., 1 and ten seeds, measures all of them each time, prints a table of axis
by measure and keeps it under benchmarks/results.
"""

import argparse
import os
import re
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd

from fedlab import load
from fedlab.heterogeneity.axes import AXES
from fedlab.partitioning.dose_curve import SITES, dose_response, headlines, summary

DATASETS = ["phantoms(cases=4500)", "pneumoniamnist", "retinamnist"]
RESULTS = Path(__file__).parent / "results"


def measured(dataset: str, axes: list[str], seeds: int, sites: int | None) -> tuple[pd.DataFrame, str]:
    """The summary of headlines, and a line on what was done."""
    cases, start = load(dataset), time.perf_counter()
    frame = dose_response(cases, axes, seeds=range(seeds), sites=sites)
    seconds, partitions = time.perf_counter() - start, frame.groupby(["axis", "dose", "seed"]).ngroups
    used = f"{sites} sites" if sites else f"4 sites, {SITES['geography']} for geography"
    line = f"{len(cases):,} cases, {used}, {seeds} seeds, {partitions} partitions, {seconds:.0f} s on one core"
    return summary(headlines(frame)), line


def table(found: pd.DataFrame) -> list[str]:
    """Markdown: an axis moved a row, an axis measured a column; on the diagonal how the measure rises with the dose."""
    columns = found.drop_duplicates("measured").set_index("measured")["measure"].reindex(AXES).dropna()
    head = [f"{axis}: `{measure}`" for axis, measure in columns.items()]
    lines = ["| moved \\ measured | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    cells = {(row["axis"], row["measured"]): _cell(row) for _, row in found.iterrows()}
    for axis in dict.fromkeys(found["axis"]):
        lines.append(f"| {axis} | " + " | ".join(cells.get((axis, other), "") for other in columns.index) + " |")
    return lines


def _cell(row: pd.Series) -> str:
    if row["axis"] != row["measured"]:
        return f"{row['inside']:.0%}"
    return f"**rises {row['rise']:.3f}** ({row['rise of median']:.3f}), at 0 {row['inside at 0']:.0%} inside"


LEGEND = """\
On the diagonal: rank correlation (Spearman) of the realised measure with the dose, median over seeds, and in brackets
that of the median over seeds; then the share of seeds whose measure is inside its null interval at dose 0. Elsewhere:
the share of doses and seeds at which the measure of an axis that is not moved stays inside its interval, which holds
97.5 % of chance; one seed's doses use the same random numbers, so they leave it together. Empty: not measured, since it
stays at a dose or nothing of it is known. Geography moves nothing by itself: prevalence, presentation and population
stay at 0.5 meanwhile."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("datasets", nargs="*", default=DATASETS)
    options.add_argument("--axes", nargs="+", default=list(AXES))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--sites", type=int, default=None)
    options.add_argument("--folder", type=Path, default=RESULTS)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    for dataset in given.datasets:
        found, line = measured(dataset, given.axes, given.seeds, given.sites)
        text = "\n".join([f"# Dose and response: {dataset}", "", line + ".", "", *table(found), "", LEGEND, ""])
        print(text)
        given.folder.mkdir(exist_ok=True)
        (given.folder / f"doses-{re.split('[(]', dataset)[0]}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
