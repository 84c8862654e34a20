"""The same federation without some of its sites: what their patients gain from a model that never saw their cases."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.core.warnings import LeakageWarning, warn
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.observer import Observer
from fedlab.experiments.run_folder import Run
from fedlab.experiments.runner import grid
from fedlab.partitioning.partitions import Partition


def leave_one_out(
    experiment: Experiment,
    by: str | Mapping[str, str] = "site",
    *,
    partition: Partition | None = None,
    folder: str | Path | None = None,
    live: bool | Observer = False,
    workers: int = 1,
    **axes: list[Any],
) -> list[Run]:
    """Run an experiment once without each site, or without each region; the others keep their cases and splits.

    The sites left out are held out as by `unseen=`: all of their cases test the model. Finished runs are loaded and
    interrupted ones resume, as by `fedlab.grid`. Pass the runs to `fedlab.verdict` together with those of the whole
    federation, to see what a site gains without giving.

    Parameters
    ----------
    experiment : Experiment
        Of the whole federation.
    by : {"site", "region"} or mapping, default "site"
        Leave out one site at a time, or all sites of a region. A mapping names the region of each site, which explicit
        partitions need.
    partition : Partition, optional
        The explicit partition of the whole federation; by default the one that the experiment describes.
    folder : str or Path, optional
        Where run folders are kept, by default `$FEDLAB_RUNS` or `out/runs`.
    live : bool or Observer, default False
        As for `fedlab.grid`.
    workers : int, default 1
        As for `fedlab.grid`.
    **axes : list
        Values of fields of the experiment, such as `method=["fedavg"], seed=[0, 1, 2]`.

    Returns
    -------
    list of Run
        For each site or region, in natural order, one run for each combination. `run.unseen` names who is left out.

    Raises
    ------
    ValueError
        If there are fewer than two sites or regions, or sites have no regions.

    Warns
    -----
    LeakageWarning
        If a patient of a site that is left out has cases at other sites, too: these are not trained on.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.leave_one_out(base, method=["fedavg"], folder=folder)
    ...     print([(run.method, run.unseen) for run in runs])
    [('fedavg', ('Site A',)), ('fedavg', ('Site B',))]
    """
    part = experiment.make_partition() if partition is None else partition
    finished: list[Run] = []
    for one in [without(part, sites) for sites in _groups(part, by)]:
        base = experiment.with_(unseen=list(one.unseen))
        finished += grid(base, partition=one, folder=folder, live=live, workers=workers, **axes)
    return finished


def _groups(part: Partition, by: str | Mapping[str, str]) -> list[list[str]]:
    """The sites that are left out together, in natural order of their site or region."""
    sites = [site for site in part.sites if site not in part.unseen]
    if by == "site":
        groups = {site: [site] for site in sites}
    elif by == "region" or isinstance(by, Mapping):
        regions = dict(by) if isinstance(by, Mapping) else part.regions
        if missing := [site for site in sites if site not in regions]:
            raise ValueError(
                f"{', '.join(missing[:4])} belongs to no region: simulate regions with geography= above 0, or map each"
                " site to its region with by={site: region, ...}"
            )
        groups = {}
        for site in sites:
            groups.setdefault(regions[site], []).append(site)
    else:
        raise ValueError(f"by is {by!r}: {nearest(str(by), ('site', 'region'))}, or map each site to its region")
    if len(groups) < 2:
        one = next(iter(groups), "none")
        raise ValueError(f"found one {'site' if by == 'site' else 'region'} ({one}): two at least can leave one out")
    return [groups[name] for name in sorted(groups, key=natural)]


def without(part: Partition, sites: Sequence[str]) -> Partition:
    """The partition in which these sites are held out, and nothing else is changed.

    With splits="common" their training cases are left out, as `fedlab.partition` does. Cases at other sites of their
    patients are not trained on, since the model would otherwise have seen these.

    Examples
    --------
    >>> import fedlab
    >>> from fedlab.analysis.joining.absent_sites import without
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=3)
    >>> without(part, ["Site B"]).unseen
    ('Site B',)
    """
    unseen = tuple(site for site in part.sites if site in {*part.unseen, *sites})
    away = part.table["site"].isin(unseen).to_numpy(bool)
    tested = (part.table["split"] == "test").to_numpy(bool)
    units = part.cases.units[part.rows]
    shared = np.isin(units, units[away]) & ~away & ~tested
    if shared.any():
        warn(
            f"{shared.sum()} cases at other sites are of patients of {', '.join(sites)}: they are left out of training",
            LeakageWarning,
        )
    dropped = shared | (away & ~tested if part.spec.get("splits") == "common" else np.zeros(len(away), bool))
    table = part.table.assign(split=np.where(away, "test", part.table["split"].to_numpy(object)))
    table = table[~dropped].reset_index(drop=True)
    return replace(part, table=table, unseen=unseen, spec=part.spec | {"unseen": list(unseen)})
