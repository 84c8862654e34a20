"""Downloads that a user made by hand: licence accepted, files found and checked, read where they lie.

Some datasets are handed out only after a registration, or under a licence that the user must accept. Their scripts are
told the folder of the download (`source`). Nothing is unpacked: a member of an archive is asked for by its name, so no
path in it can lead anywhere.
"""

import hashlib
import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import writer
from data_prep.fetch import say
from fedlab.core.registry import nearest

DEPTH = 3  # folders below the named one in which files are looked for
EDGES = (8, 1024)  # least and most pixels of an edge
SPREADSHEETS = (".xls", ".xlsx")
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Alignment:
    """What a user must know: the licence and its main duty, where the files are to be had, and which are needed."""

    name: str
    licence: str
    duty: str
    url: str
    needed: str

    def consent(self, accept_licence: object) -> None:
        """Raises PermissionError unless the user accepts the licence, by True and nothing else."""
        if accept_licence is not True:
            raise PermissionError(
                f"{self.name} is under {self.licence}: {self.duty}. Read the licence at {self.url}; if you accept it,"
                " give accept_licence=True (on the command line --accept-licence),"
                f" found accept_licence={accept_licence!r}"
            )

    @property
    def advice(self) -> str:
        """The end of an error message: which files to get, where from, and how to name their folder."""
        return (
            f"{self.name} needs {self.needed}. Get them from {self.url} and name their folder, e.g."
            f" source='~/Downloads/{self.name}'"
        )


class Files:
    """The files of a download by their names, loose in folders or packed in archives; a packed one goes first.

    source: the user's folder. archives: patterns of the archives to look into, e.g. "IXI-T1.tar*".
    places: file name -> (container, member); the container is an archive or, for a loose file, its folder.
    """

    def __init__(self, terms: Alignment, source: object, *archives: str) -> None:
        self.terms = terms
        self.folder = _folder(terms, source)
        self.places: dict[str, tuple[Path, str]] = {}
        loose = list(_walk(self.folder))
        for archive in (path for path in loose if any(path.match(pattern) for pattern in archives)):
            for member in _members(archive):
                self.places.setdefault(PurePosixPath(member).name, (archive, member))
        for path in loose:
            self.adopt(path)

    def adopt(self, path: Path) -> None:
        """Count a file from anywhere among those of the download, unless one of its name is there."""
        self.places.setdefault(path.name, (path.parent, path.name))

    def table(self, columns: Sequence[str], *names: str) -> tuple[str, pd.DataFrame]:
        """Name and content (all text) of the first of these tables that is there; it must have these columns."""
        name = next((name for name in names if name in self.places), None)
        if name is None:
            raise FileNotFoundError(f"{self.folder} has no {' or '.join(names)}: {self.terms.advice}")
        try:
            frame = _frame(name, self.read(name))
        except (ValueError, pd.errors.ParserError) as error:
            raise ValueError(f"{self.where(name)} is no readable table ({error}): download it again") from error
        if missing := [column for column in columns if column not in frame]:
            raise ValueError(
                f"{self.where(name)} has no column {missing[0]!r}, found {list(frame.columns)}:"
                f" {nearest(missing[0], frame.columns)} Take the original from {self.terms.url}"
            )
        return name, frame

    def expect(self, images: pd.Series) -> None:
        """Raises FileNotFoundError unless all these images are there, ValueError if one is named twice."""
        if images.duplicated().any():
            raise ValueError(f"the table names {images[images.duplicated()].iloc[0]!r} twice: take the original table")
        missing = images[~images.isin(self.places.keys())]
        if len(missing) or not len(images):
            lacking = f"{len(missing):,} of {len(images):,}" if len(images) else "all"
            first = f" (first: {missing.iloc[0]})" if len(missing) else ""
            raise FileNotFoundError(f"{self.folder} lacks {lacking} images{first}: {self.terms.advice}")

    def read(self, name: str) -> bytes:
        """The content of one file."""
        return next(iter(self.each([name])))[1]

    def each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Name and content of each of these files, one container after the other."""
        inside: dict[Path, dict[str, str]] = {}
        for name in names:
            container, member = self.places[name]
            inside.setdefault(container, {})[member] = name
        for container, members in inside.items():
            try:
                for member, content in _contents(container, members):
                    yield members[member], content
            except DAMAGES as error:
                raise ValueError(f"{container} is damaged ({error}): download it again") from error

    def where(self, name: str) -> str:
        """Where a file lies, in words."""
        container, member = self.places[name]
        return str(container / member) if container.is_dir() else f"{member} in {container}"

    def loose(self, name: str) -> bool:
        return self.places[name][0].is_dir()

    def checksums(self, names: Iterable[str], published: dict[str, str]) -> dict[str, str]:
        """Name -> checksum of these files, of a packed one its archive: as published, or else the sha256 found.

        Raises OSError where it differs from the published one.
        """
        paths = {place / member if place.is_dir() else place for place, member in map(self.places.__getitem__, names)}
        found = {}
        for path in sorted(paths):
            wanted = published.get(path.name, "sha256:")
            algorithm = wanted.split(":")[0]
            with path.open("rb") as file:
                found[path.name] = f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
            if path.name in published and found[path.name] != wanted:
                raise OSError(
                    f"{path} has checksum {found[path.name]}, the published one is {wanted}: it is truncated or not the"
                    f" original; download it again from {self.terms.url}"
                )
        return found


def edge(size: object) -> int:
    """The edge length, if it can be one."""
    least, most = EDGES
    if not isinstance(size, int) or isinstance(size, bool) or not least <= size <= most:
        raise ValueError(f"size is {size!r}: give the edge length in pixels, a whole number from {least} to {most}")
    return size


def prepared(folder: Path, card: dict[str, Any]) -> bool:
    """Whether the folder holds the dataset of this card, whatever download it was made from.

    Hashing gigabytes at each use would tell no more: of one name and options there is one dataset.
    Raises FileExistsError if the folder holds anything else.
    """
    file = folder / "card.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return writer.ready(folder, {**card, "checksums": held.get("checksums", {})})


def convert(
    folder: Path,
    files: Files,
    table: pd.DataFrame,
    images: pd.Series,
    shape: tuple[int, ...],
    decode: Callable[[bytes], NDArray[np.uint8]],
    card: dict[str, Any],
    tables: Sequence[str],
    published: dict[str, str],
) -> Path:
    """Decode and write the cases of `table`, whose pixels lie in the files `images`, in the same order.

    shape: (channels, height, width[, depth]) of what `decode` makes of a file. tables: names of the tables that the
    cases were read from. published: file name -> official checksum. The card gets the checksums, and `unchecked` names
    those for which nothing is published.
    """
    files.expect(images)
    rows = writer.subset(table, card["options"]["limit"], card["task"])
    table, images = table.iloc[rows], images.iloc[rows]
    packed = [name for name in images if not files.loose(name)]
    checksums = files.checksums([*tables, *packed], published)  # damage is told before hours of decoding
    with writer.canvas(folder, (len(table), *shape)) as pixels:
        checksums |= _fill(pixels, files, images, decode)
        unchecked = sorted(set(checksums) - set(published))
        if unchecked:
            say(f"{card['name']}: no checksum is published for {', '.join(unchecked)}: not checked, sha256 on the card")
        return writer.write(folder, pixels, table, {**card, "checksums": checksums, "unchecked": unchecked})


def _fill(
    pixels: NDArray[np.uint8], files: Files, images: pd.Series, decode: Callable[[bytes], NDArray[np.uint8]]
) -> dict[str, str]:
    """Decode each image into its row; returns one checksum of all the loose ones, whatever their order."""
    from tqdm.auto import tqdm

    rows = {name: row for row, name in enumerate(images)}
    digests = []
    for name, content in tqdm(files.each(rows), total=len(rows), unit="case", desc=files.terms.name, delay=2):
        try:
            pixels[rows[name]] = decode(content)
        except Exception as error:  # a decoder fails in ways of its own
            raise ValueError(f"{files.where(name)} cannot be decoded ({error}): download it again") from error
        if files.loose(name):
            digests.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    digest = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    return {"loose images": f"sha256:{digest}"} if digests else {}


def picture(content: bytes, size: int, mode: str = "RGB") -> NDArray[np.uint8]:
    """The central square of an encoded picture as (channels, size, size); mode: "RGB", or "L" for grey."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.draft(mode, (2 * size, 2 * size))  # a JPEG decodes faster at half or a quarter, and is resized anyway
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = _eight_bits(image).crop((left, top, left + side, top + side)).convert(mode)
        small = square if side == size else square.resize((size, size), Image.Resampling.LANCZOS)
    values = np.asarray(small)
    return values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)


