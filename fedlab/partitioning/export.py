"""Export a federation: a folder for each site, with images, masks and a table that any program reads."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.files import file_name, resolve, scratch_folder, write_json, write_text
from fedlab.core.registry import choose
from fedlab.data.cases import Cases
from fedlab.data.columns import canonical, kind_of
from fedlab.data.extents import cut_outs
from fedlab.partitioning.partitions import Partition

MANIFEST = "export.json"  # says how the folder is imported
TABLE = "cases.csv"
FORMATS = ("png", "nifti")
ENDS = {"png": ".png", "nifti": ".nii.gz"}
BATCH = 64  # images in memory
FULL = 255
JOIN = "|"  # between the findings of a case
NOTHING = "no finding"
KEEP = "keep"  # size of images of unequal size: each its own
MISSING = {"", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # cells without a value


def export_sites(part: Partition, folder: str | Path, format: str | None = None) -> Path:
    """Write the images, masks and tables of a federation as one folder for each site.

    Images are those that the scanner of the site shows, labels and masks those that its models learn from. `folder`
    holds `cases.csv` with all cases, and for each site a folder with `images`, `masks` and a `cases.csv` of its own.
    Cases of no site are left out. `fedlab.import_images(folder, name=...)` and `python -m data_prep import` bring back
    the same pixels, masks and table.

    Parameters
    ----------
    part : Partition
        The federation.
    folder : str or Path
        A folder that does not exist yet.
    format : {"png", "nifti"}, optional
        By default PNG for pictures and NIfTI for volumes. Images of float16 become 8 bits in PNG, the nearest of 256
        values; NIfTI keeps them as float32, of which an import makes 8 bits.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the format does not hold such images: PNG no volumes, NIfTI no colours; or if a cell of the table would not
        come back from CSV.
    FileExistsError
        If the folder exists already.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=60, size=16)"), sites=2)
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = fedlab.export_sites(part, Path(parent) / "federation")
    ...     sorted(path.name for path in folder.iterdir())
    ['Site_A', 'Site_B', 'cases.csv', 'export.json']
    """
    cases, target = part.cases, resolve(folder)
    smallest = cases.shape if cases.extents is None else (cases.shape[0], *cases.extents.min(axis=0).tolist())
    chosen, spacing = _format(smallest, format), _spacing(cases)
    table = _table(part, ENDS[chosen])
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another folder or remove it first")
    with scratch_folder(target.parent) as scratch:
        half = scratch / "half"
        for site in part.sites:
            own = table[(part.table["site"] == site).to_numpy()]
            rows = part.rows[(part.table["site"] == site).to_numpy()]
            for start in range(0, len(rows), BATCH):
                some, lines = rows[start : start + BATCH], own.iloc[start : start + BATCH]
                extents = None if cases.extents is None else cases.extents[some]
                _write_all(half, lines["image"], cut_outs(part.pixels(some, site), extents), spacing)
                if cases.masks is not None:
                    masks = part.training_masks(some, site)[:, None]
                    _write_all(half, lines["mask"], cut_outs(masks, extents), spacing)
            below = own["image"].iloc[0].split("/")[0]
            inside = {
                column: own[column].str.removeprefix(f"{below}/") for column in own if column in ("image", "mask")
            }
            write_text(half / below / TABLE, _csv(own.assign(**inside)))
        write_text(half / TABLE, _csv(table))
        write_json(half / MANIFEST, _manifest(part, table, chosen))
        half.rename(target)
    return target


def _format(shape: tuple[int, ...], format: str | None) -> str:
    """The format of images (channels, height, width[, depth])."""
    volume = len(shape) == 4
    chosen = format or ("nifti" if volume else "png")
    choose("format", chosen, FORMATS)
    if volume and (chosen == "png" or 1 in shape[1:]):
        raise ValueError(f"images have the shape {shape}: volumes need format='nifti', and two voxels along each axis")
    if shape[0] not in ((1, 3) if chosen == "png" else (1,)):
        raise ValueError(f"images have {shape[0]} channels: PNG holds one or three, NIfTI one, found {chosen!r}")
    return chosen


def _table(part: Partition, end: str) -> pd.DataFrame:
    """The texts of cases.csv: paths, case, label, site and split, then the other columns of the dataset."""
    cases = part.cases
    own = cases.table.iloc[part.rows].reset_index(drop=True)
    sites = part.table["site"].to_numpy(object)
    columns = {
        "case": own["case"],
        "label": pd.Series(_labels(part)),
        "site": part.table["site"].reset_index(drop=True),
    }
    columns["split"] = part.table["split"].reset_index(drop=True)
    native = "site" in own and not (own["site"].to_numpy(object) == sites).all()
    others = own.drop(columns=["case", "label", "split"], errors="ignore").rename(columns={"site": "native_site"})
    others = others if native else others.drop(columns="native_site", errors="ignore")
    if taken := sorted({"image", "mask"} & set(others)):
        raise ValueError(f"the table has a column {taken[0]!r}, which an export needs for paths: rename it")
    columns |= {str(column): others[column] for column in others}
    if "annotated" in part.table:
        columns["true_label"] = pd.Series([cases.labels[row] for row in part.rows])
    texts = {name: _texts(name, values) for name, values in columns.items()}
    names = _paths(sites, own["case"], end)
    paths = {"image": [name.format("images") for name in names]}
    paths |= {"mask": [name.format("masks") for name in names]} if cases.masks is not None else {}
    return pd.DataFrame({**paths, **texts}, dtype="string")


def _labels(part: Partition) -> list[str]:
    """The name of the class of each case, or of its findings, as models learn from it."""
    labels = np.zeros(len(part.cases), np.int64)
    for site in part.sites:
        rows = part.rows[(part.table["site"] == site).to_numpy()]
        labels[rows] = part.training_labels(rows, site)
    names = part.cases.classes
    if part.cases.task != "multilabel":
        return [names[label] for label in labels[part.rows]]
    if wrong := [name for name in names if JOIN in name or name.casefold() == NOTHING]:
        raise ValueError(f"the finding {wrong[0]!r} cannot be separated from others in a list: rename it")
    found = [[name for place, name in enumerate(names) if label >> place & 1] for label in labels[part.rows].tolist()]
    return [JOIN.join(each) or NOTHING for each in found]


def _texts(name: str, values: pd.Series) -> list[str]:
    """Cells that a reader of CSV takes for the same values; empty where a value is missing."""
    missing = values.isna().to_numpy(bool)
    if kind_of(values) != "string":
        return ["" if gone else text for gone, text in zip(missing, canonical(values), strict=True)]
    texts = ["" if gone else str(value) for gone, value in zip(missing, values, strict=True)]
    numbers = [text for text in texts if text and name not in ("case", "patient", "label", "site", "split")]
    changed = [text for text in texts if text != text.strip()]
    changed += [text for text, gone in zip(texts, missing, strict=True) if text in MISSING and not gone]
    if numbers and not any(re.match(r"[-+]?0\d", text) for text in numbers):
        read = pd.to_numeric(pd.Series(numbers).str.replace(",", ".", regex=False), errors="coerce")
        if read.notna().all():
            changed += [text for text in numbers if not re.fullmatch(r"-?\d{1,15}", text)]
    if changed:
        raise ValueError(f"column {name!r} holds {changed[0]!r}, which would not come back from CSV: change or drop it")
    return texts


def _paths(sites: NDArray[Any], names: Iterable[str], end: str) -> list[str]:
    """A path for each case, `Site_A/{}/case-1.png`: safe on every system, and no two that differ by case alone."""
    folders: dict[str, str] = {}
    used: set[str] = set()
    found = []
    for site, name in zip(sites, names, strict=True):
        if site not in folders:
            folders[site] = _unused(file_name(site) or "site", used)
        found.append(f"{folders[site]}/{{}}/{_unused(file_name(name) or 'case', used, folders[site])}{end}")
    return found


def _unused(name: str, used: set[str], folder: str = "") -> str:
    """The name, with a number if it is taken."""
    plain = name.strip(".") or "case"
    free, number = plain, 2
    while f"{folder}/{free}".casefold() in used:
        free, number = f"{plain}-{number}", number + 1
    used.add(f"{folder}/{free}".casefold())
    return free


def _spacing(cases: Cases) -> Sequence[float]:
    """Edges of a voxel in mm, which an import keeps of images of unequal size; else 1 mm, as all are resampled."""
    stated = cases.card.get("spacing") if cases.extents is not None else None
    return stated if stated is not None and len(stated) == 3 else (1.0, 1.0, 1.0)


def _write_all(
    folder: Path, names: pd.Series, images: NDArray[Any] | list[NDArray[Any]], spacing: Sequence[float]
) -> None:
    """Write images (n, channels, height, width[, depth]), or a list of images of unequal size."""
    for name, image in zip(names, images, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(ENDS["png"]):
            _write_png(path, image)
        else:
            _write_nifti(path, image, spacing)


def _write_png(path: Path, image: NDArray[Any]) -> None:
    """Write (1 or 3, height, width) as grey or colours of 8 bits."""
    from PIL import Image

    values = image if image.dtype == np.uint8 else np.rint(image.astype(np.float32) * FULL).astype(np.uint8)
    Image.fromarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)).save(path)


def _write_nifti(path: Path, image: NDArray[Any], spacing: Sequence[float]) -> None:
    """Write (1, height, width[, depth]) with these voxels; a picture as one slice, as radiologists see it."""
    import nibabel

    values = image[0] if image.dtype == np.uint8 else image[0].astype(np.float32)
    voxels = values if values.ndim == 3 else values[::-1, ::-1].T[..., None]
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)


def _csv(table: pd.DataFrame) -> str:
    """The table as CSV."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(table.columns)
    lines.writerows(table.itertuples(index=False, name=None))
    return text.getvalue()


def _manifest(part: Partition, table: pd.DataFrame, chosen: str) -> dict[str, Any]:
    """How the folder is imported."""
    cases = part.cases
    roles = [name for name in ("image", "mask", "case", "label", "site", "split", "patient") if name in table]
    exact = cases.images.dtype == np.float16 and chosen == "nifti"
    return {
        "table": TABLE,
        "columns": {name: name for name in roles},
        "keep": [name for name in table if name not in roles],
        "size": list(cases.shape[1:]) if cases.extents is None else KEEP,
        "window": "0:1" if exact else f"0:{FULL}",
        "task": cases.task,
        "classes": cases.classes,
        "structures": cases.structures if cases.masks is not None else None,
        "licence": str(cases.card.get("licence") or "not stated"),
        "modality": cases.card.get("modality") or None,
        "orientation": str(cases.card.get("orientation") or ""),
        **({"overlap": True} if cases.overlap else {}),
        **({"target": cases.target} if cases.target else {}),
    }
