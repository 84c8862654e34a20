"""Write the folder format: a stratified subset, an array on disk for the images, the card, all or nothing."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from data_prep.fetch import say
from fedlab.core.files import CHECKSUMS, DamagedError, read_json, reserve, scratch_folder, verify
from fedlab.core.rng import stream
from fedlab.core.warnings import warn
from fedlab.data.cases import Cases, read
from fedlab.data.extents import size_of

IDENTITY = ("name", "task", "classes", "checksums", "options")  # fields of the card that identify a dataset
CARD = "card.json"
FILES = {"cases.parquet", "images.npy", "masks.npy", "extents.npy", CARD, CHECKSUMS}  # of a dataset folder


def card(
    name: str,
    *,
    title: str,
    task: str,
    classes: Sequence[str],
    licence: str,
    source: str,
    citation: str,
    checksums: dict[str, str],
    options: dict[str, Any],
    caution: str = "",
    modality: str = "",
    structures: Sequence[str] = (),
    overlap: bool = False,
    orientation: str = "",
    spacing: Sequence[float] = (),
) -> dict[str, Any]:
    """The card of a dataset. checksums: official file name -> checksum. options: the user's choices.

    modality: kind of image, e.g. "fundus" or "mri". structures: names of the mask values, for segmentation.
    overlap: whether structures may overlap, so that mask values have one bit for each but the background.
    orientation: "RAS" for volumes whose axes point to the patient's right, to the front and up, which figures turn.
    spacing: edges of a voxel in mm, one for each axis, in which distances of masks are measured.
    """
    given = {
        "modality": modality,
        "structures": list(structures),
        "overlap": overlap,
        "orientation": orientation,
        "spacing": list(spacing),
    }
    return {
        "name": name,
        "title": title,
        "task": task,
        "classes": list(classes),
        "licence": licence,
        "source": source,
        "citation": citation,
        "caution": caution,
        "checksums": checksums,
        "options": options,
        **{key: value for key, value in given.items() if value},
    }


def edge(size: object, sizes: tuple[int, int], what: str = "pixels") -> int:
    """Check an edge length. sizes: the least and the largest one."""
    if isinstance(size, bool) or not isinstance(size, int) or not sizes[0] <= size <= sizes[1]:
        raise ValueError(f"size is {size!r}: give a whole number of {what} from {sizes[0]} to {sizes[1]}")
    return size


def held(folder: Path) -> dict[str, Any]:
    """The card of a folder; empty if it has none that can be read, or is not as it was stored."""
    try:
        return read_json(verify(folder / CARD))
    except (DamagedError, OSError):
        return {}


def ready(folder: Path, *cards: dict[str, Any], but: Sequence[str] = ()) -> bool:
    """Whether the folder holds, undamaged, the dataset of one of these cards: same official files, same options.

    but: fields of the card that may differ. A damaged dataset is reported and counts as none: `write` replaces it.
    Raises FileExistsError if the folder holds anything else.
    """
    if not folder.exists():
        return False
    found = held(folder)
    same = any(all(found.get(key) == card[key] for key in IDENTITY if key not in but) for card in cards)
    if not same and (found or not _remains(folder)):
        what = f"{found.get('name')} with options {found.get('options')}" if found else "no dataset"
        wanted = f"{cards[0]['name']} with options {cards[0]['options']} from {cards[0]['checksums']}"
        raise FileExistsError(f"{folder} holds {what}, wanted {wanted}: choose another folder or remove it")
    if damage := _damage(folder):
        warn(f"{cards[0]['name']} is prepared again: {damage}")
    return not damage


def _remains(folder: Path) -> bool:
    """Whether a folder without a readable card is what is left of a dataset, and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return names <= FILES and bool(names & {CARD, CHECKSUMS})


