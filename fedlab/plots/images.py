"""Pictures: example images of each site (`samples`), and images reconstructed from a cut layer (`leakage`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.data.extents import framed
from fedlab.plots import style, titles
from fedlab.plots.inputs import SPLITS, site_labels, site_order
from fedlab.plots.names import more, names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, BETWEEN = 0.06, 0.3  # between images, and between the images of two classes, in image widths
LEAK_GAP = 0.08  # between reconstructed images
LARGEST, WIDTH, HEIGHT = 1.15, 7.2, 11.0  # inches: of one image, of all columns, of all rows
MOST, CLASSES, ROWS = 60, 30, 60  # images, classes and rows that are drawn
SHORTEST, TALL, CASES = 0.5, 14.0, 12  # of `leakage`, inches: a row, all rows; images a row
MEASURED = 64  # images from which the mean brightness of a row is computed


def samples(
    part: Any, n: int = 6, *, ax: Axes | None = None, split: str | None = "train", seed: int = 0
) -> style.Drawing:
    """Draw example images of each site and class, as the site's scanner acquires them.

    Volumes show their middle slice, images of more than three channels their first. At most 60 rows and 30 classes are
    drawn, and the others counted.

    Parameters
    ----------
    part : Partition or Cases
        A partition gives one row a site; cases give one row a class.
    n : int, default 6
        About how many images a row, as many of each class, at most 60.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    split : {"train", "val", "test"}, default "train"
        The cases to choose from; None for all.
    seed : int, default 0
        The same seed shows the same cases.

    Returns
    -------
    Drawing
        (figure, table). table: a row an image with site (for a partition), class and case.

    Examples
    --------
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=2, acquisition=0.5)
    >>> len(fedlab.plots.samples(part, n=4).table)
    8
    """
    by_site = hasattr(part, "pixels")
    cases = part.cases if by_site else part
    pools = _site_pools(part, split) if by_site else _class_pools(cases, split)
    plan = _plan(cases, dict(list(pools.items())[:ROWS]), min(n, MOST), seed, by_site)
    looks = {row: _look(part, row, rows["position"], by_site) for row, rows in plan.groupby("row", sort=False)}
    bright = {row: _brightness(part, row, pool, seed, by_site) for row, pool in pools.items()}
    with style.page(ax, 9, _height(plan, looks) + (0.7 if by_site else 0.45)) as ax:
        _draw_rows(ax, plan, looks, site_labels(part, looks) if by_site else list(names(looks).values()))
        left = [more(len(pools) - len(looks), "sites" if by_site else "classes")] * (len(pools) > len(looks))
        if by_site:
            _class_names(ax, plan)
            left += [more(len(cases.classes) - CLASSES, "classes")] * (len(cases.classes) > CLASSES)
        ax.set_xlabel(", ".join(left))
        title = titles.samples(pd.Series(bright), len(part.scanners) if by_site else None)
        style.headline(ax, title, pad=8)
    shown = plan[plan["position"] >= 0]
    table = shown[["row", "class", "case"]] if by_site else shown[["class", "case"]]
    return style.Drawing(style.root(ax), table.rename(columns={"row": "site"}).reset_index(drop=True))


def chosen_images(
    part: Any, sites: list[str], n: int, slice: int | None = None
) -> tuple[list[list[NDArray[np.float32] | None]], list[str]]:
    """Return (images of each site, None where it has no such case; the class of each column), as `samples` shows them.

    At most n a site, as many of each class; with more classes than n, of the first n classes. slice: of volumes.
    """
    each = max(1, n // len(part.cases.classes))
    classes = part.cases.classes[: n // each]
    looks = []
    for site in sites:
        pool = _site_pool(part, site, "train")
        picked = [_picked(part.cases, pool, site, name, each, 0) for name in classes]
        chosen = iter(_pixels(part, site, np.concatenate(picked), True))
        looks.append([flat(next(chosen), slice) if k < len(some) else None for some in picked for k in range(each)])
    return looks, [name for name in classes for _ in range(each)]


def _site_pools(part: Any, split: str | None) -> dict[str, NDArray[np.int64]]:
    """Return the positions of each site's cases, in the order of sites."""
    pools = {site: _site_pool(part, site, split) for site in part.sites}
    order = site_order(part, pd.Series({site: len(pool) for site, pool in pools.items()}))
    return {site: pools[site] for site in order}


