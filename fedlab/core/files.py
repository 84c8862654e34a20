"""Files: UTF-8 text, one form of a path, names that any disk takes, checksums, and errors that name what is damaged."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums.json"  # file name -> checksum of each file of a folder
BLOCK = 2**22  # bytes read or written at a time
LONGEST = 255  # bytes of a file name on common disks
NO_UTF8 = "cannot be the name of a file in the encoding of this locale: set PYTHONUTF8=1, or use plain letters"
LOCK = "fedlab-scratch.lock"  # file in a scratch folder, held while its process lives
SCRATCH = ".scratch-"  # how the names of scratch folders begin


class DamagedError(ValueError):
    """A stored file is cut off, was changed after it was written, or is not what its name says."""


def resolve(path: str | Path) -> Path:
    """The one form of a path: absolute, with `~` and links replaced.

    Raises
    ------
    ValueError
        If no file can have this path.

    Examples
    --------
    >>> from fedlab.core.files import resolve
    >>> resolve("runs/../runs") == resolve("./runs")
    True
    """
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise ValueError(f"{text!r} is no path: give the name of a file or folder")
    try:
        return Path(text).expanduser().resolve()
    except UnicodeError:
        raise ValueError(f"{text!a} {NO_UTF8}") from None
    except (RuntimeError, OSError) as error:  # an unknown user after `~`, a link that leads to itself
        raise ValueError(f"{text!r} is no path that can be followed ({error}): give it in full") from None


def file_name(words: str, longest: int = LONGEST) -> str:
    """Words as a file name: letters, digits and `.=-_`, cut to a number of bytes.

    Examples
    --------
    >>> from fedlab.core.files import file_name
    >>> file_name("fedprox(mu=0.1) at A/B")
    'fedprox_mu=0.1_at_A_B'
    >>> file_name("a" * 300, longest=8)
    'aaaaaaaa'
    """
    name = re.sub(r"[^\w.=-]+", "_", words).strip("_")
    return name.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore").strip("_")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; DamagedError if it holds other bytes."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path} is damaged: it is no UTF-8 text ({error.reason} at byte {error.start})") from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as a whole: at any moment the path holds the old text or the new one."""
    scratch = path.with_name(f"{path.name[:200]}.writing")
    # A file name that is no UTF-8 text is escaped; in JSON it comes back as it was.
    scratch.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    scratch.replace(path)


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file; DamagedError if it cannot be read or is of another kind than wanted."""
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: it is no JSON ({error})") from None
    if not isinstance(content, kind):
        raise DamagedError(f"{path} is damaged: it holds {type(content).__name__}, wanted {kind.__name__}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write values as JSON in UTF-8, as a whole."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def checksum(path: Path) -> str:
    """Hash of the bytes of a file, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Store the checksum of files of a folder, by default of all; `verify` compares them."""
    chosen = names if names is not None else (path.name for path in folder.iterdir() if path.is_file())
    write_json(folder / CHECKSUMS, {name: checksum(folder / name) for name in sorted(chosen) if name != CHECKSUMS})


def verify(path: Path) -> Path:
    """The path of a file whose bytes are those that were stored; DamagedError if they changed.

    Files in folders without checksums (of earlier versions), and files that have none, are not checked.
    """
    stored = path.with_name(CHECKSUMS)
    if stored.is_file():
        wanted = read_json(stored).get(path.name)
        if wanted is not None and not path.is_file():
            raise DamagedError(f"{path} is missing")
        if wanted is not None and checksum(path) != wanted:
            raise DamagedError(f"{path} is damaged: its bytes are not those that were stored")
    return path


def reserve(path: Path, size: int) -> None:
    """Make a file of this many bytes whose space on the disk is really there, for a memory map to write to.

    Raises
    ------
    OSError
        If the disk is too full, with the sizes. A sparse file would end the process at a later write instead.
    """
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
                file.truncate(size)
            else:
                zeros = bytes(BLOCK)
                for start in range(0, size, BLOCK):
                    file.write(zeros[: size - start])
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(path.parent).free
        place = path.parent.parent if path.parent.name.startswith(SCRATCH) else path.parent
        raise OSError(
            error.errno,
            f"no space left in {place}: {size:,} bytes are needed, {free:,} are free: make room or choose another"
            " folder",
        ) from None


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary hidden folder in this one; if the process is killed, the next call removes it."""
    from filelock import FileLock

    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=SCRATCH, ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with FileLock(scratch / LOCK):
            yield scratch


def sweep(parent: Path) -> None:
    """Remove the scratch folders in this one that killed processes left."""
    from filelock import FileLock, Timeout

    for lock in parent.glob(f"{SCRATCH}*/{LOCK}"):
        with suppress(Timeout, OSError, NotImplementedError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)
