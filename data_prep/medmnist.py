"""MedMNIST v2: twelve sets of small images and six of small volumes, in all published sizes, with official splits."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import writer
from data_prep.fetch import fetch
from data_prep.reader import decoding
from fedlab.core.files import DamagedError

FACTS = json.loads(Path(__file__).with_name("medmnist.json").read_text(encoding="utf-8"))
MEMBERS: dict[str, dict[str, Any]] = FACTS["members"]
SPLITS = ("train", "val", "test")
BLOCK = 2**26  # bytes of pixels read at a time: the largest set has 16 GB

DATASETS = {
    name: f"{facts['about']}; {sum(facts['splits'].values()):,} cases, {facts['task']},"
    f" size {', '.join(facts['md5'])}, {facts['licence']}"
    for name, facts in MEMBERS.items()
}


def prepare(name: str, folder: Path, *, limit: int | None = None, size: int = 28) -> Path:
    """Write one set as a folder. size: edge length in pixels, one of the published ones."""
    file, checksum = _official(name, size)
    card = _card(name, {file: checksum}, {"size": size, "limit": limit})
    if writer.ready(folder, card):
        return folder
    archive = fetch(f"{FACTS['record']}/files/{file}?download=1", file, checksum)
    table = _table(archive)
    rows = writer.subset(table, limit, card["task"])
    volume = name.endswith("3d")
    with writer.canvas(folder, (len(rows), *_layout(next(_blocks(archive)), volume).shape[1:])) as images:
        _fill(images, archive, rows, volume)
        return writer.write(folder, images, table.iloc[rows], card)


def _official(name: str, size: int) -> tuple[str, str]:
    """Name and checksum of the published file."""
    sizes = MEMBERS[name]["md5"]
    if not isinstance(size, int) or str(size) not in sizes:
        raise ValueError(f"{name} has no size {size!r}: choose one of {', '.join(sizes)}")
    return (f"{name}.npz" if size == 28 else f"{name}_{size}.npz"), f"md5:{sizes[str(size)]}"


def _card(name: str, checksums: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    facts = MEMBERS[name]
    return writer.card(
        name,
        title=facts["title"],
        task=facts["task"],
        classes=facts["classes"],
        licence=facts["licence"],
        source=FACTS["source"],
        citation="; ".join(filter(None, [FACTS["citation"], facts["origin"]])),
        caution="no patient identifiers are published: images of one patient cannot be matched",
        checksums=checksums,
        options=options,
    )


def _table(archive: Path) -> pd.DataFrame:
    """case, label and official split of every case, in the order of the file."""
    parts = []
    with decoding(str(archive)), np.load(archive, allow_pickle=False) as arrays:
        for split in SPLITS:
            labels = arrays[f"{split}_labels"]  # (n, 1), or (n, classes) of 0 and 1
            if labels.ndim != 2 or labels.dtype.kind not in "iu":
                raise DamagedError(
                    f"{archive} holds {labels.dtype} labels of shape {labels.shape}: wanted integers (n, 1)"
                )
            labels = labels.astype(np.int64)
            bits = labels @ (1 << np.arange(labels.shape[1])) if labels.shape[1] > 1 else labels[:, 0]
            case = [f"{split}-{number:05d}" for number in range(len(bits))]
            parts.append(pd.DataFrame({"case": case, "label": bits, "split": split}))
    return pd.concat(parts, ignore_index=True)


def _fill(images: NDArray[np.uint8], archive: Path, rows: NDArray[np.int64], volume: bool) -> None:
    """Copy these rows of the file to `images`, channels first."""
    from tqdm.auto import tqdm

    seen = done = 0
    with tqdm(total=len(rows), unit="case", desc=archive.name, delay=2) as bar:
        for block in _blocks(archive):
            chosen = rows[(rows >= seen) & (rows < seen + len(block))] - seen
            images[done : done + len(chosen)] = _layout(block[chosen], volume)
            seen, done = seen + len(block), done + len(chosen)
            bar.update(len(chosen))
    if done != len(rows):
        raise DamagedError(f"{archive} holds {seen:,} images, fewer than labels: download it again")
    if volume and images.max(initial=0) == 1:  # a shape drawn in zeros and ones
        images *= np.uint8(255)


def _layout(block: NDArray[np.uint8], volume: bool) -> NDArray[np.uint8]:
    """(n, h, w), (n, h, w, 3) or, for volumes, (n, h, w, d) -> (n, channels, h, w[, d])."""
    return np.moveaxis(block, 3, 1) if block.ndim == 4 and not volume else block[:, None]


def _blocks(archive: Path) -> Iterator[NDArray[np.uint8]]:
    """Read all images block by block, in the order train, val, test."""
    with decoding(str(archive)), zipfile.ZipFile(archive) as zipped:
        for split in SPLITS:
            with zipped.open(f"{split}_images.npy") as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise DamagedError(
                        f"{archive} holds arrays in a newer format than 1.0: update data_prep/medmnist.py"
                    )
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                if fortran or dtype != np.uint8:
                    raise DamagedError(f"{archive} holds {dtype} images: wanted uint8 in C order")
                item = int(np.prod(shape[1:]))
                while data := file.read(max(BLOCK // item, 1) * item):
                    yield np.frombuffer(data, np.uint8).reshape(-1, *shape[1:])
