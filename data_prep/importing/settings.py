"""How images are read, windowed and resampled: checked before the first file is opened."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from data_prep import reader
from fedlab.core.registry import choose, nearest

WIDE = "wide"  # of CT if no window is given: one for all files, from air to dense bone
WINDOWS = {  # lowest and highest value in Hounsfield units: centre and width as radiologists set them
    WIDE: (-1000.0, 1000.0),
    "lung": (-1350.0, 150.0),
    "brain": (0.0, 80.0),
    "bone": (-500.0, 1300.0),
    "soft-tissue": (-150.0, 250.0),
}
HEADER, PERCENTILES = "header", "percentiles"
FITS = ("pad", "crop", "stretch")
KEEP = "keep"  # size of images that keep their own
COLOURS = ("keep", "grey", "rgb")
EDGES = (4, 4096)  # least and most pixels or voxels of an edge
DEFAULT = 64  # pixels or voxels, if neither size nor spacing is given


@dataclass(frozen=True)
class Settings:
    """Choices of an import.

    size: of the result, one number for all edges or one for each; None if only the spacing is given. spacing: mm for
    each axis, or one number; None to scale to the size. window: low and high value, two percentiles, or None: of CT
    the wide window, else that of the header, else percentiles. fit: how an image of another aspect ratio gets its size.
    ct: volumes whose file says nothing of it hold Hounsfield units. own_size: images keep their sizes, those after
    resampling if there is a spacing.
    """

    size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    fit: str = "pad"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    preset: str = ""
    header: bool = False
    colour: str = "keep"
    frames: str = "refuse"
    ct: bool = False
    own_size: bool = False

    def plain(self) -> dict[str, Any]:
        """The choices that are not the defaults, as values of JSON."""
        found = {key: value for key, value in asdict(self).items() if value != getattr(Settings, key)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def settings(
    size: Any = None,
    spacing: Any = None,
    fit: str = "pad",
    window: Any = None,
    colour: str = "keep",
    frames: str = "refuse",
    ct: bool = False,
) -> Settings:
    """Check choices as a user writes them, such as size="64x64" and window="lung"."""
    choose("fit", fit, FITS)
    choose("colour", colour, COLOURS)
    choose("frames", frames, reader.FRAMES)
    own_size = isinstance(size, str) and size.strip().lower() == KEEP
    if own_size and fit != "pad":
        raise ValueError(f"size is {KEEP!r} and fit is {fit!r}: images that keep their sizes are not fitted to one")
    edges = _numbers("size", None if own_size else size, "64, 64x64x32 or keep")
    if edges is not None and not all(edge == int(edge) and EDGES[0] <= edge <= EDGES[1] for edge in edges):
        raise ValueError(f"size is {size!r}: give whole numbers of pixels or voxels from {EDGES[0]} to {EDGES[1]}")
    millimetres = _numbers("spacing", spacing, "1.0 or 1x1x2, in mm")
    if millimetres is not None and not all(0 < each < math.inf for each in millimetres):
        raise ValueError(f"spacing is {spacing!r}: give positive numbers of mm")
    if edges is None and millimetres is None and not own_size:
        edges = (DEFAULT,)
    return Settings(
        size=None if edges is None else tuple(map(int, edges)),
        spacing=millimetres,
        fit=fit,
        colour=colour,
        frames=frames,
        ct=ct,
        own_size=own_size,
        **_window(window),
    )


def _numbers(name: str, value: Any, example: str) -> tuple[float, ...] | None:
    """One, two or three numbers, given as such, in a list, or as text with x between."""
    if value is None:
        return None
    parts = re.split(r"\s*[x×,]\s*", str(value).strip().lower()) if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    try:
        if any(isinstance(part, bool) for part in parts):
            raise TypeError
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}: write {example}") from None
    if not 1 <= len(numbers) <= 3:
        raise ValueError(f"{name} has {len(numbers)} numbers, {value!r}: write {example}")
    return numbers


def _window(value: Any) -> dict[str, Any]:
    """The fields that a window sets."""
    if value is None:
        return {}
    if isinstance(value, list | tuple) and len(value) == 2:
        value = f"{value[0]}:{value[1]}"
    text = str(value).strip().lower()
    if text in WINDOWS:
        return {"window": WINDOWS[text], "preset": text}
    if text == HEADER:
        return {"header": True}
    if text == PERCENTILES:
        return {"percentiles": reader.TAILS}
    found = re.fullmatch(r"([-+.\de]+)(%?)\s*:\s*([-+.\de]+)(%?)", text)
    try:
        low, high = (float(found[1]), float(found[3])) if found else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if found is None or math.isnan(low) or bool(found[2]) != bool(found[4]):
        raise ValueError(
            f"window is {value!r}: {nearest(text, (*WINDOWS, HEADER, PERCENTILES))}, or write LOW:HIGH (values, e.g."
            " -1000:400) or LOW%:HIGH% (percentiles)"
        )
    if not low < high or (found[2] and not 0 <= low < high <= 100):
        raise ValueError(f"window is {value!r}: give a lower and a higher value")
    return {"percentiles" if found[2] else "window": (low, high)}
