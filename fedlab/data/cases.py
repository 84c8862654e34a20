"""`Cases`: images, a table with one row for each case, and a card. A dataset is a folder, not a class.

A folder holds `cases.parquet` (required columns `case`, `label`), `images.npy` (n, channels, height, width[, depth];
uint8 or float16), `card.json`, for segmentation `masks.npy` (n, height, width[, depth]; uint8), and `checksums.json`,
by which damage is found. Images are memory-mapped: they stay on disk until they are used. If images differ in size,
`extents.npy` (n, 2 or 3; int64) says how much of the array each case fills; what is beyond is padding, see `extents`.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core.files import (
    CHECKSUMS,
    DamagedError,
    read_json,
    reserve,
    resolve,
    scratch_folder,
    verify,
    write_checksums,
    write_json,
)
from fedlab.core.typing import Bools, Floats
from fedlab.data.checks import SPLITS, TASKS, check_card, check_images, check_table, each, numbers_of
from fedlab.data.columns import canonical, kind_of, look_alike
from fedlab.data.duplicates import Group, duplicates
from fedlab.data.extents import cut_out, framed, trimmed
from fedlab.data.overview import summary
from fedlab.data.per_case import chosen_rows
from fedlab.data.target_column import REGRESSION, values_of

__all__ = ["SPLITS", "TASKS", "Cases", "read"]

Content = TypeVar("Content")

FILES = ("cases.parquet", "images.npy", "card.json")
OPTIONAL = ("masks.npy", "extents.npy")
PIXELS = "pixels"  # entry of checksums.json: digest of the images, which are hashed when they are audited
LARGE = 2**26  # bytes above which an array is compared when it is hashed, and not already when it is opened
REMEDY = (
    "restore it from a copy, or remove the folder and prepare or save it again (if you changed it on purpose, delete"
    f" {CHECKSUMS})"
)


_figure: list[Callable[..., Any]] = []


def register_figure(draw: Callable[..., Any]) -> None:
    """Set the function that draws `Cases.show`: figures belong to a package that imports this one."""
    _figure[:] = [draw]


@dataclass(frozen=True, eq=False, repr=False)
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
        multilabel, segmentation or regression. `target` is the column of numbers that a regression predicts; classes
        and labels are then kinds of case, and one class will do, with label 0 for all.
    masks : ndarray of uint8, shape (n, height, width[, depth]), optional
        Segmentation masks, required for task segmentation: indices into the card's `structures`, background first.
        Where the card has `overlap` true, structures may overlap, and a value has one bit for each: bit j for
        structure j + 1. Classes and labels are then kinds of case; one class will do, with label 0 for all.
    extents : ndarray of int, shape (n, 2 or 3), optional
        Of images of unequal size, how many pixels or voxels of the array each case fills along each axis, from the
        first on. The rest is padding, which nothing reads: predictions, metrics, statistics and hashes are those of the
        case alone. Padding that all cases share is dropped, and so are extents that are all equal.

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
    extents: NDArray[np.int64] | None = field(default=None, repr=False)

    _unchecked: dict[str, tuple[Path, str]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.table, pd.DataFrame):
            raise ValueError(
                f"the table is a {type(self.table).__name__}: give a DataFrame with columns case and label"
            )
        check_card(self.card)
        check_table(self.table, self.card)
        check_images(self.images, self.table, self.card, self.masks, self.extents)
        object.__setattr__(self, "table", self.table.reset_index(drop=True))
        if self.extents is not None:
            kept = trimmed(self.images, self.masks, self.extents)
            for name, array in zip(("images", "masks", "extents"), kept, strict=True):
                object.__setattr__(self, name, array)

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return str(self.card["name"])

    @property
    def task(self) -> str:
        """binary, multiclass, ordinal, multilabel, segmentation or regression."""
        return str(self.card["task"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return list(self.card["classes"])

    @property
    def structures(self) -> list[str]:
        """Names of the structures of masks, background first; the classes if the card has no `structures`."""
        return list(self.card.get("structures", self.card["classes"]))

    @property
    def target(self) -> str | None:
        """The column that a regression predicts; None for other tasks."""
        return str(self.card["target"]) if self.task == REGRESSION else None

    @cached_property
    def targets(self) -> Floats:
        """What models predict of each case, (n,): the numbers of the target column, or the labels of other tasks."""
        return self.labels.astype(np.float64) if self.target is None else values_of(self.table, self.target)

    @property
    def overlap(self) -> bool:
        """Whether structures may overlap, so that a value of a mask has one bit for each but the background."""
        return self.masks is not None and bool(self.card.get("overlap", False))

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width[, depth]) of one image; of unequal images the largest edges."""
        return tuple(self.images.shape[1:])

    def extent(self, row: int) -> NDArray[np.int64] | None:
        """How many voxels a case fills along each axis; None if all images have the same size."""
        return None if self.extents is None else self.extents[row]

    def image(self, row: int) -> NDArray[Any]:
        """The image of a case, (channels, height, width[, depth]), without padding."""
        return cut_out(self.images[row], self.extent(row))

    def mask(self, row: int) -> NDArray[np.uint8]:
        """The mask of a case, (height, width[, depth]), without padding; ValueError if there are none."""
        if self.masks is None:
            raise ValueError(f"{self.name} has no masks: choose a segmentation dataset")
        return cut_out(self.masks[row], self.extent(row))

    def framed(self, row: int, masks: bool = False) -> NDArray[Any]:
        """An image, or a mask, in the middle of a frame of the largest size, for pictures that have one size."""
        array = self.masks if masks and self.masks is not None else self.images
        one = slice(row, row + 1)
        return framed(array[one], None if self.extents is None else self.extents[one])[0]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each case, shape (n,); for a multi-label task a bit mask, bit j for class j."""
        return numbers_of(self.table["label"]).to_numpy(np.int64)

    @cached_property
    def pixel_hashes(self) -> NDArray[np.object_]:
        """128-bit digest of each image's bytes, shape (n,): equal digests are exact duplicates."""
        digests = [hashlib.blake2b(content, digest_size=16).digest() for content in self._contents(self.images)]
        if "images.npy" in self._unchecked:
            path, stored = self._unchecked["images.npy"]
            if _pixel_digest(self.images, digests) != stored:
                raise DamagedError(f"{path} is damaged: its pixels are not those that were stored; {REMEDY}")
        return np.array([*digests, b""], dtype=object)[:-1]

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """Group id of each case, shape (n,): cases of one patient and byte-identical images must stay together."""
        duplicates = pd.factorize(self.pixel_hashes)[0].astype(np.int64)
        if "patient" not in self.table:
            return duplicates
        patients = pd.factorize(_trimmed(self.table["patient"]))[0].astype(np.int64)
        patients[patients < 0] = patients.max() + 1 + np.arange((patients < 0).sum())  # unknown: one each
        return _connected(patients, duplicates)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of task, classes, table, pixels and masks; it identifies the data in every run folder."""
        facts = [self.task, self.classes, self.shape, *["overlap"] * self.overlap, *filter(None, [self.target])]
        digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16)
        for column in sorted(self.table.columns):
            digest.update(column.encode() + "\x1f".join(canonical(self.table[column])).encode())
        for pixel_hash in self.pixel_hashes:
            digest.update(pixel_hash)
        if "masks.npy" in self._unchecked:
            _verified(self._unchecked["masks.npy"][0])
        for mask in () if self.masks is None else self._contents(self.masks):
            digest.update(mask)
        return digest.hexdigest()

    def _contents(self, arrays: NDArray[Any]) -> Iterator[bytes]:
        """The bytes of each image or mask; of unequal ones those within the extent, after the extent."""
        for row, array in enumerate(each(arrays)):
            extent = self.extent(row)
            yield array.tobytes() if extent is None else extent.tobytes() + cut_out(array, extent).tobytes()

    def __len__(self) -> int:
        return len(self.table)

    def take(self, index: ArrayLike) -> "Cases":
        """Select cases by row position.

        Parameters
        ----------
        index : array-like of int, or of bool with shape (n,)
            Row positions, or a mask; a mask that is a Series is aligned by its index.

        Returns
        -------
        Cases
            The selected cases, in the order given.

        Raises
        ------
        ValueError
            If no case is selected, or a position or mask does not fit the cases.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=20)")
        >>> len(cases), len(cases.take(cases.labels == 1))
        (20, 9)
        """
        rows = chosen_rows(index, self.table["case"])
        masks = None if self.masks is None else self.masks[rows]
        extents = None if self.extents is None else self.extents[rows]
        return Cases(self.images[rows], self.table.iloc[rows], self.card, masks, extents)

    def with_target(self, column: str) -> "Cases":
        """The same cases for a regression that predicts a column of their table.

        Parameters
        ----------
        column : str
            A column of numbers without missing values, such as "age".

        Returns
        -------
        Cases
            With the task "regression". Labels stay in the table, as kinds of case.

        Raises
        ------
        ValueError
            If the column does not exist or holds anything but numbers, or a case has none.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=20)").with_target("age")
        >>> cases.task, cases.targets[:3]
        ('regression', array([53., 37., 71.]))
        """
        card = {**self.card, "task": REGRESSION, "target": column}
        return self if self.target == column else replace(self, card=card)

    def members(self, name: str) -> Bools:
        """Which cases (n,) have a class; with overlapping labels, at least that one."""
        index = self.classes.index(name)
        return (self.labels >> index & 1 == 1) if self.task == "multilabel" else self.labels == index

    def show(
        self,
        where: str | None = None,
        *,
        rows: ArrayLike | None = None,
        by: str | None = None,
        n: int | None = None,
        page: int = 1,
        slice: int | None = None,
        channel: int | None = None,
        masks: bool = True,
        seed: int = 0,
    ) -> Any:
        """Draw examples of each site and class, with masks as contours, next to the histogram of their intensities.

        The same as `fedlab.plots.cases(self, ...)`; `fedlab.widgets.cases(self)` has controls for it.

        Parameters
        ----------
        where : str, optional
            A condition on the table, such as "age > 60 and sex == 'F'" or "label == 'nodule'".
        rows : array-like, optional
            Row positions, or a mask of the cases.
        by : str, optional
            A column of the table, whose values are the rows of the figure, "class", or "case" for every case with its
            name. The site by default, where there is one, else the class.
        n : int, optional
            About how many images a row; of "case", how many on a page.
        page : int, default 1
            Further pages show further cases.
        slice : int, optional
            Which slice of volumes; the middle one by default.
        channel : int, optional
            Which channel; colours by default if there are three, else the first.
        masks : bool, default True
            Whether to draw masks.
        seed : int, default 0
            The same seed shows the same cases.

        Returns
        -------
        Drawing
            (figure, table). table: a row an image.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> figure, table = cases.show("age > 40", n=4)
        >>> table.groupby("class").size().to_dict()
        {'nodule': 4, 'normal': 4}
        """
        options: dict[str, Any] = {"rows": rows, "by": by, "n": n, "page": page, "slice": slice, "channel": channel}
        return _figure[0](self, where, **options, masks=masks, seed=seed)

    def duplicates(self) -> list[Group]:
        """Groups of cases with one image, and in what they differ (label, mask, split, patient, site); worst first."""
        return duplicates(self.pixel_hashes, self.table, None if self.masks is None else self.mask)

    def __repr__(self) -> str:
        return summary(self).text()

    def _repr_html_(self) -> str:
        return summary(self, picture=True).html()

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
                *_mixed(duplicates, pd.Series(self.labels)),
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
            patients = _trimmed(self.table["patient"])
            found.append(("patients across splits", *_mixed(patients, self.table["split"]), "patients on both sides"))
        if "patient" in self.table and kind_of(self.table["patient"]) == "string":
            alike = look_alike(_trimmed(self.table["patient"]).dropna())
            names = [name for group in alike for name in group]
            meaning = f"ids such as {' and '.join(map(repr, alike[0]))} count as different patients" if alike else ""
            found.append(("patients look alike", len(alike), int(self.table["patient"].isin(names).sum()), meaning))
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
        ['card.json', 'cases.parquet', 'checksums.json', 'images.npy', 'masks.npy']
        True
        """
        target = resolve(folder)
        with scratch_folder(target.parent) as scratch:
            half = scratch / "half"
            half.mkdir()
            reserve(half / "images.npy", self.images.nbytes)
            np.save(half / "images.npy", self.images)
            if self.masks is not None:
                np.save(half / "masks.npy", self.masks)
            if self.extents is not None:
                np.save(half / "extents.npy", self.extents)
            (half / "cases.parquet").write_bytes(self.table.to_parquet(index=False))  # pyarrow refuses some paths
            write_json(half / "card.json", self.card)
            write_checksums(half)
            digest = _pixel_digest(self.images, self.pixel_hashes.tolist())
            write_json(half / CHECKSUMS, {**read_json(half / CHECKSUMS), PIXELS: digest})
            if target.exists():
                raise FileExistsError(f"{target} exists already: choose another folder or remove it first")
            half.rename(target)
        return target


