"""Find the files that the cells of a table name: by path, wherever the table was written, never by accident.

A cell names a file if one path is the end of the other: `scans/a.png` is found as `C:\\data\\scans\\a.png`, as `a.png`,
and as `scans/a`; `a.jpg` is another file. Two files that a cell may mean are refused.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep import reader
from data_prep.archives import hidden

EXAMPLES = 3
DOUBLE = (".nii.gz", ".dcm.gz")


class Files:
    """All files below a folder, without hidden ones, and folders, by every end of their path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = list(_walk(folder))
        headers = _headers(found)
        self.paths = [path for path in found if path not in headers]
        self._places: dict[tuple[str, ...], list[str]] = {}
        below = {parent.as_posix() for path in self.paths for parent in Path(path).parents} - {"."}
        for path in (*found, *sorted(below)):
            for end in _ends(path):
                self._places.setdefault(end, []).append(headers.get(path, path))

    def find(self, cell: str) -> str:
        """The path, below the folder, of the file or folder that a cell names; LookupError with the reason if none."""
        parts = _parts(cell)
        if not parts or not any(parts):
            raise LookupError("it names no file")
        found = self._matches(parts)
        exact = [path for path in found if _parts(path) == parts]
        found = exact or found
        if len(found) > 1:  # a scan may have files about it with its name, such as scan.json
            found = [path for path in found if self.is_image(path)] or found
        if len(found) > 1:
            shown = ", ".join(found[:EXAMPLES]) + (", ..." if len(found) > EXAMPLES else "")
            raise LookupError(f"it may mean {len(found)} files ({shown}): write the path below {self.folder.name}")
        if found:
            return found[0]
        raise LookupError(f"there is no such file{self._near(parts)}")

    def is_image(self, path: str) -> bool:
        """Whether a file has a format that is read, or one of other images that should be reported."""
        place = self.folder / path
        return place.is_file() and (place.suffix.lower() in reader.OTHERS or reader.kind(place) is not None)

    def _matches(self, parts: tuple[str, ...]) -> list[str]:
        """Files whose path is the end of this one, or of whose path this one is the end; the longest paths first."""
        for key in (parts, (*parts[:-1], f"{parts[-1]}.gz")):
            for form in (key, tuple(part.casefold() for part in key)):
                if found := self._places.get(form):
                    return _once(found)
                for start in range(1, len(form)):
                    whole = [
                        path for path in self._places.get(form[start:], []) if len(_parts(path)) == len(form) - start
                    ]
                    if whole:
                        return _once(whole)
        return []

    def _near(self, parts: tuple[str, ...]) -> str:
        """Files of the same name elsewhere, for a message."""
        same = self._places.get((parts[-1],), []) or self._places.get((_stem(parts[-1]),), [])
        return f"; {same[0]} has a similar name" if same else ""


def stem(path: str) -> str:
    """A path without the end of its name that says the format."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{_stem(name)}" if folder else _stem(name)


def _headers(paths: Sequence[str]) -> dict[str, str]:
    """File with voxels -> the file next to it with their header; the two are one image."""
    heads = {path[: -len(reader.HEADER)].lower(): path for path in paths if path.lower().endswith(reader.HEADER)}
    voxels = [path for path in paths if path.lower().endswith(reader.VOXELS)]
    return {path: heads[name] for path in voxels if (name := path[: -len(reader.VOXELS)].lower()) in heads}


def _ends(path: str) -> Iterator[tuple[str, ...]]:
    """Every end of a path, with and without the end of its name, as written and in small letters."""
    parts = _parts(path)
    short = _stem(parts[-1])
    seen = set()
    for last in (parts[-1], short):
        for start in range(len(parts)):
            end = (*parts[start:-1], last)
            for form in (end, tuple(part.casefold() for part in end)):
                if form not in seen:
                    seen.add(form)
                    yield form


def _parts(path: str) -> tuple[str, ...]:
    """The names in a path of any system, in one form of Unicode."""
    text = unicodedata.normalize("NFC", path.strip().strip("\"'"))
    text = re.sub(r"^(file://|[A-Za-z]:)", "", text) if re.match(r"file://|[A-Za-z]:[\\/]", text) else text
    return tuple(part for part in re.split(r"[\\/]+", text) if part not in ("", "."))


def _stem(name: str) -> str:
    """A name without its end; of `scan.nii.gz` it is `scan`."""
    for end in DOUBLE:
        if name.lower().endswith(end):
            return name[: -len(end)]
    head, dot, tail = name.rpartition(".")
    return head if dot and head and re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,5}", tail) else name


def _once(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))


def _walk(folder: Path) -> Iterator[str]:
    """Paths below a folder, sorted, without hidden files."""
    found: list[str] = []
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:  # a link to a folder above
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not hidden(name))
        below = Path(root).relative_to(folder).as_posix()
        found += [name if below == "." else f"{below}/{name}" for name in files if not hidden(name)]
    yield from sorted(found)


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that sorts `10` after `9`."""
    parts: Sequence[str] = re.split(r"(\d+)", text)
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part.casefold()) for part in parts if part]
