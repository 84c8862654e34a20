"""Convert many cases in several processes; what is done is kept, so that a killed import resumes.

Results are kept in parts of a few cases, each written as a whole and named after all that determines it: choices, paths
of its files, their sizes and times. A part that is there is not done again.
"""

import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.importing.convert import Converted, convert, digest
from data_prep.importing.plan import Item
from data_prep.importing.settings import Settings
from fedlab.core.files import read_text, write_text

PART = 24  # cases, kept together
LITTLE = 2**26  # bytes to read, for which starting processes would take longer than it saves
SALT = "salt"  # file with the key that hides names while an import is not finished
LOCK = "import.lock"


@dataclass(frozen=True)
class Result:
    """What became of one case: results, or the reason why there are none."""

    index: int
    images: list[NDArray[np.uint8]]
    masks: list[NDArray[np.uint8]]
    records: list[dict[str, Any]]
    problem: str = ""
    checksum: str = ""


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """The hidden folder of an unfinished import, for one process at a time; RuntimeError if another one has it."""
    from filelock import FileLock, Timeout

    place = folder.with_name(f".{folder.name}.import")
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / LOCK, timeout=0):
            if not (place / SALT).is_file():
                write_text(place / SALT, secrets.token_hex(16))
            yield place
    except Timeout:
        raise FileExistsError(f"another process imports to {folder}: wait for it, or choose another name") from None


def hidden_name(text: str, salt: str) -> str:
    """A name that cannot be turned back without the salt; empty for an empty name."""
    plain = " ".join(text.split()).casefold()
    return hashlib.blake2b(plain.encode(), key=bytes.fromhex(salt), digest_size=16).hexdigest() if plain else ""


def run(
    items: Sequence[Item], folder: Path, chosen: Settings, place: Path, workers: int | None, strict: bool, title: str
) -> list[Path]:
    """Convert all cases that are not done yet; returns the parts in which the results are kept, see `results`."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    salt = read_text(place / SALT)
    parts = list(_parts(items, folder))
    names = [_name(part, folder, chosen) for part in parts]
    open_ = [number for number, name in enumerate(names) if not (place / f"{name}.json").is_file()]
    done = sum(len(part) for number, part in enumerate(parts) if number not in set(open_))
    files = [folder / path for number in open_ for item in parts[number] for path in item.files]
    processes = _processes(workers, sum(path.stat().st_size for path in files), len(open_))
    jobs = (delayed(_part)(parts[number], folder, chosen, place / names[number], salt, strict) for number in open_)
    with tqdm(total=len(items), initial=done, unit="case", desc=title, delay=1) as bar:
        for finished in Parallel(n_jobs=processes, return_as="generator_unordered", batch_size=1)(jobs):
            bar.update(finished)
    return [place / name for name in names]


def results(parts: Sequence[Path]) -> Iterator[Result]:
    """What became of each case, in their order."""
    start = 0
    for part in parts:
        for result in _stored(part, start):
            yield result
        start = result.index + 1


def _parts(items: Sequence[Item], folder: Path) -> Iterator[Sequence[Item]]:
    """The cases in parts that are few, or small, enough to be held in memory."""
    start = size = 0
    for number, item in enumerate(items):
        size += sum((folder / path).stat().st_size for path in item.files)
        if number + 1 - start == PART or size > LITTLE or number + 1 == len(items):
            yield items[start : number + 1]
            start, size = number + 1, 0


def one(item: Item, folder: Path, chosen: Settings, salt: str, index: int = 0) -> Result:
    """Convert one case; a file that cannot be used is a problem and no error."""
    files = [folder / path for path in item.files]
    mask = folder / item.mask if item.mask else None
    checksum = ""
    try:
        checksum = digest([*files, *([mask] if mask else [])])
        found = convert(files, mask, chosen)
    except (ValueError, OSError, MemoryError) as error:
        stated = (" ".join(str(error).split()) or type(error).__name__).replace(f"{folder}{os.sep}", "")
        stated = f"it{stated.removeprefix(item.files[0])}" if stated.startswith(f"{item.files[0]} ") else stated
        return Result(index, [], [], [], stated, checksum)
    masks = [each.mask for each in found if each.mask is not None]
    return Result(index, [each.image for each in found], masks, [_record(each, salt) for each in found], "", checksum)


def _record(found: Converted, salt: str) -> dict[str, Any]:
    """What is kept of a header: facts, and names that are hidden."""
    person = found.person
    return {
        "facts": found.facts,
        "patient": hidden_name(person.patient, salt),
        "institution": hidden_name(person.institution, salt),
        "words": {keyword: hidden_name(text, salt) for keyword, text in person.words.items()},
        "tags": list(person.tags),
        "burned": person.burned,
        "notes": list(found.notes),
    }


def _processes(workers: int | None, size: int, parts: int) -> int:
    """How many processes: as wished, or one for each core if there is enough to do."""
    if workers is not None:
        return max(1, min(workers, parts))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size <= LITTLE else max(1, min(cores, parts))


def _name(part: Sequence[Item], folder: Path, chosen: Settings) -> str:
    """A name for all that determines the results of a part."""
    stated = [json.dumps(chosen.plain(), sort_keys=True)]
    for item in part:
        for path in (*item.files, *([item.mask] if item.mask else [])):
            stat = (folder / path).stat()
            stated.append(f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}")
        stated.append("")
    return hashlib.sha256("\n".join(stated).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _part(part: Sequence[Item], folder: Path, chosen: Settings, target: Path, salt: str, strict: bool) -> int:
    """Convert the cases of one part and keep them; its .json is written last, and says that it is whole."""
    arrays: dict[str, NDArray[np.uint8]] = {}
    records = []
    for number, item in enumerate(part):
        result = one(item, folder, chosen, salt, number)
        if strict and result.problem:
            raise ValueError(f"{item.files[0]}: {result.problem}")
        arrays |= {f"image-{number}-{place}": image for place, image in enumerate(result.images)}
        arrays |= {f"mask-{number}-{place}": mask for place, mask in enumerate(result.masks)}
        records.append({"records": result.records, "problem": result.problem, "checksum": result.checksum})
    scratch = target.with_name(f"{target.name}.{os.getpid()}.npz")
    np.savez(scratch, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    scratch.replace(target.with_suffix(".npz"))
    write_text(target.with_suffix(".json"), json.dumps(records))
    return len(part)


def _stored(target: Path, start: int) -> Iterator[Result]:
    """The results of a part, one case after another."""
    records = json.loads(read_text(target.with_suffix(".json")))
    try:
        with np.load(target.with_suffix(".npz"), allow_pickle=False) as arrays:
            for number, record in enumerate(records):
                images = [arrays[f"image-{number}-{place}"] for place in range(len(record["records"]))]
                masks = [
                    arrays[f"mask-{number}-{place}"]
                    for place in range(len(record["records"]))
                    if f"mask-{number}-{place}" in arrays
                ]
                yield Result(start + number, images, masks, record["records"], record["problem"], record["checksum"])
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        target.with_suffix(".json").unlink()
        raise OSError(f"{target.with_suffix('.npz')} is damaged ({error}): run the same command again") from None
