"""Held-out (external) sites: whole sites that take no part in training, whose cases all test the models."""

from collections.abc import Sequence
from numbers import Integral

from fedlab.core.registry import nearest

Unseen = int | str | Sequence[str]


def held_out(unseen: Unseen, sites: Sequence[str], regions: dict[str, str]) -> tuple[str, ...]:
    """Names of the held-out sites, in the order of the sites.

    unseen: how many, counted from the last; or the name of a site or of a region, or several. At least one site trains.
    """
    check(unseen)
    if isinstance(unseen, str | Sequence):
        given = [unseen] if isinstance(unseen, str) else unseen
        names = [name for one in given for name in _of(one, sites, regions)]
        wanted = len(set(names))
    else:
        wanted = int(unseen)
        names = list(sites)[len(sites) - wanted :] if 0 < wanted < len(sites) else []
    if wanted >= len(sites):
        most = len(sites) - 1
        raise ValueError(f"unseen={unseen!r} leaves none of {len(sites)} sites to train: hold out {most} at most")
    return tuple(site for site in sites if site in names)


def check(unseen: object) -> None:
    """Raise ValueError for a value that can name no sites."""
    if isinstance(unseen, Integral) and not isinstance(unseen, bool) and int(unseen) >= 0:
        return
    if isinstance(unseen, str) or (isinstance(unseen, Sequence) and all(isinstance(one, str) for one in unseen)):
        return
    raise ValueError(f"unseen is {unseen!r}: give how many sites to hold out, or the names of sites or regions")


def _of(name: str, sites: Sequence[str], regions: dict[str, str]) -> list[str]:
    """The sites that go by the name of a site or a region."""
    found = [site for site in sites if name in (site, regions.get(site))]
    if not found:
        raise ValueError(f"unseen names {name!r}, no site or region: {nearest(name, [*sites, *set(regions.values())])}")
    return found