def read(folder: str | Path) -> Cases:
    """Read and validate a dataset folder; images are memory-mapped.

    Parameters
    ----------
    folder : str or Path
        A folder with `cases.parquet`, `images.npy`, `card.json` and, for segmentation, `masks.npy`; of images of
        unequal size also `extents.npy`.

    Returns
    -------
    Cases
        The cases.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    DamagedError
        If a file is cut off, or is not what was stored. Images and masks of more than 64 MiB are compared when they are
        hashed, which `fedlab.load` and every run do.
    ValueError
        If the parts do not fit together.
    """
    root = resolve(folder)
    for name in FILES:
        if not (root / name).is_file():
            raise FileNotFoundError(
                f"{root} has no {name}: a dataset folder holds cases.parquet, images.npy and card.json"
            )
    unchecked = _compare_checksums(root)
    array = partial(np.load, mmap_mode="r", allow_pickle=False)
    images = _opened(root / "images.npy", array)
    table = _opened(root / "cases.parquet", lambda path: pd.read_parquet(io.BytesIO(path.read_bytes())))
    card = _opened(root / "card.json", lambda path: read_json(path, object))
    masks = _opened(root / "masks.npy", array) if (root / "masks.npy").is_file() else None
    extents = _opened(root / "extents.npy", array) if (root / "extents.npy").is_file() else None
    try:
        cases = Cases(images, table, card, masks, None if extents is None else np.array(extents))
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    cases._unchecked.update(unchecked)
    return cases


