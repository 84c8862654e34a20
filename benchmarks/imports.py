"""How long does an import of one's own images take, how much memory, and does a killed one resume to the same folder?

Three parts, each from files that are made on the spot: 5,000 PNGs of 512 x 512 pixels, 200 CT-like DICOM series of
about 40 slices, and an import that is killed ten times at a random moment.

    python benchmarks/imports.py
    python benchmarks/imports.py --pictures 500 --series 20
"""

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
EDGE = 512
KILLS = 10
READING = """`on a core`: seconds that all processes of the command spent on a core; a free machine takes this divided
by its cores, or a little more. `at load`: processes that wanted a core in the last minute, these included. Memory is
that of the command and its processes together."""
KILLED = 600  # pictures of the import that is killed
PATTERNS = 16  # different pictures and volumes; the files differ by a shift
AIR, TISSUE = -1000, 60  # Hounsfield units
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
POLL = 0.3  # seconds between two looks at the memory


def patterns(edge: int, depth: int = 1) -> np.ndarray:
    """Smooth shapes with noise of a scanner, (PATTERNS, depth, edge, edge), 0 to 1: they compress as real ones do."""
    from scipy.ndimage import gaussian_filter, zoom

    rng = np.random.default_rng(0)
    coarse = rng.random((PATTERNS, depth, 24, 24)).astype(np.float32)
    smooth = zoom(gaussian_filter(coarse, (0, 1, 1, 1)), (1, 1, edge / 24, edge / 24), order=1)
    low, high = smooth.min((1, 2, 3), keepdims=True), smooth.max((1, 2, 3), keepdims=True)
    return np.clip((smooth - low) / (high - low) + rng.normal(0, 0.01, smooth.shape), 0, 1).astype(np.float32)


def pictures(root: Path, count: int) -> None:
    """Folders of two classes with PNGs, all different."""
    from PIL import Image

    drawn = np.rint(patterns(EDGE)[:, 0] * 255).astype(np.uint8)
    for number in range(count):
        path = root / ("healthy", "ill")[number % 2] / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(drawn[number % PATTERNS], number, 1)).save(path, compress_level=3)


def series(root: Path, count: int) -> None:
    """Folders of two classes with folders of DICOM files, 36 to 44 slices each, stored as 12 of 16 bits."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    drawn = (patterns(EDGE, 4) * (TISSUE - AIR)).astype(np.int16)
    for number in range(count):
        folder = root / ("healthy", "ill")[number % 2] / f"scan-{number:03}"
        folder.mkdir(parents=True, exist_ok=True)
        found = Dataset()
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
        found.SeriesInstanceUID, found.StudyInstanceUID = generate_uid(), generate_uid()
        found.PatientID, found.PatientName, found.Modality = f"P{number:03}", f"Patient^{number}", "CT"
        found.Manufacturer, found.RescaleSlope, found.RescaleIntercept = ("A", "B")[number % 2], 1, AIR
        found.Rows = found.Columns = EDGE
        found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
        found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
        found.PixelSpacing, found.ImageOrientationPatient = [0.7, 0.7], [1, 0, 0, 0, 1, 0]
        for place in range(36 + number % 9):
            found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
            found.ImagePositionPatient, found.InstanceNumber = [0, 0, 5 * place], place + 1
            pixels = np.roll(drawn[number % PATTERNS, place % 4], (place, number), (0, 1))
            found.PixelData = pixels.tobytes()
            found.save_as(folder / f"{place:03}.dcm", enforce_file_format=True)


def command(folder: Path, target: Path, *options: str) -> list[str]:
    """The command that a user would type."""
    return [sys.executable, "-m", "data_prep", "import", str(folder), "--to", str(target), *options, "measured"]


def timed(words: list[str]) -> tuple[float, float, float]:
    """Seconds, those spent on a core, and peak memory in megabytes of the process and its children together."""
    start, most, before = time.perf_counter(), 0.0, busy()
    with subprocess.Popen(words, **SILENT) as process:
        while process.poll() is None:
            most = max(most, memory(process.pid))
            time.sleep(POLL)
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - start, busy() - before, most


def busy() -> float:
    """Seconds that processes which have ended spent on a core."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(process: int) -> float:
    """Megabytes of a process and all that it started; pages that several share are counted once (Linux)."""
    total, left = 0.0, [process]
    while left:
        one = left.pop()
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            left += map(int, Path(f"/proc/{one}/task/{one}/children").read_text(encoding="utf-8").split())
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
    return total


def contents(folder: Path) -> str:
    """One checksum of a dataset folder."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def killed(folder: Path, space: Path) -> tuple[int, bool]:
    """Kill an import at random moments, then let it end; how often, and whether the folder is that of a whole one.

    One that ends before it is killed begins again.
    """
    rng, kills = random.Random(0), 0
    target = space / "resumed"
    while kills < KILLS:
        parts = len(list(space.glob(".resumed.import/*.json"))) + rng.randint(0, 3)
        with subprocess.Popen(command(folder, target), **SILENT, start_new_session=True) as process:
            while process.poll() is None and len(list(space.glob(".resumed.import/*.json"))) < parts:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            running = process.poll() is None
            kills += running
            if running:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                shutil.rmtree(target)
    timed(command(folder, target))
    return kills, contents(target) == contents(space / "whole")


def report(given: argparse.Namespace, space: Path) -> str:
    lines = ["| import of | cases | size of the files | seconds | on a core | at load | peak memory |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    kinds: list[tuple[str, Any, int]] = [
        (f"PNG, {EDGE} x {EDGE}", pictures, given.pictures),
        (f"DICOM series, {EDGE} x {EDGE} x 36 to 44, CT", series, given.series),
    ]
    for title, make, count in kinds:
        folder = space / make.__name__
        make(folder, count)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
        seconds, core, peak = timed(command(folder, space / f"{make.__name__}-imported"))
        measured = f"{seconds:.0f} | {core:.0f} | {os.getloadavg()[0]:.1f} | {peak:.0f} MB"
        lines.append(f"| {title} | {count:,} | {size:.2f} GB | {measured} |")
        print(lines[-1], flush=True)
        shutil.rmtree(folder)
    small = space / "small"
    pictures(small, KILLED)
    timed(command(small, space / "whole"))
    kills, same = killed(small, space)
    said = "the same folder, byte for byte" if same else "ANOTHER FOLDER"
    lines += ["", f"Killed {kills} times at a random moment ({KILLED} PNGs) and started again: {said}."]
    return "\n".join([*lines, "", READING])


def main() -> None:
    from machine import machine, page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5_000)
    parser.add_argument("--series", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as space:
        text = report(given, Path(space))
    page(HERE / "results" / f"imports-{machine()['device']}.md", "Import of one's own images", text)


if __name__ == "__main__":
    main()
