"""`Cases`: images, a table with one row for each case, and a card. A dataset is a folder, not a class.

A folder holds `cases.parquet` (required columns `case`, `label`), `images.npy` (n, channels, height, width[, depth];
uint8 or float16), `card.json` and, for segmentation, `masks.npy` (n, height, width[, depth]; uint8). Images are
memory-mapped: they stay on disk until they are used.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core.registry import nearest

TASKS = ("binary", "multiclass", "ordinal", "multilabel", "segmentation")
SPLITS = ("train", "val", "test")
# Least and most classes; other tasks have at least two.
LIMITS: dict[str, tuple[int, float]] = {"binary": (2, 2), "multilabel": (1, 62), "segmentation": (1, math.inf)}
CHUNK = 4096  # images read at a time, so that a memory-mapped dataset never has to fit in memory


@dataclass(frozen=True, eq=False)
class Cases:
    """Labelled images of one dataset.

    Parameters
    ----------
    images : ndarray, shape (n, channels, height, width[, depth])
        uint8 in 0..255 or float16 in [0, 1]; may be a read-only memory map.
    table : DataFrame
        One row for each image, in the same order. Columns `case` (unique text) and `label` (class index; for a
        multi-label task a bit mask, bit j for class j), and any of `patient`, `site`, `split` (train, val, test),
        `age`, `sex`, `scanner` and others.
    card : dict
        Description of the dataset. `name`, `task` and `classes` are required; `task` is binary, multiclass, ordinal,
        multilabel or segmentation.
    masks : ndarray of uint8, shape (n, height, width[, depth]), optional
        Segmentation masks, required for task segmentation: indices into the card's `structures`, background first.
        Classes and labels are then kinds of case; one class will do, with label 0 for all.

    Raises
    ------
    ValueError
        If the parts do not fit together; the message names the case or column.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from fedlab.data.cases import Cases
    >>> images = np.zeros((3, 1, 8, 8), np.uint8)
    >>> table = pd.DataFrame({"case": ["a", "b", "c"], "label": [0, 1, 1]})
    >>> cases = Cases(images, table, {"name": "mine", "task": "binary", "classes": ["healthy", "ill"]})
    >>> len(cases), cases.shape, cases.labels
    (3, (1, 8, 8), array([0, 1, 1]))
    """

    images: NDArray[Any]
    table: pd.DataFrame
    card: dict[str, Any] = field(repr=False)
    masks: NDArray[np.uint8] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", self.table.reset_index(drop=True))
        _check_card(self.card)
        _check_table(self.table, self.card)
        _check_images(self)

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return str(self.card["name"])

    @property
    def task(self) -> str:
        """binary, multiclass, ordinal, multilabel or segmentation."""
        return str(self.card["task"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return list(self.card["classes"])

    @property
    def structures(self) -> list[str]:
        """Names of the mask values, background first; the classes if the card has no `structures`."""
        return list(self.card.get("structures", self.card["classes"]))

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width[, depth]) of one image."""
        return tuple(self.images.shape[1:])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each case, shape (n,); for a multi-label task a bit mask, bit j for class j."""
        return self.table["label"].to_numpy(np.int64)

    @cached_property
    def pixel_hashes(self) -> NDArray[np.object_]:
        """128-bit digest of each image's bytes, shape (n,): equal digests are exact duplicates."""
        digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in _each(self.images)]
        return np.array([*digests, b""], dtype=object)[:-1]

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """Group id of each case, shape (n,): cases of one patient and byte-identical images must stay together."""
        duplicates = pd.factorize(self.pixel_hashes)[0].astype(np.int64)
        if "patient" not in self.table:
            return duplicates
        patients = pd.factorize(self.table["patient"])[0].astype(np.int64)
        patients[patients < 0] = patients.max() + 1 + np.arange((patients < 0).sum())  # unknown: one each
        return _connected(patients, duplicates)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of task, classes, table, pixels and masks; it identifies the data in every run folder."""
        digest = hashlib.blake2b(json.dumps([self.task, self.classes, self.shape]).encode(), digest_size=16)
        for column in sorted(self.table.columns):
            digest.update(column.encode() + "\x1f".join(map(str, self.table[column])).encode())
        for pixel_hash in self.pixel_hashes:
            digest.update(pixel_hash)
        for mask in () if self.masks is None else _each(self.masks):
            digest.update(mask.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.table)

    def take(self, index: ArrayLike) -> "Cases":
        """Select cases by row position.

        Parameters
        ----------
        index : array-like of int, or of bool with shape (n,)
            Row positions, or a mask.

        Returns
        -------
        Cases
            The selected cases, in the order given.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=20)")
        >>> len(cases), len(cases.take(cases.labels == 1))
        (20, 9)
        """
        rows = np.asarray(index)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        masks = None if self.masks is None else self.masks[rows]
        return Cases(self.images[rows], self.table.iloc[rows], self.card, masks)

    def audit(self) -> pd.DataFrame:
        """Look for leakage between splits: duplicate images, and patients in more than one split.

        Returns
        -------
        DataFrame
            One row for each finding, with columns `kind`, `groups` (of duplicates, or patients), `cases` (affected) and
            `meaning`; empty if there is none.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> from fedlab.data.cases import Cases
        >>> table = pd.DataFrame({"case": ["a", "b"], "label": [0, 0], "split": ["train", "test"]})
        >>> card = {"name": "twins", "task": "binary", "classes": ["healthy", "ill"]}
        >>> Cases(np.zeros((2, 1, 8, 8), np.uint8), table, card).audit()[["kind", "groups", "cases"]]
                               kind  groups  cases
        0          exact duplicates       1      1
        1  duplicates across splits       1      2
        """
        duplicates = pd.Series(pd.factorize(self.pixel_hashes)[0])
        found = [
            ("exact duplicates", *_repeats(duplicates), "surplus copies of byte-identical images"),
            (
                "conflicting labels",
                *_mixed(duplicates, self.table["label"]),
                "identical images, different labels",
            ),
        ]
        if "split" in self.table:
            found.append(
                (
                    "duplicates across splits",
                    *_mixed(duplicates, self.table["split"]),
                    "identical images on both sides",
                )
            )
        if "split" in self.table and "patient" in self.table:
            patients = self.table["patient"]
            found.append(("patients across splits", *_mixed(patients, self.table["split"]), "patients on both sides"))
        rows = pd.DataFrame(found, columns=["kind", "groups", "cases", "meaning"])
        return rows[rows["cases"] > 0].reset_index(drop=True)

    def save(self, folder: str | Path) -> Path:
        """Write a dataset folder, completely or not at all.

        Parameters
        ----------
        folder : str or Path
            A folder that does not exist yet.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        FileExistsError
            If it exists already.

        Examples
        --------
        >>> import tempfile
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=20)")
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = cases.save(f"{parent}/mine")
        ...     print(sorted(file.name for file in folder.iterdir()))
        ...     print(fedlab.load(folder).fingerprint == cases.fingerprint)
        ['card.json', 'cases.parquet', 'images.npy', 'masks.npy']
        True
        """
        target = Path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            half = Path(scratch) / "half"
            half.mkdir()
            self.table.to_parquet(half / "cases.parquet", index=False)
            np.save(half / "images.npy", self.images)
            if self.masks is not None:
                np.save(half / "masks.npy", self.masks)
            (half / "card.json").write_text(json.dumps(self.card, indent=2, ensure_ascii=False))
            if target.exists():
                raise FileExistsError(f"{target} exists already: choose another folder or remove it first")
            half.rename(target)
        return target


def read(folder: str | Path) -> Cases:
    """Read and validate a dataset folder; images are memory-mapped.

    Parameters
    ----------
    folder : str or Path
        A folder with `cases.parquet`, `images.npy`, `card.json` and, for segmentation, `masks.npy`.

    Returns
    -------
    Cases
        The cases.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file cannot be read or the parts do not fit together.
    """
    root = Path(folder)
    for name in ("cases.parquet", "images.npy", "card.json"):
        if not (root / name).is_file():
            raise FileNotFoundError(
                f"{root} has no {name}: a dataset folder holds cases.parquet, images.npy and card.json"
            )
    try:
        images = np.load(root / "images.npy", mmap_mode="r", allow_pickle=False)
        table = pd.read_parquet(root / "cases.parquet")
        card = json.loads((root / "card.json").read_text())
        mask_file = root / "masks.npy"
        masks = np.load(mask_file, mmap_mode="r", allow_pickle=False) if mask_file.is_file() else None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{root} cannot be read ({error}): prepare the folder again") from error
    try:
        return Cases(images, table, card, masks)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None


def _check_card(card: dict[str, Any]) -> None:
    """Check name, task and classes."""
    for key in ("name", "task", "classes"):
        if key not in card:
            raise ValueError(f"the card has no {key!r}: add it to card.json (found {sorted(card)})")
    if card["task"] not in TASKS:
        raise ValueError(f"the card's task is {card['task']!r}: {nearest(card['task'], TASKS)}")
    least, most = LIMITS.get(card["task"], (2, math.inf))
    classes = card["classes"]
    if not isinstance(classes, list | tuple) or len(set(classes)) < len(classes) or not least <= len(classes) <= most:
        wanted = "two" if most == 2 else f"at least {least}"
        raise ValueError(f"the card's classes are {classes!r}: list {wanted} different names for a {card['task']} task")


def _check_table(table: pd.DataFrame, card: dict[str, Any]) -> None:
    """Check case names, labels and splits."""
    for column in ("case", "label"):
        if column not in table:
            raise ValueError(
                f"the table has no column {column!r}: found {list(table.columns)}; {nearest(column, table.columns)}"
                " Rename or add it"
            )
    unnamed = ~table["case"].map(lambda name: isinstance(name, str) and bool(name)).astype(bool)
    if unnamed.any():
        raise ValueError(
            f"column 'case' holds {table['case'][unnamed].iloc[0]!r}: name every case by text, e.g."
            " table['case'].astype(str), since a number would mean a row"
        )
    if not table["case"].is_unique:
        twice = table["case"][table["case"].duplicated()].iloc[0]
        raise ValueError(f"case {twice!r} occurs more than once in the table: give every case a unique name")
    labels = pd.to_numeric(table["label"], errors="coerce")
    limit = 2 ** len(card["classes"]) if card["task"] == "multilabel" else len(card["classes"])
    wrong = labels.isna() | (labels < 0) | (labels >= limit) | (labels != labels.round())
    if wrong.any():
        row = table[wrong].iloc[0]
        raise ValueError(
            f"{int(wrong.sum())} labels are outside 0..{limit - 1} (first: case {row['case']!r}: {row['label']!r})"
            f": number the classes {card['classes']} from 0"
        )
    if "split" in table and not table["split"].isin(SPLITS).all():
        raise ValueError(f"column 'split' holds {sorted(set(table['split'].astype(str)) - set(SPLITS))}: use {SPLITS}")


def _check_images(cases: Cases) -> None:
    """Check shapes, data types and values of images and masks."""
    images, n = cases.images, len(cases.table)
    if images.ndim not in (4, 5) or images.shape[0] != n:
        raise ValueError(
            f"images have shape {images.shape} but the table has {n} rows:"
            f" wanted ({n}, channels, height, width[, depth])"
        )
    if images.dtype not in (np.dtype(np.uint8), np.dtype(np.float16)):
        raise ValueError(f"images are {images.dtype}: store uint8 (0..255) or float16 (0..1)")
    if cases.masks is not None and cases.masks.shape != (n, *images.shape[2:]):
        wanted = (n, *images.shape[2:])
        raise ValueError(f"masks have shape {cases.masks.shape}: wanted {wanted}, one mask for each image")
    if cases.task == "segmentation":
        _check_masks(cases)
    if images.dtype == np.float16:
        _check_finite(cases)


def _check_masks(cases: Cases) -> None:
    """Check structures and mask values."""
    names = cases.card.get("structures", cases.card["classes"])
    if not isinstance(names, list | tuple) or len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(
            f"the card's structures are {names!r}: list a different name for each value of the masks, background first"
        )
    if cases.masks is None:
        raise ValueError("a segmentation dataset has no masks: add masks.npy, or give the card another task")
    if cases.masks.dtype != np.uint8:
        raise ValueError(f"masks are {cases.masks.dtype}: store the numbers of {list(names)} as uint8")
    for number, mask in enumerate(_each(cases.masks)):
        if (top := int(mask.max(initial=0))) >= len(names):
            raise ValueError(
                f"the mask of case {cases.table['case'].iloc[number]!r} holds the value {top}, but the structures are"
                f" {list(names)}: number them 0..{len(names) - 1}"
            )


def _check_finite(cases: Cases) -> None:
    """Check that float images are finite and in [0, 1]."""
    for start in range(0, len(cases.table), CHUNK):
        block = np.asarray(cases.images[start : start + CHUNK], np.float32)
        low, high = block.min(initial=0.0), block.max(initial=0.0)
        if not (low >= 0 and high <= 1):  # also false for NaN
            good = np.isfinite(block) & (block >= 0) & (block <= 1)
            first = start + int(np.flatnonzero(~good.reshape(len(block), -1).all(1))[0])
            raise ValueError(
                f"case {cases.table['case'].iloc[first]!r} has pixels that are NaN, infinite or outside [0, 1]:"
                " scale images to [0, 1] and fill holes before saving"
            )


def _each(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Iterate over images, reading many at a time."""
    for start in range(0, len(images), CHUNK):
        yield from np.asarray(images[start : start + CHUNK])


def _repeats(groups: pd.Series) -> tuple[int, int]:
    """Numbers of groups with more than one member, and of their members beyond the first."""
    sizes = groups.value_counts()
    return int((sizes > 1).sum()), int((sizes - 1).sum())


def _mixed(groups: pd.Series, values: pd.Series) -> tuple[int, int]:
    """Numbers of groups whose members differ in value, and of their members."""
    kinds = values.groupby(groups.to_numpy()).transform("nunique")
    return int(groups[kinds > 1].nunique()), int((kinds > 1).sum())


def _connected(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids of the connected components of cases that share an id in either grouping."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, ones = len(first), np.ones(len(first), np.int8)
    links = coo_matrix((ones, (first, first.max(initial=-1) + 1 + second))).tocsr() if n else None
    if links is None:
        return first
    size = max(links.shape)
    links.resize((size, size))
    return connected_components(links, directed=False)[1][first].astype(np.int64)
