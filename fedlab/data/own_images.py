"""Images of one's own, imported by an installed package that can read them, as `data_prep` does."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fedlab.data.cases import Cases
from fedlab.data.catalogue import load
from fedlab.data.home import home

__all__ = ["import_images"]


def import_images(
    folder: str | Path,
    table: str | Path | None = None,
    *,
    name: str,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    mask: str | Sequence[str] | None = None,
    site: str | None = None,
    patient: str | None = None,
    split: str | None = None,
    keep: Sequence[str] = (),
    size: int | str | Sequence[int] | None = None,
    spacing: float | str | Sequence[float] | None = None,
    window: str | tuple[float, float] | None = None,
    to: str | Path | None = None,
    strict: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    **options: Any,
) -> Cases:
    """Import a folder of PNG, JPEG, TIFF, DICOM, NIfTI, NRRD or MetaImage files as a dataset folder, and load it.

    The command `python -m data_prep import` does the same. Without a table, the folder holds one folder for each class,
    or the two folders `images` and `labels`. Nothing in a DICOM header that names a person is copied.

    Parameters
    ----------
    folder : str or Path
        The folder with the images, and its subfolders.
    table : str or Path, optional
        CSV, tab-separated or Excel file with one row for each case.
    name : str
        Name of the dataset: `fedlab.load(name)` loads it again.
    image, label, mask, site, patient, split : str, optional
        Columns of the table: path of the image, class (or a sequence with one column for each finding), path of the
        mask (or a sequence with one column for each structure that may overlap others), site, patient (becomes a
        number), split.
    keep : sequence of str
        Further columns of the table to copy, such as "age".
    size : int, str or sequence of int, optional
        Pixels or voxels of the result, such as 64 or "64x48", by default 64, if no spacing is given; or "keep", with
        which each image keeps its own size after resampling to the spacing, to train on crops.
    spacing : float, str or sequence of float, optional
        Size of a pixel or voxel in mm.
    window : str or (float, float), optional
        Values that become black and white: "lung", "brain", "bone", "soft-tissue" or "wide" of CT, "LOW:HIGH",
        "percentiles" or "header". By default CT is "wide", -1000 to 1000 HU.
    to : str or Path, optional
        The folder to write. By default in `$FEDLAB_DATA`, or the user's cache, under its name.
    strict : bool
        Stop at the first file or row that cannot be used. By default they are listed in `NAME-problems.csv`.
    dry_run : bool
        Import twelve cases only, and write a picture of them instead of the dataset.
    workers : int, optional
        Number of processes. By default one for each core.
    **options
        case, pseudonyms, numbered, fit, colour, frames, task, target, classes, structures, overlap, licence, modality:
        see `data_prep.import_images`.

    Returns
    -------
    Cases
        The imported cases; of a dry run up to twelve of them.

    Raises
    ------
    ValueError
        If a choice is not possible, no case is found, or, if strict, a file or row cannot be used.
    FileNotFoundError
        If the folder or the table does not exist.
    FileExistsError
        If the folder to write holds something else.
    ModuleNotFoundError
        If a library that reads one of the formats is not installed, or no package that imports images is.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import fedlab
    >>> import numpy as np
    >>> from PIL import Image
    >>> pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 24), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scans = Path(folder) / "scans"
    ...     for number, finding in enumerate(["healthy", "ill"] * 3):
    ...         path = scans / finding / f"{number}.png"
    ...         path.parent.mkdir(parents=True, exist_ok=True)
    ...         Image.fromarray(pixels[number]).save(path)
    ...     cases = fedlab.import_images(scans, name="my-scans", size=16, to=Path(folder) / "my-scans")
    >>> len(cases), cases.classes, cases.shape
    (6, ['healthy', 'ill'], (1, 16, 16))
    """
    roles = {"image": image, "label": label, "mask": mask, "site": site, "patient": patient, "split": split}
    chosen = {"keep": keep, "size": size, "spacing": spacing, "window": window, "to": to}
    running = {"strict": strict, "dry_run": dry_run, "workers": workers}
    cases = _importer()(folder, table, name=name, **roles, **chosen, **running, **options)
    return cases if dry_run else load(to if to is not None else home() / name)


def _importer() -> Any:
    """The function of an installed package that imports images."""
    for point in entry_points(group="fedlab.datasets"):
        if function := getattr(point.load(), "import_images", None):
            return function
    raise ModuleNotFoundError("no installed package imports images: pip install fedlab-workbench")
