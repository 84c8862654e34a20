"""Datasets that are published as many files, each identified by its sha256.

The files may be unpacked, in part, or in the official archive: all give the same dataset.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.archives import Archive
from data_prep.fetch import fetch, locate
from fedlab.core.warnings import warn

Read = Callable[[str], bytes]  # the content of a member of an archive
REMEDY = "remove it and try again, or let FEDLAB_MIRROR name a folder that holds the official archive or its files"


@dataclass(frozen=True)
class Collection:
    """The official files that a dataset is made from.

    title: name of the collection. url, archive: address and name of its official archive. checksum: of the whole
    archive, "" if none is published. files: path in the archive -> sha256, of the files that are used.
    """

    title: str
    url: str
    archive: str
    checksum: str
    files: Mapping[str, str] = field(repr=False)

    @property
    def checksums(self) -> dict[str, str]:
        """One checksum for all files: the sha256 of the lines that `sha256sum` prints for them, sorted by path."""
        lines = "".join(f"{self.files[path]}  {path}\n" for path in sorted(self.files))
        return {f"{self.title}, {len(self.files)} files": f"sha256:{_sha256(lines.encode())}"}

    def read(self, paths: Sequence[str]) -> Iterator[bytes]:
        """Read these files in this order, from the cache, a mirror, or the official archive.

        Raises ConnectionError if the archive is needed and cannot be downloaded, and OSError if it is not the official
        one.
        """
        alone = self._alone(paths)
        packed = [path for path in paths if path not in alone]
        with ExitStack() as stack:
            archive = self._archive(packed) if packed else Path()
            member = _open(archive, stack) if packed else None
            for path in paths:
                yield alone[path].read_bytes() if member is None or path in alone else self._take(path, archive, member)

    def _alone(self, paths: Sequence[str]) -> dict[str, Path]:
        """Find unpacked files with the right content; warns of files that have the path but another content."""
        places = locate({Path(path).name for path in paths})
        alone: dict[str, Path] = {}
        wrong: list[Path] = []
        for path in paths:
            for file in places.get(Path(path).name, ()):
                if not file.as_posix().endswith(f"/{path}"):
                    continue
                if _sha256(file.read_bytes()) == self.files[path]:
                    alone[path] = file
                    break
                wrong.append(file)
        if wrong:
            message = f"{self.title}: {len(wrong)} files are skipped, since their sha256 is not the official one"
            warn(f"{message} (first: {wrong[0]})")
        return alone

    def _archive(self, packed: Sequence[str]) -> Path:
        """Fetch the official archive."""
        try:
            return fetch(self.url, self.archive, self.checksum)
        except ConnectionError as error:
            raise ConnectionError(
                f"{len(packed)} of the {len(self.files)} official files of {self.title} are in no folder of"
                f" FEDLAB_MIRROR (first: {packed[0]}); {error}"
            ) from None

    def _take(self, path: str, archive: Path, member: Read) -> bytes:
        """Read one file from the archive and check it."""
        try:
            content = member(path)
        except (KeyError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else "it has no such file"
            raise OSError(f"{path} cannot be read from {archive} ({reason}): {REMEDY}") from None
        if (digest := _sha256(content)) != self.files[path]:
            raise OSError(f"{path} in {archive} has the sha256 {digest}, wanted {self.files[path]}: {REMEDY}")
        return content


def _open(archive: Path, stack: ExitStack) -> Read:
    """A function that reads a member by the end of its path."""
    try:
        opened = stack.enter_context(Archive(archive))
    except ValueError as error:
        raise OSError(f"{error}; {REMEDY}") from None
    names = _ends(opened.names)
    return lambda path: opened.read(names[path])


def _ends(names: Sequence[str]) -> dict[str, str]:
    """Every end of a path -> the shortest path with it."""
    ends: dict[str, str] = {}
    for name in sorted(names, key=len, reverse=True):
        parts = name.split("/")
        ends |= {"/".join(parts[start:]): name for start in range(len(parts))}
    return ends


def _sha256(content: bytes) -> str:
    """The sha256 as text."""
    return hashlib.sha256(content).hexdigest()