def _opened(path: Path, reader: Callable[[Path], Content]) -> Content:
    """The content of a file; DamagedError that names it, whatever its reader raises."""
    try:
        return reader(path)
    except Exception as error:
        told = str(error) if isinstance(error, DamagedError) else f"{path} cannot be read ({error})"
        raise DamagedError(f"{told}: {REMEDY}") from error


def _verified(path: Path) -> Path:
    """The path of a file whose bytes are those that were stored; DamagedError with a remedy if they changed."""
    try:
        return verify(path)
    except DamagedError as error:
        raise DamagedError(f"{error}; {REMEDY}") from None


def _compare_checksums(root: Path) -> dict[str, tuple[Path, str]]:
    """Compare the files of a folder with their checksums; return the large arrays, which are compared when hashed.

    Folders of earlier versions have no checksums.
    """
    if not (root / CHECKSUMS).is_file():
        return {}
    stored = _opened(root / CHECKSUMS, read_json)
    held = [name for name in (*FILES, *OPTIONAL) if (root / name).is_file()]
    if unlisted := [name for name in (*held, PIXELS) if name not in stored]:
        raise DamagedError(f"{root / CHECKSUMS} is damaged: it does not list {', '.join(unlisted)}; {REMEDY}")
    large = [name for name in held if name.endswith(".npy") and (root / name).stat().st_size > LARGE]
    for name in stored:
        if name not in (*large, PIXELS):
            _verified(root / name)
    return {name: (root / name, str(stored[PIXELS])) for name in large}


def _pixel_digest(images: NDArray[Any], hashes: list[bytes]) -> str:
    """Digest of images, from the hashes of each."""
    digest = hashlib.blake2b(f"{images.shape} {images.dtype}".encode(), digest_size=16)
    digest.update(b"".join(hashes))
    return digest.hexdigest()


def _trimmed(patients: pd.Series) -> pd.Series:
    """Patients without blanks before and after their names: one person, not two."""
    return patients.map(str.strip, na_action="ignore") if kind_of(patients) == "string" else patients


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
