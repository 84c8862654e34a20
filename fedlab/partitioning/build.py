"""`partition`: assign cases to simulated sites with controlled heterogeneity."""

import inspect
from collections.abc import Sequence
from typing import Any

from fedlab.core import arguments
from fedlab.core.registry import nearest
from fedlab.data.cases import Cases
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.prevalence import Prevalence
from fedlab.heterogeneity.quantity import Quantity
from fedlab.partitioning.holdout import Unseen
from fedlab.partitioning.partitions import Partition
from fedlab.partitioning.parts import as_json, simulated_parts
from fedlab.partitioning.simulate import site_count

ASSIGNING = ("quantity", "prevalence", "presentation", "population", "geography")  # axes that assign cases to sites


def partition(
    cases: Cases,
    sites: int | str = 4,
    *,
    quantity: Quantity = 0.0,
    prevalence: Prevalence = 0.0,
    presentation: float | str = 0.0,
    population: float | str = 0.0,
    acquisition: float | str | Sequence[str] = 0.0,
    annotation: float | str = 0.0,
    geography: float | str = 0.0,
    unseen: Unseen = 0,
    seed: int = 0,
    splits: str = "official",
    leakage: str = "together",
    **unknown: object,
) -> Partition:
    """Assign cases to simulated sites with controlled heterogeneity.

    The strength of each axis is a dose from 0 (sites differ only by chance) to 1. Text names a scheme of the axis
    with its arguments, such as "dirichlet(0.3)"; `print(fedlab.AXES)` lists what each axis takes.

    Parameters
    ----------
    cases : Cases
        The dataset, as `fedlab.load` returns it.
    sites : int or str, default 4
        Number of sites to simulate (at least 1), or the column of the cases' table that names the real site of each
        case.
    quantity : float, str or list of float, default 0.0
        Quantity skew: dose, "dirichlet(0.5)", "like(fed_isic2019)", or the relative size of each site.
    prevalence : float, str, list of float or list of list of float, default 0.0
        Label shift: dose, scheme ("dirichlet(0.3)", "shards(2)", "classes(2)"), the prevalence of each site (binary
        tasks), or the class shares of each site.
    presentation : float or str, default 0.0
        Subtype (phenotype) shift within a class: dose, "subtype(0.5)" or "clusters(0.5)".
    population : float or str, default 0.0
        Shift of patient characteristics: dose, "sex(0.5)", or "synthetic(0.5, confounding=1.0)".
    acquisition : float, str or list of str, default 0.0
        Covariate (feature) shift by scanners: dose, "mri(0.5)", or one preset a site.
    annotation : float or str, default 0.0
        Label noise: dose or "threshold(0.5)". At dose 1 the worst site mislabels two cases in five.
    geography : float or str, default 0.0
        Correlation of the sites of one region, 0 to 1, or "regions(0.5, count=3)".
    unseen : int, str or list of str, default 0
        Held-out (external) sites: how many, counted from the last, or names of sites or regions. All of their cases
        are test cases.
    seed : int, default 0
        Seed of the partition.
    splits : {"official", "site", "common"}, default "official"
        "official" assigns each published split to the same sites (splits are made within each site where the cases
        have none); "site" makes new splits of 70/10/20 % within each site; "common" assigns the test cases at random,
        the same to each site at every dose, so that results at different doses are about the same patients, shown by
        the scanner of their site (splits of 70/10/20 % are made first where the cases have none).
    leakage : {"together", "drop", "allow"}, default "together"
        Patients or identical images in more than one split. "together" moves val cases to train and refuses leakage
        into test, "drop" leaves the other copies out, "allow" keeps the splits as published.

    Returns
    -------
    Partition
        Its `table` has a row a case with columns case, site, split; `shift()` measures the realised heterogeneity.

    Raises
    ------
    TypeError
        If an argument is unknown.
    ValueError
        If a value is out of range, patients or images leak into the test cases, or a site would have no training case.

    Warns
    -----
    HeterogeneityWarning
        If a dose was not reached, or a site lacks a class.
    LeakageWarning
        If cases were moved or left out to prevent leakage.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=300, size=16)")
    >>> part = fedlab.partition(cases, sites=2, quantity=0.5, prevalence=0.8, seed=1)
    >>> part.counts("train").to_dict("index")
    {'Site A': {'normal': 13, 'nodule': 60}, 'Site B': {'normal': 139, 'nodule': 6}}
    """
    for name in unknown:
        raise TypeError(f"partition has no axis or argument {name!r}: {nearest(name, ARGUMENTS)}")
    given = (quantity, prevalence, presentation, population, acquisition, annotation, geography)
    axes: dict[str, Any] = dict(zip(AXES, given, strict=True))
    for axis, value in axes.items():
        AXES.function(axis)(value)
    if isinstance(sites, str):
        _refuse_number(cases, sites)
        _refuse_with_column(sites, {axis: as_json(axes[axis]) for axis in ASSIGNING})
        rest: dict[str, Any] = {"acquisition": acquisition, "annotation": annotation, "unseen": unseen}
        return Partition.from_sites(cases, sites, splits=splits, seed=seed, leakage=leakage, **rest)
    return Partition(**simulated_parts(cases, site_count(sites), axes, unseen, seed, splits, leakage))


ARGUMENTS = [name for name in inspect.signature(partition).parameters if name not in ("cases", "unknown")]


def _refuse_number(cases: Cases, sites: str) -> None:
    if isinstance(cases, Cases) and sites not in cases.table and arguments.fits(arguments.number(sites), int):
        raise ValueError(f"sites is the text {sites!r}, and the cases have no such column: give the number")


def _refuse_with_column(column: str, axes: dict[str, object]) -> None:
    for axis, value in axes.items():
        if not (isinstance(value, int | float) and value == 0):
            raise ValueError(f"sites come from column {column!r}: leave {axis} at 0, found {value!r}")
