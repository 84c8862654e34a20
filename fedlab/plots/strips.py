"""What the images look like at each site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.plots import style, titles
from fedlab.plots.reading import site_name, site_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, BETWEEN = 0.06, 0.3  # between images, and between the images of two classes, in image widths
LARGEST, WIDTH, HEIGHT = 1.15, 7.2, 11.0  # inches: of one image, of all columns, of all rows
MEASURED = 64  # images whose mean brightness stands for a row
SPLITS = ("train", "val", "test")


def samples(
    part: Any, n: int = 6, *, ax: Axes | None = None, split: str | None = "train", seed: int = 0
) -> style.Drawing:
    """About n images a row, grouped by class: a row a site as its scanner shows them; of mere Cases, a row a class.

    part: a Partition, or Cases. split: where to choose from, None for everywhere. The same seed shows the same cases.
    Volumes show their middle slice, images of more than three channels their first. Returns the figure and a table with
    a row an image: site (not for Cases), class, case.
    """
    by_site = hasattr(part, "pixels")
    cases = part.cases if by_site else part
    pools = _site_pools(part, split) if by_site else _class_pools(cases, split)
    plan = _plan(cases, pools, n, seed, by_site)
    looks = {row: _look(part, row, plan.loc[plan["row"] == row, "position"], by_site) for row in pools}
    bright = {row: _brightness(part, row, pool, seed, by_site) for row, pool in pools.items()}
    with style.page(ax, 9, _height(plan, looks) + (0.7 if by_site else 0.45)) as ax:
        _draw(ax, plan, looks, [site_name(part, row) for row in looks] if by_site else list(looks))
        if by_site:
            _class_names(ax, plan)
        title = titles.samples(pd.Series(bright), len(part.scanners) if by_site else None)
        style.headline(ax, title, pad=8)
    shown = plan[plan["position"] >= 0]
    table = shown[["row", "class", "case"]] if by_site else shown[["class", "case"]]
    return style.Drawing(style.root(ax), table.rename(columns={"row": "site"}).reset_index(drop=True))


def chosen_images(part: Any, sites: list[str], n: int) -> tuple[list[list[NDArray[np.float32] | None]], list[str]]:
    """(pictures of each site, None where it has no such case; the class of each column), the same as `samples` shows.

    At most n a site, as many of each class; of a federation with more classes than n, the first n classes.
    """
    each = max(1, n // len(part.cases.classes))
    classes = part.cases.classes[: n // each]
    looks = []
    for site in sites:
        pool = _site_pool(part, site, "train")
        picked = [_picked(part.cases, pool, site, name, each, 0) for name in classes]
        chosen = iter(_pixels(part, site, np.concatenate(picked), True))
        looks.append([flat(next(chosen)) if k < len(some) else None for some in picked for k in range(each)])
    return looks, [name for name in classes for _ in range(each)]


def _site_pools(part: Any, split: str | None) -> dict[str, NDArray[np.int64]]:
    """Positions of each site's cases, in the order of sites."""
    pools = {site: _site_pool(part, site, split) for site in part.sites}
    order = site_order(part, pd.Series({site: len(pool) for site, pool in pools.items()}))
    return {site: pools[site] for site in order}


def _site_pool(part: Any, site: str, split: str | None) -> NDArray[np.int64]:
    """Positions of a site's cases, of all splits where it has none of the one asked for."""
    pools = [part.index(site, one) for one in SPLITS]
    wanted = part.index(site, split) if split else pools[0][:0]
    return wanted if len(wanted) else np.concatenate(pools)


def _class_pools(cases: Any, split: str | None) -> dict[str, NDArray[np.int64]]:
    """Positions of each class's cases, of the split where the cases have official ones."""
    chosen = np.arange(len(cases))
    if split is not None and "split" in cases.table:
        chosen = np.flatnonzero(cases.table["split"] == split)
    return {name: _members(cases, chosen, name) for name in cases.classes}


