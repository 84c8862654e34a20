"""What a dataset holds, for its summary in a notebook."""

from typing import Any

import numpy as np

from fedlab.core.summary import Summary, counted, listed, named, plural
from fedlab.data.extents import size_of
from fedlab.data.thumbnails import RAS, check_channel, examples, middle, strip, thumbnail

SHOWN, PIXELS = 8, 52  # thumbnails, and pixels of each
FACTS = ("site", "split")  # columns that are counted


def summary(cases: Any, picture: bool = False) -> Summary:
    """Count the cases by class, site and split; with a picture of some cases."""
    size = size_of(cases)
    channels = {1: "grey", 3: "colour"}.get(cases.shape[0], plural(cases.shape[0], "channel"))
    kind = "volumes" if len(cases.shape) == 4 else "images"
    title = f"Cases of {named(cases.name)!r}: {len(cases):,} {channels} {kind} of {size} ({cases.images.dtype})"
    facts = {cases.task: counted(class_counts(cases))}
    if cases.target is not None:
        low, mean, high = (f"{value:.4g}" for value in (cases.targets.min(), cases.targets.mean(), cases.targets.max()))
        facts = {
            cases.task: f"{named(cases.target)} {low} to {high}, mean {mean}",
            "kinds": counted(class_counts(cases)),
        }
    if cases.masks is not None:
        facts["masks"] = listed(cases.structures[1:])
    facts |= {
        column: counted(cases.table[column].astype(str).value_counts()) for column in FACTS if column in cases.table
    }
    facts["columns"] = listed(cases.table.columns)
    calls = ("cases.show()", "cases.table", "cases.audit()", "fedlab.partition(cases, sites=4)")
    if not picture:
        return Summary(title, facts, calls)
    rows = examples(cases.labels, SHOWN, cases.task == "multilabel")
    return Summary(title, facts, calls, thumbnails(cases, rows), f"{len(rows)} cases")


def class_counts(cases: Any) -> dict[str, int]:
    """How many cases have each class; with overlapping labels, at least that one."""
    labels = cases.labels
    if cases.task == "multilabel":
        return {name: int((labels >> bit & 1).sum()) for bit, name in enumerate(cases.classes)}
    return dict(zip(cases.classes, np.bincount(labels, minlength=len(cases.classes)).tolist(), strict=True))


def thumbnails(cases: Any, rows: list[int]) -> bytes:
    """PNG of some cases side by side, of volumes the middle slice."""
    slice, channel = middle(cases.shape), check_channel(None, cases.shape[0])
    upright = cases.card.get("orientation") == RAS
    return strip([thumbnail(cases.framed(row), slice, channel, PIXELS, upright) for row in rows], PIXELS)
