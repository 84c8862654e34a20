"""Files that the user downloaded: accept the licence, find and check the files, read them in place.

Some datasets require a registration, or a licence that the user must accept. Their scripts take the folder of the
download (`source`). Nothing is unpacked: members of an archive are read by name, so no path can write anywhere.
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

DEPTH = 3  # levels of subfolders in which files are searched
EDGES = (8, 1024)  # smallest and largest edge in pixels
SPREADSHEETS = (".xls", ".xlsx")
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Terms:
    """The licence of a dataset and its main duty, where to get the files, and which are needed."""

    name: str
    licence: str
    duty: str
    url: str
    needed: str

    def consent(self, accept_licence: object) -> None:
        """Raise PermissionError unless accept_licence is True."""
        if accept_licence is not True:
            raise PermissionError(
                f"{self.name} is under {self.licence}: {self.duty}. Read the licence at {self.url}; if you accept it,"
                " give accept_licence=True (on the command line --accept-licence),"
                f" found accept_licence={accept_licence!r}"
            )

    @property
    def advice(self) -> str:
        """The end of an error message: which files to get, from where, and how to pass their folder."""
        return (
            f"{self.name} needs {self.needed}. Download them from {self.url} and pass their folder, e.g."
            f" source='~/Downloads/{self.name}'"
        )


class Files:
    """The files of a download by name, loose in folders or packed in archives; packed ones take precedence.

    source: the user's folder. archives: patterns of the archives to search, e.g. "IXI-T1.tar*".
    places: file name -> (container, member); the container is an archive or, for a loose file, its folder.
    """

    def __init__(self, terms: Terms, source: object, *archives: str) -> None:
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
        """Add a file of any folder to the download, unless it has one of that name."""
        self.places.setdefault(path.name, (path.parent, path.name))

    def table(self, columns: Sequence[str], *names: str) -> tuple[str, pd.DataFrame]:
        """Read the first of these tables that exists, as text; it must have these columns. Returns name and table."""
        name = next((name for name in names if name in self.places), None)
        if name is None:
            raise FileNotFoundError(f"{self.folder} has no {' or '.join(names)}: {self.terms.advice}")
        try:
            frame = _frame(name, self.read(name))
        except (ValueError, pd.errors.ParserError) as error:
            raise ValueError(f"{self.where(name)} cannot be read as a table ({error}): download it again") from error
        if missing := [column for column in columns if column not in frame]:
            raise ValueError(
                f"{self.where(name)} has no column {missing[0]!r}, found {list(frame.columns)}:"
                f" {nearest(missing[0], frame.columns)} Use the original from {self.terms.url}"
            )
        return name, frame

    def expect(self, images: pd.Series) -> None:
        """Raise FileNotFoundError if an image is missing, ValueError if one is listed twice."""
        if images.duplicated().any():
            raise ValueError(f"the table lists {images[images.duplicated()].iloc[0]!r} twice: use the original table")
        missing = images[~images.isin(self.places.keys())]
        if len(missing) or not len(images):
            lacking = f"{len(missing):,} of {len(images):,}" if len(images) else "all"
            first = f" (first: {missing.iloc[0]})" if len(missing) else ""
            raise FileNotFoundError(f"{self.folder} lacks {lacking} images{first}: {self.terms.advice}")

    def read(self, name: str) -> bytes:
        """Read one file."""
        return next(iter(self.each([name])))[1]

    def each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Read these files, one container after another; yields name and content."""
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
        """The path of a file, or its member and archive, for a message."""
        container, member = self.places[name]
        return str(container / member) if container.is_dir() else f"{member} in {container}"

    def loose(self, name: str) -> bool:
        """Whether a file is in no archive."""
        return self.places[name][0].is_dir()

    def checksums(self, names: Iterable[str], published: dict[str, str]) -> dict[str, str]:
        """Compute the checksums of these files, or of their archives; those that are not published are sha256.

        Raises OSError if one differs from the published one.
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
                    f" original: download it again from {self.terms.url}"
                )
        return found


def edge(size: object) -> int:
    """Check an edge length."""
    least, most = EDGES
    if not isinstance(size, int) or isinstance(size, bool) or not least <= size <= most:
        raise ValueError(f"size is {size!r}: give the edge length in pixels, a whole number from {least} to {most}")
    return size


def prepared(folder: Path, card: dict[str, Any]) -> bool:
    """Whether the folder holds the dataset of this card, from any download.

    Checksums are not compared: name and options determine the dataset, and hashing gigabytes at each use is slow.
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
    """Decode and write the cases of `table`; `images` names their files, in the same order.

    shape: (channels, height, width[, depth]) of a decoded file. tables: names of the tables that the cases were read
    from. published: file name -> official checksum. The card gets the checksums, and `unchecked` lists those for which
    none is published.
    """
    files.expect(images)
    rows = writer.subset(table, card["options"]["limit"], card["task"])
    table, images = table.iloc[rows], images.iloc[rows]
    packed = [name for name in images if not files.loose(name)]
    checksums = files.checksums([*tables, *packed], published)  # before hours of decoding
    with writer.canvas(folder, (len(table), *shape)) as pixels:
        checksums |= _fill(pixels, files, images, decode)
        unchecked = sorted(set(checksums) - set(published))
        if unchecked:
            say(f"{card['name']}: no checksum is published for {', '.join(unchecked)}: not checked, sha256 on the card")
        return writer.write(folder, pixels, table, {**card, "checksums": checksums, "unchecked": unchecked})


