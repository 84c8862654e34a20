"""Files that the user downloaded: accept the licence, find and check the files, read them in place.

Some datasets require a registration, or a licence that the user must accept. Their scripts take the folder of the
download (`source`). Nothing is unpacked: members of an archive are read by name, so no path can write anywhere.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import reader, tables, writer
from data_prep.archives import Archive, hidden
from data_prep.fetch import say
from fedlab.core.files import resolve
from fedlab.core.registry import nearest

DEPTH = 4  # levels of subfolders in which files are searched
EDGES = (8, 1024)  # smallest and largest edge in pixels
DOWNLOAD = "download"  # field of the card: state of the user's files when they were read

Place = tuple[Path, str]  # (container, member): an archive and a path in it, or a folder and a path below it


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

    source: the user's folder, or one archive of the dataset. archives: patterns of the archives to search, e.g.
    "IXI-T1.tar*". folder: name of the folder in which the images are, if the download has others that may hold files of
    the same names. A name is that of a file, or the end of its path. Files of one name that differ are refused.
    """

    def __init__(self, terms: Terms, source: object, *archives: str, folder: str = "") -> None:
        self.terms = terms
        self.folder = _folder(terms, source, *archives)
        self.inside = folder
        self.places: dict[str, list[Place]] = {}  # file name -> where there are files of this name
        self._chosen: dict[str, Place] = {}
        loose = list(_walk(self.folder))
        self.state = _state(self.folder, loose)
        self.size = sum(path.stat().st_size for path in loose)
        for archive in (path for path in loose if any(path.match(pattern) for pattern in archives)):
            with Archive(archive) as packed:
                for member in packed.names:
                    self._add(archive, member)
        for path in loose if self.folder.is_dir() else ():
            self._add(self.folder, path.relative_to(self.folder).as_posix())

    @property
    def paths(self) -> list[str]:
        """Paths of all files, below the folder or in their archive, sorted."""
        return sorted({member for places in self.places.values() for _, member in places})

    def adopt(self, path: Path) -> None:
        """Add a file of any folder to the download."""
        self._add(path.parent, path.name)

    def table(self, columns: Sequence[str], *names: str) -> tuple[str, pd.DataFrame]:
        """Read the first of these tables that exists, as text; it must have these columns. Returns name and table."""
        name = next((name for name in names if name in self.places), None)
        if name is None:
            raise FileNotFoundError(f"{self.folder} has no {' or '.join(names)}: {self.terms.advice}")
        try:
            frame = tables.read(name, self.read(name))
        except ValueError as error:
            raise ValueError(f"{self.where(name)} cannot be read as a table ({error}): download it again") from error
        if missing := [column for column in columns if column not in frame]:
            raise ValueError(
                f"{self.where(name)} has no column {missing[0]!r}, found {list(frame.columns)}:"
                f" {nearest(missing[0], frame.columns)} Use the original from {self.terms.url}"
            )
        if twice := [column for column in columns if list(frame.columns).count(column) > 1]:
            raise ValueError(
                f"{self.where(name)} has column {twice[0]!r} twice: use the original from {self.terms.url}"
            )
        return name, frame

    def expect(self, images: pd.Series, what: str = "images") -> None:
        """Find all images; FileNotFoundError if one is missing, ValueError if one is listed twice or not unique."""
        if images.duplicated().any():
            raise ValueError(f"the table lists {images[images.duplicated()].iloc[0]!r} twice: use the original table")
        missing = images[~images.map(lambda name: isinstance(name, str) and bool(self._find(name))).astype(bool)]
        if len(missing) or not len(images):
            lacking = f"{len(missing):,} of {len(images):,}" if len(images) else "all"
            first = f" (first: {missing.iloc[0]})" if len(missing) else ""
            raise FileNotFoundError(f"{self.folder} lacks {lacking} {what}{first}: {self.terms.advice}")
        self._choose(images)
        names: dict[Place, str] = {}
        for name in images:
            other = names.setdefault(self._chosen[name], name)
            if other != name:
                raise ValueError(f"the table's {other!r} and {name!r} are the same file {self.where(name)}")

    def read(self, name: str) -> bytes:
        """Read one file."""
        return next(iter(self.each([name])))[1]

    def each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Read these files, one container after another; yields name and content."""
        wanted = {self._place(name): name for name in names}
        for place, content in _contents(wanted):
            yield wanted[place], content

    def ordered(self, names: Iterable[str]) -> Iterator[bytes]:
        """Read these files in this order; an archive is opened once."""
        with ExitStack() as stack:
            opened: dict[Path, Archive] = {}
            for container, member in map(self._place, names):
                if not container.is_dir() and container not in opened:
                    opened[container] = stack.enter_context(Archive(container))
                yield opened[container].read(member) if container in opened else (container / member).read_bytes()

    def where(self, name: str) -> str:
        """The path of a file, or its member and archive, for a message."""
        return _shown(self._place(name))

    def loose(self, name: str) -> bool:
        """Whether a file is in no archive."""
        return self._place(name)[0].is_dir()

    def checksums(self, names: Iterable[str], published: dict[str, str]) -> dict[str, str]:
        """Compute the checksums of these files, or of their archives; those that are not published are sha256.

        Raises OSError if one differs from the published one.
        """
        paths = {place / member if place.is_dir() else place for place, member in map(self._place, names)}
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

    def _add(self, container: Path, member: str) -> None:
        self.places.setdefault(PurePosixPath(member).name, []).append((container, member))

    def _place(self, name: str) -> Place:
        """Where a file is."""
        if name not in self._chosen:
            self._choose([name])
        return self._chosen[name]

    def _find(self, name: str) -> list[Place]:
        """Where there are files whose path ends with this name, only those in the images' folder if there are any."""
        found = [
            (container, member)
            for container, member in self.places.get(PurePosixPath(name).name, [])
            if f"/{PurePosixPath(member)}".endswith(f"/{PurePosixPath(name)}")
        ]
        inside = [place for place in found if PurePosixPath(place[1]).parent.name == self.inside]
        return inside or found

    def _choose(self, names: Iterable[str]) -> None:
        """Choose the place of each name; of several, which must hold the same bytes, the first."""
        found = {name: self._find(name) for name in names}
        several = {name: places for name, places in found.items() if len(places) > 1}
        held = {
            place: hashlib.sha256(content).digest()
            for place, content in _contents({place for places in several.values() for place in places})
        }
        for name, places in several.items():
            other = next((place for place in places if held[place] != held[places[0]]), None)
            if other:
                raise ValueError(
                    f"there are two files {name}: {_shown(places[0])} and {_shown(other)}. They differ, and nothing"
                    " says which one is meant: remove or rename one of them"
                )
        self._chosen |= {name: places[0] for name, places in found.items()}


