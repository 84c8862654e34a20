"""Convert many cases in several processes; what is done is kept, so that a killed import resumes.

Results are kept in parts of a few cases, each written as a whole and named after all that determines it: choices, paths
of its files, their sizes and times. A part that is there is not done again. It is a file of pixels, and a .json that
says what they are.
"""

import hashlib
import json
import math
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.importing.convert import Converted, convert, digest, whole
from data_prep.importing.plan import Item
from data_prep.importing.settings import Settings
from fedlab.core.files import read_text, write_text

PART = 24  # cases, kept together
LITTLE = 2**26  # bytes to read, for which starting processes would take longer than it saves
SALT = "salt"  # file with the key that hides names while an import is not finished
LOCK = "import.lock"
KEPT = ("records", "shapes", "numbers", "problem", "checksum")  # of a result, in the .json of its part
PIXELS = ".pixels"  # end of the file with the images and masks of a part, one after the other
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    """What became of one case: results, or the reason why there are none.

    images, masks: one for each record, or none where they were not read. shapes: of the images. numbers: in the masks.
    """

    index: int
    images: list[Pixels] = field(default_factory=list)
    masks: list[Pixels] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    numbers: list[tuple[int, ...]] = field(default_factory=list)
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
    count = processes(workers, sum(path.stat().st_size for path in files), len(open_))
    jobs = (delayed(_part)(parts[number], folder, chosen, place / names[number], salt, strict) for number in open_)
    with tqdm(total=len(items), initial=done, unit="case", desc=title, delay=1) as bar:
        for finished in Parallel(n_jobs=count, return_as="generator_unordered", batch_size=1)(jobs):
            bar.update(finished)
    return [place / name for name in names]


def results(parts: Sequence[Path], pixels: bool = True) -> Iterator[Result]:
    """What became of each case, in their order."""
    start = 0
    for part in parts:
        for result in _stored(part, start, pixels):
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


def sources(item: Item, folder: Path) -> list[Path]:
    """The files of a case, and of its masks."""
    return [folder / path for path in (*item.files, *item.masks)]


def one(item: Item, folder: Path, chosen: Settings, salt: str, index: int = 0) -> Result:
    """Convert one case; a file that cannot be used is a problem and no error."""
    files = [folder / path for path in item.files]
    checksum = ""
    try:
        checksum = digest(sources(item, folder))
        found = convert(files, [folder / path for path in item.masks], chosen)
    except (ValueError, OSError, MemoryError) as error:
        stated = (" ".join(str(error).split()) or type(error).__name__).replace(f"{folder}{os.sep}", "")
        stated = f"it{stated.removeprefix(item.files[0])}" if stated.startswith(f"{item.files[0]} ") else stated
        return Result(index, problem=stated, checksum=checksum)
    images, masks = [each.image for each in found], [each.mask for each in found if each.mask is not None]
    return Result(
        index,
        images,
        masks,
        [_record(each, salt) for each in found],
        [image.shape for image in images],
        [tuple(np.unique(mask).tolist()) for mask in masks],
        checksum=checksum,
    )


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
        "oriented": found.oriented,
        "spacing": None if found.spacing is None else list(found.spacing),
    }


def processes(workers: int | None, size: int, parts: int) -> int:
    """How many processes: as wished, or one for each core if there is enough to do."""
    if workers is not None:
        return max(1, min(workers, parts))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size <= LITTLE else max(1, min(cores, parts))


def _name(part: Sequence[Item], folder: Path, chosen: Settings) -> str:
    """A name for all that determines the results of a part."""
    stated = [json.dumps(chosen.plain(), sort_keys=True)]
    for item in part:
        for path in whole(sources(item, folder)):
            stat = path.stat()
            stated.append(f"{os.path.relpath(path, folder)}\t{stat.st_size}\t{stat.st_mtime_ns}")
        stated.append("")
    return hashlib.sha256("\n".join(stated).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _part(part: Sequence[Item], folder: Path, chosen: Settings, target: Path, salt: str, strict: bool) -> int:
    """Convert the cases of one part and keep them; its .json is written last, and says that it is whole."""
    records = []
    scratch, crc = target.with_name(f"{target.name}.{os.getpid()}{PIXELS}"), 0
    with scratch.open("wb") as file:
        for number, item in enumerate(part):
            result = one(item, folder, chosen, salt, number)
            if strict and result.problem:
                raise ValueError(f"{item.files[0]}: {result.problem}")
            for array in (*result.images, *result.masks):
                content = np.ascontiguousarray(array).data
                crc = zlib.crc32(content, crc)
                file.write(content)
            records.append({key: getattr(result, key) for key in KEPT})
    scratch.replace(target.with_suffix(PIXELS))
    write_text(target.with_suffix(".json"), json.dumps({"crc": crc, "cases": records}))
    return len(part)


def _stored(target: Path, start: int, pixels: bool) -> Iterator[Result]:
    """The results of a part, one case after another."""
    kept = json.loads(read_text(target.with_suffix(".json")))
    content = np.fromfile(target.with_suffix(PIXELS), np.uint8) if pixels else np.zeros(0, np.uint8)
    if pixels and zlib.crc32(content.data) != kept["crc"]:
        target.with_suffix(".json").unlink()
        raise OSError(f"{target.with_suffix(PIXELS)} is damaged: run the same command again, which writes it again")
    place = 0
    for number, record in enumerate(kept["cases"]):
        found = {key: record[key] for key in KEPT}
        found |= {key: [tuple(each) for each in record[key]] for key in ("shapes", "numbers")}
        arrays = []
        shapes = found["shapes"] + [shape[1:] for shape in found["shapes"][: len(found["numbers"])]]
        for shape in shapes if pixels else ():
            arrays.append(content[place : place + math.prod(shape)].reshape(shape))
            place += arrays[-1].size
        count = len(found["shapes"])
        yield Result(start + number, arrays[:count], arrays[count:], **found)
