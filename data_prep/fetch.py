"""Official files with their published checksums: from the cache, from a mirror, or from their url.

A download that breaks off is continued where it stopped, by this run or a later one. No file is used, and no download
enters the cache, before its checksum is right; an archive without a published checksum is checked file by file, see
`data_prep.collection`.
"""

import os
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab.core.warnings import warn
from fedlab.data.home import home

if TYPE_CHECKING:
    import requests

RETRIES = 3  # each goes on where the last one broke off
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
PIECE = 2**16  # bytes: what a broken connection loses at most


def downloads() -> Path:
    """Where official files are kept as they came."""
    return home() / "downloads"


def fetch(url: str, name: str, checksum: str) -> Path:
    """The official file `name`, with this checksum ("md5:..." or "sha256:..."; "" for none: whoever reads it checks).

    Looked for in the cache, then in the folders of `$FEDLAB_MIRROR`, then downloaded from `url` into the cache.
    Raises ConnectionError if the url cannot be reached and OSError if what it gives is not the official file.
    """
    return found(name, checksum) or _download(url, downloads() / name, checksum)


def found(name: str, checksum: str) -> Path | None:
    """The file in the cache or in a mirror; others of its name are passed over with a warning."""
    for path in _places(name):
        digest = _digest(path, checksum)
        if digest == checksum:
            told = "checksum as published" if checksum else "checked file by file"
            say(f"{name}: {path.stat().st_size / 1e6:,.1f} MB from {path}, {told}")
            return path
        warn(f"{path} is passed over: its checksum is {digest}, wanted {checksum}")
    return None


def lying(names: Set[str]) -> dict[str, list[Path]]:
    """Where files of these names lie in the cache and in the mirrors, found in one walk."""
    paths: dict[str, list[Path]] = {}
    for root in (downloads(), *_mirrors()):
        for folder, _, files in os.walk(root):
            for name in sorted(names & set(files)):
                paths.setdefault(name, []).append(Path(folder) / name)
    return paths


def say(message: str) -> None:
    """Progress goes to stderr, so that what a command prints stays usable."""
    print(message, file=sys.stderr, flush=True)


def _places(name: str) -> Iterator[Path]:
    if (downloads() / name).is_file():
        yield downloads() / name
    for root in _mirrors():
        yield from sorted(path for path in root.rglob(name) if path.is_file())


def _mirrors() -> Iterator[Path]:
    for mirror in filter(None, os.environ.get("FEDLAB_MIRROR", "").split(os.pathsep)):
        root = Path(mirror).expanduser()
        if not root.is_dir():
            warn(f"FEDLAB_MIRROR names {root}, which is not a folder: correct or unset it")
        yield root


def _digest(path: Path, checksum: str) -> str:
    import pooch

    if not checksum:
        return ""
    algorithm = checksum.split(":")[0]
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _download(url: str, target: Path, checksum: str) -> Path:
    """Processes that want the same file wait for the first one."""
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
    return target.with_name(f"{target.name}.part")


def _advice(url: str, target: Path, error: "requests.RequestException") -> str:
    reason = str(error) if error.response is not None else type(error).__name__
    part = _part(target)
    kept = f"; {part.stat().st_size:,} bytes are kept in {part} and will be continued" if part.exists() else ""
    return (
        f"cannot download {target.name} from {url} ({reason}): try again with a network, let FEDLAB_MIRROR name"
        f" a folder that holds the official file, or place that file at {target} by hand{kept}"
    )


class _Resuming:
    """Downloads for pooch: goes on from `part`, and hands the file over once its checksum is right."""

    def __init__(self, part: Path, checksum: str) -> None:
        self.part = part
        self.checksum = checksum

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        _continue(url, self.part)
        self._check(url)
        self.part.replace(output_file)

    def _check(self, url: str) -> None:
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
    """Append to `part` what it lacks, or start over where the server cannot continue."""
    import requests
    from tqdm.auto import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing follows what is there: the checksum tells whether it is whole
        response.raise_for_status()
        continued = response.status_code == requests.codes.partial_content
        have = have if continued else 0
        total = have + int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        with part.open("ab" if continued else "wb") as file, bar:
            for piece in response.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
