"""Geography: sites of the same region are similar on every axis (spatially correlated site effects).

The literature calls it geographic or regional clustering, a random effect of the region. The axis assigns no case
itself. It correlates the site effects u within regions and couples the axes, so that for example regions with a high
prevalence have older scanners. The other axes then act with these site effects at their own doses.

The dose h, 0 to 1, is the correlation of site effects within a region: 0 draws all sites independently, at 1 all sites
of a region are the same.
"""

import math
from collections.abc import Sequence

from fedlab.core.registry import Registry
from fedlab.heterogeneity.site_effects import SiteEffects, dose

COUPLING = 0.6  # correlation between axes at full dose

Geography = float | str
SCHEMES = Registry("geography scheme")


def check(value: Geography) -> None:
    """Similarity of sites within a region: refuse a value that cannot be a geography.

    Parameters
    ----------
    value : float or str
        A dose, 0 to 1, for the default number of regions (about the square root of the number of sites), or a scheme
        such as ``"regions(0.5, count=3, coupling=0.6)"``.

    Raises
    ------
    ValueError
        If the value is neither a dose nor a known scheme.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> fedlab.partition(cases, sites=4, prevalence=0.5, geography=0.8).regions
    {'Site A': 'Region 1', 'Site B': 'Region 1', 'Site C': 'Region 2', 'Site D': 'Region 2'}
    """
    read(value)


def draw_site_effects(value: Geography, sites: int, seed: int) -> SiteEffects:
    """Draw the effects of all sites on all axes. value: a dose, or "regions(0.6, count=3, coupling=0.2)"."""
    within, count, coupling = read(value)
    if within == 0:
        return SiteEffects(sites, seed)
    count = count or default_count(sites)
    if count > sites:
        raise ValueError(f"geography requests {count} regions for {sites} sites: give at most one region per site")
    region = tuple(site * count // sites for site in range(sites))
    return SiteEffects(sites, seed, region, within, coupling)


def read(value: Geography) -> tuple[float, int, float]:
    """Return (correlation within regions, number of regions or 0 for the default, coupling of the axes)."""
    if not isinstance(value, str):
        within = dose(value, "geography")
        return within, 0, COUPLING * within
    scheme, args, arguments = SCHEMES.parse(value)
    found = scheme(*args, **arguments)
    if scheme is not regions and not (isinstance(found, tuple) and len(found) == 3):
        raise ValueError(
            f"geography scheme {value!r} gives {found!r}: return (correlation within regions, number of regions,"
            " coupling of the axes)"
        )
    within, count, coupling = found
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"geography scheme {value!r} gives {count!r} regions: give a whole number, 0 for the default")
    return _fraction(within, "dose"), count, _fraction(coupling, "coupling")


@SCHEMES.add
def regions(dose: float = 0.5, count: int = 0, coupling: float | None = None) -> tuple[float, int, float]:
    """Regions of about equal numbers of sites, with a chosen correlation within regions and between axes.

    The normal score of site k on an axis is ``z[k] = sqrt(dose) g[region of k] + sqrt(1 - dose) e[k]``; on the coupled
    axes g and e share a common part with weight ``sqrt(coupling)``. A dose of 0 gives independent sites.

    Parameters
    ----------
    dose : float, default 0.5
        Correlation of site effects within a region, 0 to 1.
    count : int, default 0
        Number of regions, at least 2; 0 for about the square root of the number of sites.
    coupling : float, optional
        Correlation between prevalence, population, presentation, annotation and scanner age, 0 to 1. By default
        0.6 times the dose.

    Returns
    -------
    tuple of (float, int, float)
        Correlation within regions, number of regions, coupling of the axes.

    References
    ----------
    Gaussian random-effects (copula) model of clustered sites, after Laird and Ware 1982, doi:10.2307/2529876.

    Examples
    --------
    >>> regions(0.5, count=3)
    (0.5, 3, 0.3)
    """
    within = _fraction(dose, "dose")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0 or count == 1:
        raise ValueError(f"regions(count={count!r}): give a number of regions of at least 2, or 0 for the default")
    return within, count, COUPLING * within if coupling is None else _fraction(coupling, "coupling")


def default_count(sites: int) -> int:
    """Return the default number of regions, about the square root of the number of sites."""
    return min(sites, max(2, round(math.sqrt(sites))))


def region_names(effects: SiteEffects, sites: Sequence[str]) -> dict[str, str]:
    """Map each site to Region 1, Region 2, ...; empty without regions."""
    return {site: f"Region {number + 1}" for site, number in zip(sites, effects.region, strict=bool(effects.region))}


def _fraction(value: object, argument: str) -> float:
    """Return the value as a number in [0, 1]; raise ValueError that names the argument otherwise."""
    try:
        return dose(value, f"regions({argument}=...)")
    except ValueError:
        raise ValueError(f"regions({argument}={value!r}): give a number between 0 and 1") from None