def prepared(folder: Path, card: dict[str, Any], terms: Terms, source: object) -> bool:
    """Whether the folder holds the dataset of this card, whole and, if a source is given, from the files in it.

    Name and options determine the dataset: without a source, checksums are not compared. With a source that was not
    read before, `convert` compares them. Raises FileExistsError if the folder holds anything else.
    """
    if not writer.ready(folder, card, but=("checksums",)):
        return False
    if source is None:
        return True
    try:
        root = _folder(terms, source, "*")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or leave source out: {folder} is prepared already") from None
    return writer.held(folder).get(DOWNLOAD) == _state(root, list(_walk(root)))


def convert(
    folder: Path,
    files: Files,
    table: pd.DataFrame,
    images: pd.Series,
    shape: tuple[int, ...],
    decode: Callable[..., NDArray[np.uint8]],
    card: dict[str, Any],
    tables: Sequence[str],
    published: dict[str, str],
) -> Path:
    """Decode and write the cases of `table`; `images` names their files, in the same order.

    shape: (channels, height, width[, depth]) of a decoded file. decode: takes the content and, as `name`, the file's
    path for messages. tables: names of the tables that the cases were read from. published: file name -> official
    checksum. The card gets the checksums, and `unchecked` lists those for which none is published. A folder that is
    prepared already must have been read from the same files.
    """
    files.expect(images)
    rows = writer.subset(table, card["options"]["limit"], card["task"])
    table, images = table.iloc[rows], images.iloc[rows]
    if (checksums := checked(folder, files, images, card, tables, published)) is None:
        return folder
    with writer.canvas(folder, (len(table), *shape)) as pixels:
        checksums |= listing(_fill(pixels, files, images, decode))
        return writer.write(folder, pixels, table, {**card, **origin(files, checksums, published)})


def checked(
    folder: Path,
    files: Files,
    names: Iterable[str],
    card: dict[str, Any],
    tables: Sequence[str],
    published: dict[str, str],
) -> dict[str, str] | None:
    """Checksums of the tables and of the archives with these files, before hours of decoding.

    None if the folder is prepared already, from the same files.
    """
    names = list(names)
    checksums = files.checksums([*tables, *(name for name in names if not files.loose(name))], published)
    if not writer.ready(folder, card, but=("checksums",)):
        return checksums
    say(f"{card['name']}: {folder} is prepared already; its checksums are compared with those of {files.folder}")
    loose = [name for name in names if files.loose(name)]
    digests = [digest(name, content) for name, content in zip(loose, files.ordered(loose), strict=True)]
    _compare(folder, files, checksums | listing(digests))
    return None


