"""Geography: sites of one region resemble each other on every axis, and axes go together.

It moves no case by itself: it correlates the sites' coordinates within regions (and couples the axes, so that where
disease is frequent scanners are old), which is what the other axes then act on. The strength of each axis stays as it
is: only who resembles whom changes.
"""

import math
from collections.abc import Sequence

from fedlab.core.registry import Registry
from fedlab.heterogeneity.site_coordinates import SiteEffects, dose

COUPLING = 0.6  # between axes, at full dose

Geography = float | str
SCHEMES = Registry("geography scheme")


def atlas_of(value: Geography, sites: int, seed: int) -> SiteEffects:
    """Where sites stand on all axes. value: a dose, or "regions(0.6, count=3, coupling=0.2)"."""
    within, count, coupling = read(value)
    if within == 0:
        return SiteEffects(sites, seed)
    count = count or default_count(sites)
    if count > sites:
        raise ValueError(f"geography asks for {count} regions of {sites} sites: give at most one region a site")
    region = tuple(site * count // sites for site in range(sites))
    return SiteEffects(sites, seed, region, within, coupling)


def check(value: Geography) -> None:
    """ValueError for what can be no geography."""
    read(value)


def read(value: Geography) -> tuple[float, int, float]:
    """(correlation within regions, number of regions or 0 for the default, coupling of axes)."""
    if not isinstance(value, str):
        within = dose(value, "geography")
        return within, 0, COUPLING * within
    scheme, args, knobs = SCHEMES.parse(value)
    return scheme(*args, **knobs)  # type: ignore[no-any-return]


@SCHEMES.add
def regions(dose: float = 0.5, count: int = 0, coupling: float | None = None) -> tuple[float, int, float]:
    """So many regions (0: about the square root of the sites), with a correlation of axes of choice."""
    within = _fraction(dose, "dose")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0 or count == 1:
        raise ValueError(f"regions(count={count!r}): give a number of regions of at least 2, or 0 for the default")
    return within, count, COUPLING * within if coupling is None else _fraction(coupling, "coupling")


def default_count(sites: int) -> int:
    return min(sites, max(2, round(math.sqrt(sites))))


def region_names(atlas: SiteEffects, sites: Sequence[str]) -> dict[str, str]:
    """Site -> Region 1, Region 2, ...; empty without regions."""
    return {site: f"Region {number + 1}" for site, number in zip(sites, atlas.region, strict=bool(atlas.region))}


def _fraction(value: object, knob: str) -> float:
    try:
        return dose(value, f"regions({knob}=...)")
    except ValueError:
        raise ValueError(f"regions({knob}={value!r}): give a number between 0 and 1") from None
