"""Copies of the notebooks to work in, so that running them leaves the originals as they are.

    python fedlab/notebook/copies.py notebooks out/lab

Notebooks that you did not change follow the originals; those that you changed or ran are kept. It is run as a file, and
with Python's own modules only, since to load fedlab takes longer than the copying.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

RECORD = ".originals.json"  # name of a copy -> checksum of the original that it was made from
EARLIER = "earlier"  # folder of your versions that were replaced because you said so


def copy(source: Path, target: Path, fresh: bool = False) -> tuple[list[Path], list[Path]]:
    """Copy notebooks and presets; return (copies that were written, your versions that differ from the originals).

    Parameters
    ----------
    source : Path
        The folder of the originals.
    target : Path
        The folder of the copies; made if missing.
    fresh : bool, default False
        Replace your versions too; they are moved into a folder `earlier/` with the time.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> source, target = Path(folder.name, "notebooks"), Path(folder.name, "lab")
    >>> source.mkdir()
    >>> _ = source.joinpath("a.ipynb").write_text("1")
    >>> written, kept = copy(source, target)
    >>> _ = target.joinpath("a.ipynb").write_text("1, and my cell")
    >>> _ = source.joinpath("a.ipynb").write_text("2")
    >>> written, kept = copy(source, target)
    >>> [path.name for path in kept], target.joinpath("a.ipynb").read_text()
    (['a.ipynb'], '1, and my cell')
    >>> folder.cleanup()
    """
    target.mkdir(parents=True, exist_ok=True)
    made, written, kept = _record(target), [], []
    aside = target / EARLIER / time.strftime("%Y-%m-%d-%H%M%S")
    for original in sorted([*source.glob("*.ipynb"), *source.glob("presets/*.yaml")]):
        place = target / original.relative_to(source)
        name, now, mine = place.relative_to(target).as_posix(), _checksum(original), _checksum(place)
        if mine == now:
            made[name] = now
            continue
        if mine and mine != made.get(name):
            if not fresh:
                kept.append(place)
                continue
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            place.replace(aside / name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, place)
        made[name] = now
        written.append(place)
    (target / RECORD).write_text(json.dumps(made, indent=1), encoding="utf-8")
    return written, kept


def _record(target: Path) -> dict[str, str]:
    """Checksums of the originals of the copies; empty where that is unknown, so that all copies are kept."""
    try:
        found = json.loads((target / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _checksum(path: Path) -> str:
    """Checksum of a file; empty if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy, and say what was kept."""
    parser = argparse.ArgumentParser(description="Copy notebooks to work in; keep those that you changed.")
    parser.add_argument("source", type=Path, help="the folder of the originals")
    parser.add_argument("target", type=Path, help="the folder of the copies")
    parser.add_argument("--fresh", action="store_true", help="replace your versions too, and keep them in earlier/")
    given = parser.parse_args(arguments)
    written, kept = copy(given.source, given.target, given.fresh)
    print(f"{given.target}: {len(written)} notebooks and presets copied from {given.source}", end="")
    if kept:
        shown = ", ".join(path.name for path in kept[:3]) + (", ..." if len(kept) > 3 else "")
        print(f"; {len(kept)} that you changed or ran are kept ({shown}): make lab FRESH=1 replaces them", end="")
    print(flush=True)


if __name__ == "__main__":
    main()
