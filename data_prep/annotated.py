"""Images with masks, from a local download: a script says where they are, and everything else is done here.

`Annotated` is what a script says of its dataset, and `prepare` makes it a folder: licence, files, checks, the grid of
an import (`data_prep.importing`), one process for each core.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import local, writer
from data_prep.fetch import say
from data_prep.importing import convert, grid, work
from data_prep.importing.settings import Settings, settings
from data_prep.reader import Scan
from data_prep.reading import nifti, pictures

PART = 8  # cases that one process converts at a time
WORST = 3  # cases that cannot be used, after which the others are not tried
WHOLE = 0.9  # share of the outlined volume on the grid, below which a case is reported
NIFTI = (".nii", ".nii.gz")
BACKGROUND = "background"
FILES = ("images", "mask", "frame")  # columns of a table of cases that are no columns of the dataset


@dataclass(frozen=True)
class Found:
    """The cases in a download.

    table: one row for each, with `case`, `images` (a tuple of file names, one for each channel unless one file holds
    them all), `mask` (a file name), perhaps `frame` (of a file of several, from 0), and columns to keep. structures:
    value of the masks -> name, background first. channels: their names. tables: names of the files that the table was
    read from.
    """

    table: pd.DataFrame
    structures: Mapping[int, str]
    channels: Sequence[str] = ()
    tables: Sequence[str] = ()


@dataclass(frozen=True)
class Annotated:
    """What a script says of a dataset of images with masks.

    find: finds the cases in a download. subject: the one class. archives: patterns of the archives of a download.
    published: file name -> checksum. window: as in an import. acquired: keep the axes of volumes as they are stored.
    recode: from the values of a mask to the numbers of its structures. download: fetches the official archive.
    """

    terms: local.Terms
    find: Callable[[local.Files], Found]
    title: str
    subject: str
    modality: str
    source: str
    citation: str
    caution: str
    archives: Sequence[str] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    window: str = "percentiles"
    acquired: bool = False
    recode: Callable[[NDArray[Any], str], NDArray[Any]] | None = None
    download: Callable[[], Path] | None = None


@dataclass(frozen=True)
class Pair:
    """An image (channels, axes) and its mask.

    spacing: edges of a voxel in mm. lost: structures of the original that the mask lacks. kept: share of the outlined
    volume that is on the grid. storage: data type in the file. digests: of the files.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    spacing: tuple[float, ...] = ()
    lost: tuple[int, ...] = ()
    kept: float = 1.0
    storage: str = ""
    digests: tuple[str, ...] = ()


def prepare(
    sets: Mapping[str, Annotated],
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    size: int | str = 64,
    spacing: float | str | None = None,
    window: str | None = None,
    source: object = None,
    accept_licence: bool = False,
) -> Path:
    """Write a dataset as a folder.

    size: of the result, 64 or "96x96x12". spacing: mm of a voxel, 1.0 or "1.5x1.5x10", images are cropped or padded to
    the size; by default they are scaled to it, voxels of one length in mm along all axes. window: grey values, as in an
    import; by default that of the dataset. source: the folder of the download. accept_licence: True if you accept it.
    """
    known = sets[name]
    if isinstance(size, bool) or size is None:
        raise ValueError(f"size is {size!r}: give pixels or voxels, such as 64 or '96x96x12'")
    chosen = settings(size, spacing, "pad", known.window if window is None else window)
    card = _card(known, name, {**chosen.plain(), "limit": limit})
    if local.prepared(folder, card, known.terms, source):
        return folder
    known.terms.consent(accept_licence)
    place = known.download() if source is None and known.download is not None else source
    files = local.Files(known.terms, place, *known.archives)
    found = known.find(files)
    check(files, found.table)
    rows = writer.subset(found.table.assign(label=0), limit, "segmentation", by=("site", "split"))
    return _written(folder, files, found, found.table.iloc[rows].reset_index(drop=True), known, chosen, card)


def check(files: local.Files, table: pd.DataFrame) -> None:
    """Raise unless there are cases, each with its files, and patients of one site."""
    if not len(table):
        raise FileNotFoundError(f"{files.folder} holds no case: {files.terms.advice}")
    if {"patient", "site"} <= set(table):
        sites = table.dropna(subset=["patient"]).groupby("patient")["site"].unique()
        if len(several := sites[sites.map(len) > 1]):
            raise ValueError(
                f"{len(several):,} patients are in several sites (first: {several.index[0]} in"
                f" {' and '.join(map(str, several.iloc[0]))}): a patient belongs to one site, correct the table or the"
                " folders"
            )
    twice = table["case"][table["case"].duplicated()]
    if len(twice):
        raise ValueError(f"there are {len(twice):,} cases of a name that is taken (first: {twice.iloc[0]}): rename one")
    images = [image for names in table["images"] for image in names]
    files.expect(pd.Series(list(dict.fromkeys(images)), dtype=object), "images")
    files.expect(table["mask"].drop_duplicates(), "masks")


