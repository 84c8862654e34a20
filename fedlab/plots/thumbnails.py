"""Images of cases on a sheet: all of them in one artist, masks as contours in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedlab.core.typing import Floats
from fedlab.data.thumbnails import RAS, check_channel, check_slice, outlines, thumbnail
from fedlab.plots.names import more, names
from fedlab.plots.sheet import length, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HUES = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")  # Okabe & Ito, of structures
DENSITY = 150  # pixels an inch: of an image, at least half of what a screen of high density shows
COARSE = 24  # pixels: smaller images are repeated, so that gaps between them have their width


class Place(NamedTuple):
    """Where an image is on a sheet: its position in the cases, its left and upper edge in inches."""

    row: int
    left: float
    top: float


@dataclass(frozen=True)
class View:
    """How images are shown: a slice of volumes, a channel (None: colours), with masks or without.

    Those of unequal size are shown in the middle of a frame of the largest one.
    """

    cases: Any
    slice: int | None
    channel: int | None
    masks: bool

    @classmethod
    def of(cls, cases: Any, slice: int | None, channel: int | None, masks: bool) -> View:
        """The view of these cases; ValueError if they have no such slice or channel."""
        if not hasattr(cases, "images"):
            remedy = "give its `cases`, or call fedlab.plots.samples" if hasattr(cases, "cases") else "give Cases"
            raise ValueError(f"{type(cases).__name__} holds no images: {remedy}")
        shape = cases.shape
        return cls(cases, check_slice(slice, shape), check_channel(channel, shape[0]), bool(masks))

    @property
    def upright(self) -> bool:
        """Whether volumes are turned as radiologists see them."""
        return self.slice is not None and self.cases.card.get("orientation") == RAS

    @property
    def aspect(self) -> float:
        """The height of an image divided by its width."""
        height, width = self.cases.shape[1:3]
        return width / height if self.upright else height / width

    @property
    def slice_note(self) -> str:
        """Which slice is shown; empty for images."""
        return "" if self.slice is None else f"slice {self.slice} of 0 to {self.cases.shape[3] - 1}"

    @property
    def channel_note(self) -> str:
        """Which channel is shown; empty where there are no others."""
        several = self.channel is not None and self.cases.shape[0] > 1
        return f"channel {self.channel} of 0 to {self.cases.shape[0] - 1}" if several else ""

    def draw(self, ax: Axes, places: Sequence[Place], width: float) -> None:
        """Draw images of this width in inches."""
        if not places:
            return
        most = max(16, round(DENSITY * width * max(1.0, self.aspect)))
        looks = [
            thumbnail(self.cases.framed(place.row), self.slice, self.channel, most, self.upright) for place in places
        ]
        times = -(-COARSE // looks[0].shape[1])
        dense = times * looks[0].shape[1] / width  # pixels an inch
        left, top = min(place.left for place in places), min(place.top for place in places)
        corners = [(round((place.left - left) * dense), round((place.top - top) * dense)) for place in places]
        high, wide = (times * length for length in looks[0].shape[:2])
        canvas = np.full((max(y for _, y in corners) + high, max(x for x, _ in corners) + wide, 4), 255, np.uint8)
        for (x, y), look in zip(corners, looks, strict=True):
            canvas[y : y + high, x : x + wide, :3] = look.repeat(times, 0).repeat(times, 1) if times > 1 else look
        right, bottom = left + canvas.shape[1] / dense, top + canvas.shape[0] / dense
        limits = ax.get_xlim(), ax.get_ylim()
        ax.imshow(canvas, extent=(left, right, bottom, top), aspect="auto").set_in_layout(False)
        ax.set(xlim=limits[0], ylim=limits[1])
        if self.outlined:
            starts = [(left + x / dense, top + y / dense) for x, y in corners]
            self._draw_masks(ax, places, starts, most, width)

    def _draw_masks(
        self, ax: Axes, places: Sequence[Place], corners: list[tuple[float, float]], most: int, width: float
    ) -> None:
        """Draw the contour of each structure in its colour."""
        from matplotlib.collections import LineCollection

        lines, colors = [], []
        for place, corner in zip(places, corners, strict=True):
            mask, overlap = self.cases.framed(place.row, masks=True), self.cases.overlap
            for structure, share in outlines(mask, self.slice, 2 * most, self.upright, overlap).items():
                found = [line * (width / share.shape[1]) + corner for line in contours(share)]
                lines += found
                colors += [hue(structure)] * len(found)
        ax.add_collection(LineCollection(lines, colors=colors, linewidths=0.8 if width > 1.1 else 0.6), autolim=False)

    @property
    def outlined(self) -> bool:
        """Whether masks are drawn."""
        return self.masks and self.cases.masks is not None

    def legend(self, ax: Axes, left: float, y: float, right: float) -> None:
        """Name the structures next to their colours, in one line; those that do not fit are counted."""
        if not self.outlined:
            return
        structures = list(names(self.cases.structures[1:], 24).values())
        rest = 1.4  # inches: for the count of the others
        for number, structure in enumerate(structures, 1):
            width = 0.24 + length(structure) + 0.2
            if number > len(HUES) or left + width + rest * (number < len(structures)) > right:
                write(ax, left, y, more(len(structures) - number + 1, "structures"))
                break
            ax.plot([left, left + 0.18], [y, y], color=hue(number), lw=1.6)
            write(ax, left + 0.24, y, structure)
            left += width


def hue(structure: int) -> str:
    """The colour of a structure, 1 and more."""
    return HUES[(structure - 1) % len(HUES)]


def contours(share: Floats) -> list[Floats]:
    """Lines (m, 2) of x and y in pixels around the area where a share, (height, width), is at least a half."""
    from contourpy import contour_generator

    padded = np.pad(np.asarray(share, np.float64), 1)  # lines close at the edge of the image
    found = contour_generator(z=padded).lines(0.5)
    return [np.clip(np.asarray(line) - 0.5, 0, [share.shape[1], share.shape[0]]) for line in found]