def origin(files: Files, checksums: dict[str, str], published: dict[str, str]) -> dict[str, Any]:
    """The fields of the card on where the cases come from; says which checksums could not be compared."""
    unchecked = sorted(set(checksums) - set(published))
    if unchecked:
        named = ", ".join(unchecked)
        say(f"{files.terms.name}: no checksum is published for {named}: not checked, sha256 on the card")
    return {"checksums": checksums, "unchecked": unchecked, DOWNLOAD: files.state}


def _compare(folder: Path, files: Files, checksums: dict[str, str]) -> None:
    """Raise FileExistsError if a prepared folder was read from other files."""
    held = writer.held(folder).get("checksums", {})
    if held != checksums:
        other = sorted(name for name in {*held, *checksums} if held.get(name) != checksums.get(name))
        raise FileExistsError(
            f"{folder} was prepared from other files than {files.folder} holds ({', '.join(other)}): leave source out"
            " to use it, choose another folder, or remove it to prepare the dataset from this source"
        )


def _fill(
    pixels: NDArray[np.uint8], files: Files, images: pd.Series, decode: Callable[..., NDArray[np.uint8]]
) -> list[str]:
    """Decode each image into its row; returns the digests of loose files."""
    from tqdm.auto import tqdm

    rows = {name: row for row, name in enumerate(images)}
    digests = []
    for name, content in tqdm(files.each(rows), total=len(rows), unit="case", desc=files.terms.name, delay=2):
        pixels[rows[name]] = decode(content, name=files.where(name))
        if files.loose(name):
            digests.append(digest(name, content))
    return digests


def digest(name: str, content: bytes) -> str:
    """The line that `sha256sum` prints for a file."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def listing(digests: Iterable[str]) -> dict[str, str]:
    """One checksum of all loose files, independent of their order."""
    lines = sorted(digests)
    return {"loose images": f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"} if lines else {}


def picture(content: bytes, size: int, mode: str = "RGB", name: str = "the picture") -> NDArray[np.uint8]:
    """Decode the central square of an image as (channels, size, size); mode: "RGB", or "L" for grey."""
    from PIL import Image

    image = reader.picture(
        content, name, draft=(mode, (2 * size, 2 * size))
    )  # a JPEG is decoded faster at half its size
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).convert(mode)
    values = np.asarray(square if side == size else square.resize((size, size), Image.Resampling.LANCZOS))
    return values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)


def _folder(terms: Terms, source: object, *archives: str) -> Path:
    """Check the folder of a download, or its one archive."""
    if source is None or not str(source):
        raise FileNotFoundError(f"source is missing: {terms.advice}")
    folder = resolve(str(source))
    if folder.is_file() and any(folder.match(pattern) for pattern in archives):
        return folder
    if not folder.is_dir():
        other = f" or {archives[0]}" if archives and archives[0] != "*" else ""
        raise FileNotFoundError(f"source is {str(source)!r}, which is not a folder{other}: {terms.advice}")
    return folder


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder and a few levels of subfolders, upper levels first, without hidden files."""
    if folder.is_file():
        yield folder
        return
    level = [folder]
    for _ in range(DEPTH + 1):
        entries = sorted((entry for path in level for entry in os.scandir(path)), key=lambda entry: entry.path)
        shown = [entry for entry in entries if not hidden(entry.name)]
        yield from (Path(entry.path) for entry in shown if entry.is_file())
        level = [Path(entry.path) for entry in shown if entry.is_dir()]


def _state(folder: Path, paths: Sequence[Path]) -> str:
    """Identify files by path, size and times, of which the second one changes whenever a file does."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        times = f"\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\n"
        below = path.relative_to(folder) if folder.is_dir() else path.name
        digest.update(os.fsencode(below) + times.encode())
    return digest.hexdigest()


def _contents(places: Iterable[Place]) -> Iterator[tuple[Place, bytes]]:
    """Read files, one container after another; those of an archive in its order, which is fastest."""
    inside: dict[Path, list[str]] = {}
    for container, member in places:
        inside.setdefault(container, []).append(member)
    for container, members in inside.items():
        if container.is_dir():
            yield from (((container, member), (container / member).read_bytes()) for member in members)
        else:
            with Archive(container) as archive:
                yield from (((container, member), content) for member, content in archive.each(members))


def _shown(place: Place) -> str:
    """The path of a file, or its member and archive."""
    container, member = place
    return str(container / member) if container.is_dir() else f"{member} in {container}"