def numbered(
    values: NDArray[Any], found: Scan, scan: Scan, names: tuple[str, str], structures: Mapping[int, str]
) -> NDArray[np.uint8]:
    """The mask of an image as positions of the structures, 0, 1, ...; names: of mask and image.

    Raises ValueError if the mask is on another grid, or holds a value of no structure.
    """
    numbers = convert.numbers(values, found, scan, *names)
    if other := sorted(set(convert.held(numbers).tolist()) - set(structures)):
        wanted = ", ".join(f"{value} ({name})" for value, name in structures.items())
        raise ValueError(
            f"{names[0]} holds the value {other[0]}, but the structures are {wanted}: use the original file"
        )
    lookup = np.zeros(256, np.uint8)
    lookup[list(structures)] = np.arange(len(structures))
    return lookup[numbers]


def fill(images: NDArray[np.uint8], masks: NDArray[np.uint8], pairs: Iterable[Pair | str], title: str) -> list[Pair]:
    """Write images and masks in their order; returns the rest of each pair.

    Raises ValueError with the reasons of the first cases that cannot be used, which come as text.
    """
    from tqdm.auto import tqdm

    rest, problems = [], []
    for row, pair in tqdm(enumerate(pairs), title, len(images), unit="case", delay=2):
        if isinstance(pair, str):
            problems.append(pair)
            if len(problems) == WORST:
                break
            continue
        images[row], masks[row] = pair.image, pair.mask
        rest.append(replace(pair, image=pair.image[:0].copy(), mask=pair.mask[:0].copy()))
    if problems:
        raise ValueError("; ".join(problems))
    return rest


def _card(known: Annotated, name: str, options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title=known.title,
        task="segmentation",
        classes=[known.subject],
        licence=known.terms.licence,
        source=known.source,
        citation=known.citation,
        caution=known.caution,
        checksums={},
        options=options,
        modality=known.modality,
    )


def _written(
    folder: Path,
    files: local.Files,
    found: Found,
    table: pd.DataFrame,
    known: Annotated,
    chosen: Settings,
    card: dict[str, Any],
) -> Path:
    """Convert and write the cases of a table."""
    names = [name for row in table[["images", "mask"]].itertuples(index=False) for name in (*row.images, row.mask)]
    names = list(dict.fromkeys(names))
    published = dict(known.published)
    if (checksums := local.checked(folder, files, names, card, found.tables, published)) is None:
        return folder
    pairs, count = _converted(files, table, found, known, chosen), len(table)
    if isinstance(first := next(pairs), str):
        raise ValueError(first)
    with (
        writer.canvas(folder, (count, *first.image.shape)) as images,
        writer.canvas(folder, (count, *first.mask.shape)) as masks,
    ):
        rest = fill(images, masks, itertools.chain([first], pairs), card["name"])
        checksums |= local.listing({digest for pair in rest for digest in pair.digests})
        _report(card["name"], rest, found)
        table, stated = _measured(table, rest)
        full = {**card, "structures": list(found.structures.values()), **stated}
        full |= {"channels": list(found.channels)} if len(found.channels) > 1 else {}
        full |= {"orientation": "RAS"} if images.ndim == 5 and not known.acquired else {}
        return writer.write(folder, images, table, {**full, **local.origin(files, checksums, published)}, masks)