def _damage(folder: Path) -> str:
    """What is wrong with a dataset folder; empty if nothing is."""
    try:
        read(folder)
        for name in ("images.npy", "masks.npy"):  # of large ones `read` leaves the checksums for later
            verify(folder / name)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def subset(table: pd.DataFrame, limit: int | None, task: str, by: Sequence[str] = ("split",)) -> NDArray[np.int64]:
    """Choose at most `limit` rows, ascending: each split and class in proportion, and at least once.

    by: columns that form strata together with the class, if the table has them. A multi-label case belongs to the
    rarest of its classes. Raises ValueError if `limit` is smaller than the number of strata.
    """
    if limit is None:
        return np.arange(len(table))
    strata = _strata(table, task, by)
    counts = np.bincount(strata)
    if limit < len(counts):
        each = " and ".join(by)
        raise ValueError(f"limit is {limit}: wanted at least {len(counts)}, one case of each class in each {each}")
    shares = _shares(counts, limit)
    shuffled = stream(0, "subset").permutation(len(table))
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]
    rank = np.arange(len(table)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank < np.repeat(shares, counts)])


def _strata(table: pd.DataFrame, task: str, by: Sequence[str]) -> NDArray[np.int64]:
    """Stratum of each row: class and values of the columns `by`, shape (n,)."""
    labels = table["label"].to_numpy(np.int64)
    if task == "multilabel":
        present = (labels[:, None] >> np.arange(max(int(labels.max(initial=1)).bit_length(), 1))) & 1
        labels = np.where(present, present.sum(0), len(table) + 1).argmin(1)
        labels[present.sum(1) == 0] = -1
    strata = table[[column for column in by if column in table]].assign(label=labels)
    return strata.groupby(list(strata.columns), dropna=False).ngroup().to_numpy()


def _shares(counts: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Allocate `limit` in proportion to counts by largest remainder, at least one and at most the count."""
    if limit >= counts.sum():
        return counts
    spare = (limit - len(counts)) * (counts - 1) / max(counts.sum() - len(counts), 1)
    shares = 1 + np.floor(spare).astype(np.int64)
    shares[np.argsort(np.floor(spare) - spare, kind="stable")[: limit - shares.sum()]] += 1
    return shares


@contextmanager
def canvas(folder: Path, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> Iterator[NDArray[Any]]:
    """A temporary array on disk next to the folder, so that a dataset need not fit in memory.

    Its space is reserved: OSError if the disk is too full.
    """
    with scratch_folder(folder.parent) as scratch:
        reserve(scratch / "images", math.prod(shape) * np.dtype(dtype).itemsize)
        yield np.memmap(scratch / "images", dtype, "r+", shape=shape)


def write(
    folder: Path,
    images: NDArray[Any],
    table: pd.DataFrame,
    card: dict[str, Any],
    masks: NDArray[np.uint8] | None = None,
    extents: NDArray[np.int64] | None = None,
) -> Path:
    """Write pixels (n, channels, height, width[, depth]), table and card; the folder appears whole or not at all.

    extents: of images of unequal size, see `fedlab.data.cases.Cases`.
    """
    cases = Cases(images, table, {**card, "cases": len(table), "shape": list(images.shape[1:])}, masks, extents)
    try:
        if not folder.exists():
            cases.save(folder)
        elif not ready(folder, card):
            _replace(folder, cases)
    except OSError:
        if not ready(folder, card):  # another process may have written the same dataset meanwhile
            raise
    shape = " x ".join(str(edge) for edge in images.shape[1:])
    shape = shape if cases.extents is None else f"{cases.shape[0]} x {size_of(cases)}"
    say(f"{card['name']}: {len(table):,} cases of {shape} (licence: {card['licence']}), written to {folder}")
    return folder


def _replace(folder: Path, cases: Cases) -> None:
    """Publish a dataset in the place of a damaged one, which is kept under another name: it may have been edited."""
    with scratch_folder(folder.parent) as scratch:
        whole = cases.save(scratch / folder.name)
        names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        folder.rename(aside)
        whole.rename(folder)
    say(f"{folder} is whole again; the damaged one is kept as {aside}: remove it if nothing in it is your work")
