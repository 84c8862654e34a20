"""Official files with their published checksums: from the cache, from a mirror, or from their url.

An interrupted download is continued where it stopped, by this call or a later one. A file is used, and enters the
cache, only if its checksum is right; an archive without a published checksum is checked file by file, see
`data_prep.collection`.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fedlab.core.files import resolve
from fedlab.core.warnings import warn
from fedlab.data.home import OFFLINE, home

if TYPE_CHECKING:
    import requests

RETRIES = 3  # each continues where the last one stopped
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
PIECE = 2**16  # bytes that a broken connection loses at most


def downloads() -> Path:
    """The cache of official files."""
    return home() / "downloads"


def fetch(url: str, name: str, checksum: str) -> Path:
    """Find or download the official file `name`.

    It is looked for in the cache, then in the folders of `$FEDLAB_MIRROR`, then downloaded from `url` into the cache.
    checksum: "md5:..." or "sha256:...", "" if the reader checks the content. Raises ConnectionError if the url cannot
    be reached and OSError if the download is not the official file.
    """
    return found(name, checksum) or _download(url, downloads() / name, checksum)


def found(name: str, checksum: str) -> Path | None:
    """Find the file in the cache or in a mirror; warns of files with the same name and another checksum."""
    for path in _places(name):
        digest = _digest(path, checksum)
        if digest == checksum:
            check = "checksum as published" if checksum else "checked file by file"
            say(f"{name}: {path.stat().st_size / 1e6:,.1f} MB from {path}, {check}")
            return path
        warn(f"{path} is skipped: its checksum is {digest}, wanted {checksum}")
    return None


def locate(names: Set[str]) -> dict[str, list[Path]]:
    """Find all files of these names in the cache and in the mirrors."""
    paths: dict[str, list[Path]] = {}
    for root in (downloads(), *_mirrors()):
        for folder, _, files in os.walk(root):
            for name in sorted(names & set(files)):
                paths.setdefault(name, []).append(Path(folder) / name)
    return paths


def say(message: str) -> None:
    """Print progress to stderr; stdout is for the result of a command."""
    show(message, sys.stderr)


def show(message: str, stream: Any) -> None:
    """Print a line; what the stream's encoding lacks is escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(message.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _places(name: str) -> Iterator[Path]:
    """All files of this name in the cache and in the mirrors."""
    if (downloads() / name).is_file():
        yield downloads() / name
    for root in _mirrors():
        yield from sorted(path for path in root.rglob(name) if path.is_file())


def _mirrors() -> Iterator[Path]:
    """The folders of `$FEDLAB_MIRROR`."""
    for mirror in filter(None, os.environ.get("FEDLAB_MIRROR", "").split(os.pathsep)):
        root = resolve(mirror)
        if not root.is_dir():
            warn(f"FEDLAB_MIRROR names {root}, which is not a folder: correct or unset it")
        yield root


def _digest(path: Path, checksum: str) -> str:
    """The checksum of a file, by the algorithm of `checksum`; "" if that is empty."""
    import pooch

    if not checksum:
        return ""
    algorithm = checksum.split(":")[0]
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _download(url: str, target: Path, checksum: str) -> Path:
    """Download a file; other processes that need it wait."""
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise ConnectionError(f"{target.name} is in no folder of FEDLAB_MIRROR, and {OFFLINE} forbids to download it")
    import pooch
    import requests
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    files = pooch.create(
        target.parent,
        base_url="",
        registry={target.name: checksum or None},
        urls={target.name: url},
        retry_if_failed=RETRIES,
    )
    try:
        with FileLock(target.with_name(f".{target.name}.lock")):
            return Path(files.fetch(target.name, downloader=_Resuming(_part(target), checksum)))
    except requests.RequestException as error:
        raise ConnectionError(_advice(url, target, error)) from None


def _part(target: Path) -> Path:
    """The file of an unfinished download."""
    return target.with_name(f"{target.name}.part")


def _advice(url: str, target: Path, error: "requests.RequestException") -> str:
    """The message for a failed download."""
    reason = str(error) if error.response is not None else type(error).__name__
    part = _part(target)
    kept = (
        f"; {part.stat().st_size:,} bytes are kept in {part} and the download will continue from there"
        if part.exists()
        else ""
    )
    return (
        f"cannot download {target.name} from {url} ({reason}): try again with a network, let FEDLAB_MIRROR name"
        f" a folder that holds the official file, or place that file at {target} by hand{kept}"
    )


class _Resuming:
    """A downloader for pooch that continues `part` and checks it before pooch gets it."""

    def __init__(self, part: Path, checksum: str) -> None:
        self.part = part
        self.checksum = checksum

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        _continue(url, self.part)
        self._check(url)
        self.part.replace(output_file)

    def _check(self, url: str) -> None:
        """Remove a download with a wrong checksum and raise."""
        digest = _digest(self.part, self.checksum)
        if digest == self.checksum:
            return
        size = self.part.stat().st_size
        self.part.unlink()
        raise OSError(
            f"{url} gave {size:,} bytes with checksum {digest}, wanted {self.checksum}: it is truncated or not the"
            f" official file; {self.part} was removed, so try again, or let FEDLAB_MIRROR name a folder that holds the"
            " official file"
        )


def _continue(url: str, part: Path) -> None:
    """Append the missing bytes to `part`, or start over if the server cannot continue a download."""
    import requests
    from tqdm.auto import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing; the checksum shows whether the file is complete
        response.raise_for_status()
        continued = response.status_code == requests.codes.partial_content
        have = have if continued else 0
        total = have + int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        with part.open("ab" if continued else "wb") as file, bar:
            for piece in response.iter_content(PIECE):
                _append(file, piece, part, total)
                bar.update(len(piece))


def _append(file: IO[bytes], piece: bytes, part: Path, total: int | None) -> None:
    """Write a piece of a download; an error of the disk names the file and the sizes."""
    try:
        file.write(piece)
    except OSError as error:
        size = f"{total:,} bytes are needed" if total else "the size of the file is not known"
        raise OSError(
            error.errno,
            f"{part} cannot be written ({error.strerror}): {size}, {shutil.disk_usage(part.parent).free:,} are free;"
            " make room and try again, the download continues, or let FEDLAB_DATA name another folder",
        ) from None