def _measured(table: pd.DataFrame, rest: Sequence[Pair]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the dataset; and the spacing for the card if all cases have one, else a column with it."""
    table = table.drop(columns=[column for column in FILES if column in table]).assign(label=0)
    table = table[["case", "label", *(column for column in table if column not in ("case", "label"))]]
    edges = {tuple(round(edge, 4) for edge in pair.spacing) for pair in rest}
    if len(edges) == 1:
        return table, {"spacing": list(edges.pop())} if rest[0].spacing else {}
    return table.assign(voxel_mm=[round(max(pair.spacing, default=np.nan), 4) for pair in rest]), {}


def _report(name: str, rest: Sequence[Pair], found: Found) -> None:
    """Say in how many cases a structure is lost, or cut."""
    remedy = "choose a larger size"
    for position, structure in enumerate(found.structures.values()):
        if position and (count := sum(position in pair.lost for pair in rest)):
            say(f"{name}: {structure} is lost in {count:,} of {len(rest):,} cases, too small or outside: {remedy}")
    if count := sum(pair.kept < WHOLE for pair in rest):
        say(f"{name}: more than {1 - WHOLE:.0%} of the outlined volume is outside in {count:,} cases: {remedy}")


def _converted(
    files: local.Files, table: pd.DataFrame, found: Found, known: Annotated, chosen: Settings
) -> Iterator[Pair | str]:
    """All cases in their order, converted by several processes if there is enough to do."""
    from joblib import Parallel, delayed

    starts = range(0, len(table), PART)
    count = work.processes(None, files.size, len(starts))
    jobs = (delayed(_part)(files, table.iloc[start : start + PART], found, known, chosen) for start in starts)
    for part in Parallel(n_jobs=count, return_as="generator", batch_size=1)(jobs):
        yield from part


def _part(
    files: local.Files, table: pd.DataFrame, found: Found, known: Annotated, chosen: Settings
) -> list[Pair | str]:
    """Convert a few cases."""
    return list(_pairs(files, table, found, known, chosen))


def _pairs(
    files: local.Files, table: pd.DataFrame, found: Found, known: Annotated, chosen: Settings
) -> Iterator[Pair | str]:
    """Convert cases one after another; of those that cannot be used, the reason."""
    cases = table.to_dict("records")
    contents = files.ordered([name for case in cases for name in (*case["images"], case["mask"])])
    for case in cases:
        names = (*case["images"], case["mask"])
        held = [_File(next(contents), files.where(name), name.lower().endswith(NIFTI)) for name in names]
        digests = [
            local.digest(name, file.content) for name, file in zip(names, held, strict=True) if files.loose(name)
        ]
        try:
            yield replace(_pair(held, case.get("frame"), found, known, chosen), digests=tuple(digests))
        except ValueError as error:
            yield str(error)


class _File(NamedTuple):
    """Content of a file, its path for messages, and whether it is a volume or a picture."""

    content: bytes
    name: str
    volume: bool


def _pair(held: Sequence[_File], frame: int | None, found: Found, known: Annotated, chosen: Settings) -> Pair:
    """Convert one case; the last of the files is its mask."""
    *shown, outlines = held
    scans = [scan for file in shown for scan in _scans(file, frame, known)]
    channels, first, name = max(len(found.channels), 1), scans[0], shown[0].name
    if len(scans) != channels:
        wanted = f"{channels} ({', '.join(found.channels)})" if channels > 1 else "one"
        raise ValueError(f"{name} holds {len(scans)} volumes: wanted {wanted}, use the original file")
    for scan, file in zip(scans, shown, strict=False):
        convert.on_grid(scan.values.shape[: scan.dimensions], scan, first, file.name, name)
    axes = grid.axes(first.values.shape[: first.dimensions], first.spacing, chosen, name)
    image = np.concatenate([convert.pixels(scan, axes, chosen, name)[0] for scan in scans])
    mask = _mask(outlines, frame, first, name, found, known)
    small = grid.mask(mask, axes)
    edges = tuple(axis.step * edge for axis, edge in zip(axes, first.spacing or (), strict=False))
    outlined = int(np.count_nonzero(mask))
    kept = int(np.count_nonzero(small)) * math.prod(axis.step for axis in axes) / outlined if outlined else 1.0
    return Pair(image, small, edges, tuple(np.setdiff1d(convert.held(mask), small).tolist()), kept)


def _mask(file: _File, frame: int | None, image: Scan, name: str, found: Found, known: Annotated) -> NDArray[np.uint8]:
    """The mask of an image as positions of structures."""
    scans = _scans(file, frame, known) if file.volume else [Scan(pictures.mask(file.content, file.name))]
    if len(scans) > 1:
        raise ValueError(f"{file.name} holds {len(scans)} volumes: wanted one mask, use the original file")
    values = scans[0].values if known.recode is None else known.recode(scans[0].values, file.name)
    return numbered(values, scans[0], image, (file.name, name), found.structures)


def _scans(file: _File, frame: int | None, known: Annotated) -> list[Scan]:
    """The volumes or the picture in a file, or one frame of it."""
    if not file.volume:
        return pictures.scans(file.content, file.name)
    scans = nifti.acquired(file.content, file.name) if known.acquired else nifti.scans(file.content, file.name, "each")
    if frame is None:
        return scans
    if not 0 <= frame < len(scans):
        raise ValueError(
            f"{file.name} holds {len(scans)} frames, and the table names frame {frame}, from 0: use the original files"
        )
    return [scans[frame]]
