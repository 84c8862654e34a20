"""A dark theme: the colours of a finished figure are turned around in lightness; images keep theirs."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import choose

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

THEMES = ("light", "dark")
DARKEST, SLOPE = 0.18, 0.9  # OKLab lightness of the page, and how much of the range of lightness is used
DATA = "data"  # gid of artists whose colours are numbers
LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
_chosen = ["light"]


def theme(name: str) -> None:
    """Choose the look of the figures that a notebook shows from here on.

    Saved files keep the light look, which is for print; `fedlab.plots.dark` makes a dark copy of a figure.

    Parameters
    ----------
    name : {"light", "dark"}
        The theme.

    Raises
    ------
    ValueError
        If there is no such theme.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.plots.theme("dark")
    >>> fedlab.plots.theme("light")
    """
    choose("theme", name, THEMES)
    _chosen[0] = name


def shown(figure: Figure) -> Figure:
    """Return the figure as the theme shows it."""
    return dark(figure) if _chosen[0] == "dark" else figure


def dark(figure: Figure) -> Figure:
    """Make a copy of a figure for dark pages: light becomes dark and dark light, hues stay, images stay.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What a plot returned as `figure`.

    Returns
    -------
    matplotlib.figure.Figure
        The copy.

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=2)
    >>> fedlab.plots.dark(fedlab.plots.partition(part).figure).get_facecolor()[0] < 0.1
    True
    """
    copy = _copied(figure)
    for artist in copy.findobj():
        if artist.get_gid() != DATA:
            _turn(artist)
    return copy


def _copied(figure: Figure) -> Figure:
    """Copy a figure through pickle, which keeps its layout."""
    from pickle import dumps, loads

    try:
        return cast("Figure", loads(dumps(figure)))
    except Exception:  # a caller's artist that cannot be pickled
        return deepcopy(figure)


def _turn(artist: Artist) -> None:
    """Turn the lightness of an artist's colours."""
    from matplotlib.collections import Collection
    from matplotlib.colors import to_rgba, to_rgba_array
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    def one(color: Any) -> tuple[float, ...]:
        return tuple(turned(np.array([to_rgba(color)]))[0].tolist())

    thing: Any = artist
    if isinstance(artist, Text):
        thing.set_color(one(thing.get_color()))
    elif isinstance(artist, Line2D):
        face, edge = thing.get_markerfacecolor(), thing.get_markeredgecolor()
        thing.set_color(one(thing.get_color()))
        thing.set_markerfacecolor(one(face))
        thing.set_markeredgecolor(one(edge))
    elif isinstance(artist, Patch):
        face, edge = thing.get_facecolor(), thing.get_edgecolor()
        thing.set_facecolor(one(face))
        thing.set_edgecolor(one(edge))
    elif isinstance(artist, Collection) and thing.get_array() is None:
        faces, edges = thing.get_facecolor(), thing.get_edgecolor()
        thing.set_facecolor(turned(to_rgba_array(faces)))
        thing.set_edgecolor(turned(to_rgba_array(edges)))


def turned(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the OKLab lightness (Ottosson 2020) of colours (n, 4) around; hue, chroma and alpha stay where they can."""
    if not len(colors):
        return colors
    lab = oklab(colors[:, :3])
    lab[:, 0] = np.clip(DARKEST + SLOPE * (1 - lab[:, 0]), 0, 1)
    rgb = np.linalg.solve(LMS, np.linalg.solve(LAB, lab.T) ** 3).T
    curved = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * np.abs(rgb) ** (1 / 2.4) - 0.055)
    return np.column_stack([np.clip(curved, 0, 1), colors[:, 3]])


def oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert sRGB (n, 3) in [0, 1] to OKLab: lightness 0 to 1, two opponent colours."""
    return np.asarray((LAB @ np.cbrt(LMS @ linear(rgb).T)).T)


def linear(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the gamma of sRGB."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
