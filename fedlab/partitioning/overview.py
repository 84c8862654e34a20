"""What a partition holds, for its summary in a notebook."""

from typing import Any

from fedlab.core.summary import Summary, counted, listed, named, plural
from fedlab.data.cases import SPLITS
from fedlab.data.extents import framed
from fedlab.data.overview import PIXELS, SHOWN
from fedlab.data.thumbnails import RAS, check_channel, middle, strip, thumbnail
from fedlab.heterogeneity.axes import AXES


def summary(part: Any, picture: bool = False) -> Summary:
    """Count the cases by site and split, and name the doses; with a picture of a case of each site."""
    splits = part.table["split"].value_counts()
    title = f"Partition of {named(part.cases.name)!r}: {len(part.table):,} cases at {plural(len(part.sites), 'site')}"
    facts = {
        "sites": counted(part.table["site"].value_counts()),
        "split": counted({name: splits[name] for name in SPLITS if name in splits}),
        "held out": listed(part.unseen),
        "axes": listed(f"{axis} {part.spec[axis]}" for axis in AXES if part.spec.get(axis)),
    }
    calls = ("part.table", "part.shift()", "fedlab.plots.sites(part)", "fedlab.run(experiment, partition=part)")
    if not picture:
        return Summary(title, facts, calls)
    shown = part.sites[:SHOWN]
    return Summary(title, facts, calls, _thumbnails(part, shown), f"a case of {listed(shown)}")


def _thumbnails(part: Any, sites: list[str]) -> bytes:
    """PNG of the first case of each site, as its scanner shows it."""
    shape, sited = part.cases.shape, part.table["site"].to_numpy(object)
    upright = part.cases.card.get("orientation") == RAS
    pictures = []
    for site in sites:
        first = part.rows[sited == site][:1]
        extents = None if part.cases.extents is None else part.cases.extents[first]
        (image,) = framed(part.pixels(first, site), extents)
        pictures.append(thumbnail(image, middle(shape), check_channel(None, shape[0]), PIXELS, upright))
    return strip(pictures, PIXELS)
