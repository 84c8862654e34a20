"""Write the folder format: a stratified subset, an array on disk for the images, the card, all or nothing."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from data_prep.fetch import say
from fedlab.core.rng import stream
from fedlab.data.cases import Cases

IDENTITY = ("name", "task", "classes", "checksums", "options")  # fields of the card that identify a dataset


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
) -> dict[str, Any]:
    """The card of a dataset. checksums: official file name -> checksum. options: the user's choices.

    modality: kind of image, e.g. "fundus" or "mri". structures: names of the mask values, for segmentation.
    """
    given = {"modality": modality, "structures": list(structures)}
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


def ready(folder: Path, *cards: dict[str, Any]) -> bool:
    """Whether the folder holds the dataset of one of these cards: same official files, same options.

    Raises FileExistsError if it holds anything else.
    """
    if not folder.exists():
        return False
    file = folder / "card.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if any(all(held.get(key) == card[key] for key in IDENTITY) for card in cards):
        return True
    what = f"{held.get('name')} with options {held.get('options')}" if held else "no dataset"
    wanted = f"{cards[0]['name']} with options {cards[0]['options']} from {cards[0]['checksums']}"
    raise FileExistsError(f"{folder} holds {what}, wanted {wanted}: choose another folder or remove it")


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
    """A temporary array on disk next to the folder, so that a dataset need not fit in memory."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True
    ) as scratch:
        yield np.lib.format.open_memmap(Path(scratch) / "images.npy", "w+", np.dtype(dtype), shape)


def write(
    folder: Path,
    images: NDArray[Any],
    table: pd.DataFrame,
    card: dict[str, Any],
    masks: NDArray[np.uint8] | None = None,
) -> Path:
    """Save pixels (n, channels, height, width[, depth]), table and card; the folder appears whole or not at all."""
    filled = {**card, "cases": len(table), "shape": list(images.shape[1:])}
    try:
        Cases(images, table, filled, masks).save(folder)
    except OSError:
        if not ready(folder, card):  # another process may have written the same dataset meanwhile
            raise
    shape = " x ".join(str(edge) for edge in images.shape[1:])
    say(f"{card['name']}: {len(table):,} cases of {shape}, {card['licence']}, written to {folder}")
    return folder