def _eight_bits(image: Any) -> Any:
    """A picture of more than 8 bits, whose values Pillow would cut off at 255, spread over its own range."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * 255 / max(high - low, 1)).astype(np.uint8))


def _folder(terms: Alignment, source: object) -> Path:
    if source is None or not str(source):
        raise FileNotFoundError(f"source is missing: {terms.advice}")
    folder = Path(str(source)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"source is {str(source)!r}, which is not a folder: {terms.advice}")
    return folder


def _walk(folder: Path) -> Iterator[Path]:
    """Files of the folder and a few levels below, the upper ones first, hidden ones passed over."""
    level = [folder]
    for _ in range(DEPTH + 1):
        entries = sorted((entry for path in level for entry in os.scandir(path)), key=lambda entry: entry.path)
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        yield from (Path(entry.path) for entry in shown if entry.is_file())
        level = [Path(entry.path) for entry in shown if entry.is_dir()]


def _members(archive: Path) -> list[str]:
    """Paths of the files in an archive, the upper ones first; what macOS adds is passed over."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                names = [entry.filename for entry in zipped.infolist() if not entry.is_dir()]
        else:
            with tarfile.open(archive) as tar:
                names = [entry.name for entry in tar if entry.isfile()]
    except DAMAGES as error:
        raise ValueError(f"{archive} is damaged ({error}): download it again") from error
    shown = [name for name in names if not PurePosixPath(name).name.startswith(".")]
    return sorted(shown, key=lambda name: (name.count("/"), name))


def _contents(container: Path, members: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Member and content, of a tar in the order of the archive, which may be compressed as a whole."""
    if container.is_dir():
        yield from ((member, (container / member).read_bytes()) for member in members)
    elif container.suffix == ".zip":
        with zipfile.ZipFile(container) as zipped:
            yield from ((member, zipped.read(member)) for member in members)
    else:
        with tarfile.open(container) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.name in members and entry.isfile() else None
                if file is not None:
                    yield entry.name, file.read()


def _frame(name: str, content: bytes) -> pd.DataFrame:
    """A table as text, every name of a column trimmed: a spreadsheet's first sheet, or separated by comma or tab."""
    if name.endswith(SPREADSHEETS):
        try:
            frame = pd.read_excel(io.BytesIO(content)).astype("string")
        except ImportError as error:
            raise ValueError(f"{error}; or save the sheet as {Path(name).stem}.csv") from None
    else:
        separator = "\t" if b"\t" in content.split(b"\n", 1)[0] else ","
        frame = pd.read_csv(io.BytesIO(content), sep=separator, dtype="string", encoding="utf-8-sig")
    return frame.rename(columns=lambda column: str(column).strip())
