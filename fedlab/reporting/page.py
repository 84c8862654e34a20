"""`report`: one HTML file on runs that a supervisor reads in five minutes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlab.core import files
from fedlab.core.summary import plural
from fedlab.partitioning.partitions import Partition
from fedlab.reporting.chapter import chapter
from fedlab.reporting.gather import Federation, collect, federations, names_of
from fedlab.reporting.markup import Markup, element, joined
from fedlab.reporting.setting import called, doses

LARGEST = 10 * 2**20  # bytes
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: #1a1a1a;
  background: #fff; max-width: 60rem; margin: 2rem auto; padding: 0 1.2rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #d5d9e0; }
section.chapter > h1 { margin-top: 3rem; }
.lead { font-size: 1.15rem; border-left: 4px solid #0072b2; padding: .2rem 0 .2rem 1rem; }
.note { color: #555; }
.warnings { background: #fff6e0; border-left: 4px solid #e69f00; padding: .1rem 1rem; margin: 1.5rem 0; }
.warnings h2 { border: 0; margin-top: .4rem; padding: 0; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: #555; } dd { margin: 0; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .82rem; line-height: 1.35; }
caption { text-align: left; color: #555; padding: .2rem 0; }
th, td { padding: .25rem .45rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e9ebee;
  max-width: 24rem; }
th { overflow-wrap: break-word; }
thead th { border-bottom: 2px solid #808080; vertical-align: bottom; max-width: 11rem; }
tbody th { font-weight: 600; max-width: 16rem; }
td { min-width: 4.5rem; } td.long { min-width: 12rem; max-width: 32rem; }
ul.notes { font-size: .82rem; color: #555; margin: .3rem 0; padding-left: 1.2rem; }
td.number, th.number { text-align: right; } td.number { min-width: 0; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
pre { background: #f4f5f7; padding: .7rem; overflow-x: auto; font-size: .8rem; white-space: pre-wrap; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; }
  figure, tr, dl { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  summary { list-style: none; }
  table { font-size: 6.5pt; } th, td { padding: .15rem .3rem; } th { overflow-wrap: anywhere; }
  td, td.long { min-width: 0; }
}
"""


def report(
    runs: Any,
    file: str | Path = "report.html",
    *,
    metric: str | None = None,
    margin: float | None = None,
    partition: Partition | None = None,
    groups: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Write one HTML file on runs: what was compared, what was found, and the tables behind it.

    The file holds its figures, needs no network and no script, and prints well. Every number in it is computed by
    `fedlab.compare`, `fedlab.verdict` and the other tables of the runs. What these warn of is written into the file.

    Parameters
    ----------
    runs : Run, sequence of Run, str or Path
        Runs, run folders, or a folder that holds run folders. Runs of several federations have a chapter each, at most
        8; runs of `fedlab.leave_one_out` belong to that of the whole federation.
    file : str or Path, default "report.html"
        Where to write; folders are made where they are missing.
    metric : str, optional
        The metric of the comparison; the headline metric of the runs by default.
    margin : float, optional
        The largest difference that would not matter, see `fedlab.compare`.
    partition : Partition, optional
        The partition of the runs, if it was made by hand or its dataset cannot be loaded here. By default it is made of
        the dataset, where that is on this machine, and the run folder.
    groups : sequence of str, optional
        Columns of the dataset, such as ["sex", "age"]: a table of the methods in each of their groups, see
        `fedlab.subgroups`.
    **options
        `reference`, `choice`, `by` and `use` of `fedlab.compare`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there are no runs, or they cannot be compared, or the file would be larger than 10 MB.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.report("out/runs", "out/report.html", groups="sex")  # doctest: +SKIP
    PosixPath('out/report.html')
    """
    found = federations(collect(runs), partition)
    columns = [groups] if isinstance(groups, str) else list(groups)
    chapters = [chapter(one, metric, margin, options, columns) for one in found]
    content = document(_title(found), found, chapters)
    target = files.resolve(file)
    if len(content.encode()) > LARGEST:
        raise ValueError(f"{file} would be larger than 10 MB: report fewer federations or methods at a time")
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(target, content)
    return target


def _title(found: list[Federation]) -> str:
    """The title of the file: dataset, and how many methods and sites."""
    datasets = dict.fromkeys(called(one) for one in found)
    methods = {run.method for one in found for run in one.runs}
    if len(found) > 1:
        return f"{names_of(datasets)}: {plural(len(methods), 'method')} in {len(found)} federations"
    sites = set(found[0].runs[0].partition_table["site"])
    return f"{names_of(datasets)}: {plural(len(methods), 'method')} at {plural(len(sites), 'site')}"


def document(title: str, found: list[Federation], chapters: list[Markup]) -> str:
    """The whole file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    if len(chapters) > 1:
        chapters = [
            element("section", element("h1", f"{k}. {_chapter_title(one)}"), text, kind="chapter")
            for k, (one, text) in enumerate(zip(found, chapters, strict=True), 1)
        ]
    body = element("body", element("h1", title), joined(chapters))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _chapter_title(federation: Federation) -> str:
    """The dataset and what was done to the sites of one federation among others."""
    return f"{called(federation)}: {doses(federation.runs[0]) or 'no simulated heterogeneity'}"