def _members(cases: Any, pool: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Those of the positions whose case has the class; with overlapping labels, at least that one."""
    labels, index = cases.labels[pool], cases.classes.index(name)
    return pool[(labels >> index) & 1 == 1] if cases.task == "multilabel" else pool[labels == index]


def _plan(cases: Any, pools: dict[str, NDArray[np.int64]], n: int, seed: int, by_site: bool) -> pd.DataFrame:
    """What stands where: columns row, class, column, x (left edge), position (-1: no such case), case."""
    classes = cases.classes if by_site else [""]
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
    """At most n positions of a row's cases of a class, of any class for the name "", the same ones for a seed."""
    members = _members(cases, pool, name) if name else pool
    return stream(seed, "samples", row, name).permutation(members)[:n]


def _pixels(part: Any, row: str, index: NDArray[np.int64], by_site: bool) -> NDArray[np.float32]:
    """(n, channels, height, width[, depth]) in [0, 1], as the row's scanner shows them."""
    images = part.pixels(index, row) if by_site else part.images[index]
    return np.asarray(images, np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _look(part: Any, row: str, positions: pd.Series, by_site: bool) -> list[NDArray[np.float32] | None]:
    """One picture a column, (height, width) or (height, width, 3); None where there is no case."""
    index = positions.to_numpy()
    images = iter(_pixels(part, row, index[index >= 0], by_site))
    return [flat(next(images)) if position >= 0 else None for position in index]


def flat(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(channels, height, width[, depth]) -> what can be shown on paper."""
    if image.ndim == 4:
        image = image[..., image.shape[-1] // 2]
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]


def _brightness(part: Any, row: str, pool: NDArray[np.int64], seed: int, by_site: bool) -> float:
    """Mean pixel value, in [0, 1], of up to 64 of the row's cases."""
    if not len(pool):
        return np.nan
    some = np.sort(stream(seed, "brightness", row).permutation(pool)[:MEASURED])
    return float(_pixels(part, row, some, by_site).mean())


def _aspect(looks: dict[str, list[NDArray[np.float32] | None]]) -> float:
    """Height by width of an image."""
    height, width = next((look.shape[:2] for row in looks.values() for look in row if look is not None), (1, 1))
    return height / width


def _height(plan: pd.DataFrame, looks: dict[str, list[NDArray[np.float32] | None]]) -> float:
    """Inches that the rows take with images as large as width and height allow."""
    columns, rows = plan["x"].max() + 1, len(looks) * (_aspect(looks) + GAP)
    return rows * min(LARGEST, WIDTH / columns, HEIGHT / rows)


def _draw(ax: Axes, plan: pd.DataFrame, looks: dict[str, list[NDArray[np.float32] | None]], names: list[str]) -> None:
    height = _aspect(looks)
    tops = {row: i * (height + GAP) for i, row in enumerate(looks)}
    for row, top in tops.items():
        for x, look in zip(plan.loc[plan["row"] == row, "x"], looks[row], strict=True):
            if look is None:
                ax.text(x + 0.5, top + height / 2, "–", ha="center", va="center", color=style.GREY)
                continue
            box = (x, x + 1, top + height, top)
            ax.imshow(look, cmap="gray", vmin=0, vmax=1, extent=box, interpolation="nearest")
    ax.set_xlim(0, plan["x"].max() + 1)
    ax.set_ylim(max(tops.values()) + height, 0)
    ax.set_aspect("equal")
    ax.set_anchor("NW")
    ax.set_xticks([])
    ax.set_yticks([top + height / 2 for top in tops.values()], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _class_names(ax: Axes, plan: pd.DataFrame) -> None:
    """Above the columns of each class; upright where they would collide."""
    centres = plan.groupby("class", sort=False)["x"].agg(lambda x: (x.min() + x.max() + 1) / 2)
    ax.xaxis.tick_top()
    ax.set_xticks(centres.to_numpy(), centres.index)
    ax.tick_params(length=0)
    style.fit_names(ax)