def _fill(
    pixels: NDArray[np.uint8], files: Files, images: pd.Series, decode: Callable[[bytes], NDArray[np.uint8]]
) -> dict[str, str]:
    """Decode each image into its row; returns one checksum of all loose files, independent of their order."""
    from tqdm.auto import tqdm

    rows = {name: row for row, name in enumerate(images)}
    digests = []
    for name, content in tqdm(files.each(rows), total=len(rows), unit="case", desc=files.terms.name, delay=2):
        try:
            pixels[rows[name]] = decode(content)
        except Exception as error:  # decoders raise many kinds of errors
            raise ValueError(f"{files.where(name)} cannot be decoded ({error}): download it again") from error
        if files.loose(name):
            digests.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    digest = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    return {"loose images": f"sha256:{digest}"} if digests else {}


def picture(content: bytes, size: int, mode: str = "RGB") -> NDArray[np.uint8]:
    """Decode the central square of an image as (channels, size, size); mode: "RGB", or "L" for grey."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.draft(mode, (2 * size, 2 * size))  # a JPEG decodes faster at half or a quarter of its size
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = _eight_bits(image).crop((left, top, left + side, top + side)).convert(mode)
        small = square if side == size else square.resize((size, size), Image.Resampling.LANCZOS)
    values = np.asarray(small)
    return values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)


def _eight_bits(image: Any) -> Any:
    """Scale an image of more than 8 bits to its own range; Pillow would clip its values at 255."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * 255 / max(high - low, 1)).astype(np.uint8))


def _folder(terms: Terms, source: object) -> Path:
    """Check the folder of a download."""
    if source is None or not str(source):
        raise FileNotFoundError(f"source is missing: {terms.advice}")
    folder = Path(str(source)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"source is {str(source)!r}, which is not a folder: {terms.advice}")
    return folder


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder and a few levels of subfolders, upper levels first, without hidden files."""
    level = [folder]
    for _ in range(DEPTH + 1):
        entries = sorted((entry for path in level for entry in os.scandir(path)), key=lambda entry: entry.path)
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        yield from (Path(entry.path) for entry in shown if entry.is_file())
        level = [Path(entry.path) for entry in shown if entry.is_dir()]


def _members(archive: Path) -> list[str]:
    """Paths of the files in an archive, upper levels first, without what macOS adds."""
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
    """Read members of a container; those of a tar in its order, since it may be compressed as a whole."""
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
    """Read a table as text, with trimmed column names: the first sheet of a spreadsheet, or a csv or tab file."""
    if name.endswith(SPREADSHEETS):
        try:
            frame = pd.read_excel(io.BytesIO(content)).astype("string")
        except ImportError as error:
            raise ValueError(f"{error}; or save the sheet as {Path(name).stem}.csv") from None
    else:
        separator = "\t" if b"\t" in content.split(b"\n", 1)[0] else ","
        frame = pd.read_csv(io.BytesIO(content), sep=separator, dtype="string", encoding="utf-8-sig")
    return frame.rename(columns=lambda column: str(column).strip())