def _site_pool(part: Any, site: str, split: str | None) -> NDArray[np.int64]:
    """Return the positions of a site's cases of a split, or of all splits if that one is empty."""
    pools = [part.index(site, one) for one in SPLITS]
    wanted = part.index(site, split) if split else pools[0][:0]
    return wanted if len(wanted) else np.concatenate(pools)


def _class_pools(cases: Any, split: str | None) -> dict[str, NDArray[np.int64]]:
    """Return the positions of each class's cases, of the split where the cases have official ones."""
    chosen = np.arange(len(cases))
    if split is not None and "split" in cases.table:
        chosen = np.flatnonzero(cases.table["split"] == split)
    return {name: _members(cases, chosen, name) for name in cases.classes}


def _members(cases: Any, pool: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Return those of the positions whose case has the class; with overlapping labels, at least that one."""
    labels, index = cases.labels[pool], cases.classes.index(name)
    return pool[(labels >> index) & 1 == 1] if cases.task == "multilabel" else pool[labels == index]


def _plan(cases: Any, pools: dict[str, NDArray[np.int64]], n: int, seed: int, by_site: bool) -> pd.DataFrame:
    """Place the images: columns row, class, x (left edge), position (-1: no such case), case."""
    classes = cases.classes[:CLASSES] if by_site else [""]
    each = max(1, n // len(classes))
    rows = []
    for row, pool in pools.items():
        for group, name in enumerate(classes):
            picked = _picked(cases, pool, row, name, each, seed)
            for k in range(each):
                position = int(picked[k]) if k < len(picked) else -1
                x = (group * each + k) * (1 + GAP) + group * (BETWEEN if each > 1 else GAP)
                case = cases.table["case"].iloc[position] if position >= 0 else ""
                rows.append((row, name or row, x, position, case))
    return pd.DataFrame(rows, columns=["row", "class", "x", "position", "case"])


def _picked(cases: Any, pool: NDArray[np.int64], row: str, name: str, n: int, seed: int) -> NDArray[np.int64]:
    """Choose at most n positions of a row's cases of a class (of any class for the name "") by the seed."""
    members = _members(cases, pool, name) if name else pool
    return stream(seed, "samples", row, name).permutation(members)[:n]


def _pixels(part: Any, row: str, index: NDArray[np.int64], by_site: bool) -> NDArray[np.float32]:
    """Return (n, channels, height, width[, depth]) in [0, 1], as the row's scanner acquires them, in one frame."""
    cases = part.cases if by_site else part
    images = part.pixels(index, row) if by_site else part.images[index]
    images = framed(images, None if cases.extents is None else cases.extents[index])
    return np.asarray(images, np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _look(part: Any, row: str, positions: pd.Series, by_site: bool) -> list[NDArray[np.float32] | None]:
    """Return one image a column, (height, width) or (height, width, 3); None where there is no case."""
    index = positions.to_numpy()
    images = iter(_pixels(part, row, index[index >= 0], by_site))
    return [flat(next(images)) if position >= 0 else None for position in index]


def flat(image: NDArray[np.float32], slice: int | None = None) -> NDArray[np.float32]:
    """Convert (channels, height, width[, depth]) to (height, width) or (height, width, 3): a slice, or the middle."""
    if image.ndim == 4:
        image = image[..., image.shape[-1] // 2 if slice is None else slice]
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]


def _brightness(part: Any, row: str, pool: NDArray[np.int64], seed: int, by_site: bool) -> float:
    """Return the mean pixel value, in [0, 1], of up to 64 of the row's cases."""
    if not len(pool):
        return np.nan
    some = np.sort(stream(seed, "brightness", row).permutation(pool)[:MEASURED])
    cases, shown = part.cases if by_site else part, _pixels(part, row, some, by_site)
    if cases.extents is None:
        return float(shown.mean())
    voxels = cases.extents[some].prod(axis=1) * shown.shape[1]  # frames are 0
    return float(np.mean(shown.reshape(len(shown), -1).sum(axis=1, dtype=np.float64) / voxels))


def _aspect(looks: dict[str, list[NDArray[np.float32] | None]]) -> float:
    """Return the height of an image divided by its width."""
    height, width = next((look.shape[:2] for row in looks.values() for look in row if look is not None), (1, 1))
    return height / width


def _height(plan: pd.DataFrame, looks: dict[str, list[NDArray[np.float32] | None]]) -> float:
    """Return the height of all rows in inches, with images as large as width and height allow."""
    columns, rows = plan["x"].max() + 1, len(looks) * (_aspect(looks) + GAP)
    return rows * min(LARGEST, WIDTH / columns, HEIGHT / rows)


def _draw_rows(
    ax: Axes, plan: pd.DataFrame, looks: dict[str, list[NDArray[np.float32] | None]], names: list[str]
) -> None:
    """Draw the images of every row, a dash where there is no case."""
    height = _aspect(looks)
    tops = {row: i * (height + GAP) for i, row in enumerate(looks)}
    for row, top in tops.items():
        for x, look in zip(plan.loc[plan["row"] == row, "x"], looks[row], strict=True):
            if look is None:
                dash: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}
                ax.text(x + 0.5, top + height / 2, "–", color=style.GREY, **dash)
                continue
            box = (x, x + 1, top + height, top)
            ax.imshow(look, cmap="gray", vmin=0, vmax=1, extent=box, interpolation="nearest").set_in_layout(False)
    ax.set_xlim(0, plan["x"].max() + 1)
    ax.set_ylim(max(tops.values()) + height, 0)
    ax.set_aspect("equal")
    ax.set_anchor("NW")
    ax.set_xticks([])
    ax.set_yticks([top + height / 2 for top in tops.values()], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _class_names(ax: Axes, plan: pd.DataFrame) -> None:
    """Write each class above its columns; upright where names would collide."""
    centres = plan.groupby("class", sort=False)["x"].agg(lambda x: (x.min() + x.max() + 1) / 2)
    ax.xaxis.tick_top()
    ax.set_xticks(centres.to_numpy(), list(names(centres.index).values()))
    ax.tick_params(length=0)
    style.fit_names(ax)


# -- split learning --------------------------------------------------------------------------------------------------


def leakage(found: Any, *, ax: Axes | None = None, n: int = 5) -> style.Drawing:
    """Draw images that an attacker reconstructs from the activations at each cut layer, below the originals.

    Parameters
    ----------
    found : Leakage
        What `fedlab.leakage` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    n : int, default 5
        How many test cases to show, at most 12. The attacker has not trained on them.

    Returns
    -------
    Drawing
        (figure, table). table: `found.table`, a row a cut. The share of variance reconstructed is 1 - unexplained.

    Examples
    --------
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="small_cnn(width=2, depth=2)")
    >>> found = fedlab.leakage(exp, cuts=[1], known=40, cases=10)
    >>> len(fedlab.plots.leakage(found, n=3).table)
    1
    """
    n = min(n, CASES)
    originals = np.asarray(found.images)[:n]
    first = f"original image\n{originals[0].size / 1000:,.1f} kB a case (8 bit)" if len(originals) else "original image"
    cuts = [(_cut_name(row), found.reconstructed[row.cut][:n]) for row in found.table.itertuples()]
    rows = [(first, originals), *cuts]
    fit, pitch = style.fitting(len(rows), min(1.15, 6.0 / max(1, len(originals))) * (1 + LEAK_GAP), TALL, SHORTEST)
    missing, rows = len(rows) - fit, rows[:fit]
    tall = pitch * len(rows)
    with style.page(ax, 9, 0.7 + tall) as ax:
        for y, (_, images) in enumerate(rows):
            for x, image in enumerate(images):
                left, top = x * (1 + LEAK_GAP), y * (1 + LEAK_GAP)
                shown: Any = np.clip(flat(image), 0, 1)
                box = (left, left + 1, top + 1, top)
                ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=box, interpolation="nearest").set_in_layout(False)
        ax.set_xlim(0, len(originals) * (1 + LEAK_GAP))
        ax.set_ylim(len(rows) * (1 + LEAK_GAP), 0)
        ax.set_aspect("equal")
        ax.set_yticks([(y + 0.5) * (1 + LEAK_GAP) for y in range(len(rows))], [name for name, _ in rows])
        ax.set_xticks([])
        ax.set_xlabel(more(missing, "cuts") if missing else "")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        style.headline(ax, titles.leakage(found.table), pad=6)
    return style.Drawing(style.root(ax), found.table)


def _cut_name(row: Any) -> str:
    """Describe a cut: size of the activations, distance correlation with its null, reconstructed variance."""
    size = f"{row.kilobytes:,.1f}" if row.kilobytes >= 0.1 else f"{row.kilobytes:.2f}"
    correlation = f"correlation {row.correlation:.2f} (null {row.null_high:.2f})"
    return (
        f"cut {row.cut}: {size} kB a case, each way\n{correlation}\n"
        f"{titles.percent(1 - min(1, row.unexplained))} of variance reconstructed"
    )
