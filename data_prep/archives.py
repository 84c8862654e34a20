"""Archives, zip or tar, read by the names of their members: nothing is unpacked, so no path can write anywhere."""

import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fedlab.core.files import BLOCK, DamagedError
from fedlab.core.warnings import warn

HIDDEN = "__MACOSX"  # a folder that macOS adds
ENCRYPTED = 1  # bit of a zip's flags


class Archive:
    """The files in an archive. `names` are their paths, without hidden files and those outside of the archive's folder.

    Raises DamagedError, with the path of the archive, if it is broken or cut off, and ValueError if it is encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Any] = {}
        self._file: zipfile.ZipFile | tarfile.TarFile
        entries: list[tuple[str, Any]]
        with self._sound():
            if tarfile.is_tarfile(path):
                self._file = tarfile.open(path)  # noqa: SIM115
                entries = [(entry.name, entry) for entry in self._file if entry.isfile()]
                _check_end(self._file)
            elif zipfile.is_zipfile(path):
                self._file = zipfile.ZipFile(path)
                entries = [(entry.filename, entry) for entry in self._file.infolist() if not entry.is_dir()]
            else:
                raise tarfile.TarError(f"it is neither a zip nor a tar archive ({path.stat().st_size:,} bytes)")
        self._adopt(entries)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Paths of the files, upper levels first."""
        return sorted(self._entries, key=lambda name: (name.count("/"), name))

    def read(self, name: str) -> bytes:
        """Read one file; KeyError if there is none of this path."""
        entry = self._entries[name]
        with self._sound():
            if isinstance(self._file, zipfile.ZipFile):
                return self._file.read(entry)
            return self._file.extractfile(entry).read()  # type: ignore[union-attr]

    def each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Read files in the order in which they are stored, which is fastest; yields path and content."""
        for name in sorted(names, key=lambda name: self._start(self._entries[name])):
            yield name, self.read(name)

    def _start(self, entry: Any) -> int:
        return entry.offset if isinstance(entry, tarfile.TarInfo) else entry.header_offset

    def _adopt(self, entries: list[tuple[str, Any]]) -> None:
        """Keep the entries that are files of the dataset; of several with one path the last, as when unpacked."""
        outside = [name for name, _ in entries if leads_outside(name)]
        if outside:
            warn(f"{self.path}: {len(outside):,} members lead out of its folder and are not used ({outside[0]!r})")
        for name, entry in entries:
            if leads_outside(name) or hidden(name):
                continue
            if isinstance(entry, zipfile.ZipInfo) and entry.flag_bits & ENCRYPTED:
                self._file.close()
                raise ValueError(
                    f"{self.path} is encrypted ({name}): unpack it with its password, and use the folder instead"
                )
            self._entries[name] = entry

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Turn any error of zipfile, tarfile and the decompressors into a DamagedError with the archive's path."""
        try:
            yield
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # damaged bytes raise many kinds of errors
            reason = str(error) or type(error).__name__
            raise DamagedError(f"{self.path} is damaged ({reason}): download it again") from error


def leads_outside(name: str) -> bool:
    """Whether a path of a member is absolute or leads upwards, on any system."""
    return any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))


def hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, or was added by macOS."""
    return any(part.startswith(".") or part == HIDDEN for part in PurePosixPath(name).parts)


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise if a tar stops before its end mark, and read on to its end, where compressors keep their checksum.

    tarfile takes a damaged or missing header for the end.
    """
    file: Any = tar.fileobj
    file.seek(tar.offset)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
        raise tarfile.TarError(f"unreadable from byte {tar.offset:,}, no end mark there")
    while file.read(BLOCK):
        pass
