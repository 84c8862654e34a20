"""IXI: T1-weighted MRI of healthy heads from three London hospitals, female or male, from a local download."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import local, reader, tables, writer
from data_prep.fetch import say
from fedlab.core.warnings import warn

DATASETS = {
    "ixi": "T1 MRI of healthy heads from three hospitals, female or male, with age; about 560 volumes, binary, any"
    " size, CC BY-SA 3.0; from a local download"
}

TERMS = local.Terms(
    name="ixi",
    licence="CC BY-SA 3.0",
    duty="name the IXI project as the source, and share what you derive from it under the same licence",
    url="https://brain-development.org/ixi-dataset/",
    needed="IXI-T1.tar (packed or not) and IXI.xls (or the same sheet saved as IXI.xlsx or IXI.csv)",
)
ARCHIVE = "IXI-T1.tar*"
VOLUME = re.compile(r"(IXI(\d+))-(Guys|HH|IOP)-\d+-T1\.nii(\.gz)?")  # IXI002-Guys-0828-T1.nii.gz
TABLES = ("IXI.xls", "IXI.xlsx", "IXI.csv")
NUMBER, SEX, AGE = COLUMNS = ("IXI_ID", "SEX_ID (1=m, 2=f)", "AGE")
PUBLISHED = {"IXI-T1.tar": "md5:34901a0593b41dd19c1a1f746eac2d58"}  # by TorchIO and MONAI; IXI itself gives none
CLASSES = ("male", "female")  # IXI's 1 and 2
HOSPITALS = {
    "Guys": ("Guy's Hospital", "Philips 1.5 T"),
    "HH": ("Hammersmith Hospital", "Philips 3 T"),
    "IOP": ("Institute of Psychiatry", "GE 1.5 T"),
}
FIELD = 240.0  # mm: edge of the cube that is kept around the centre of a scan; a head fits into it


def prepare(
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    size: int = 64,
    source: object = None,
    accept_licence: bool = False,
) -> Path:
    """Write IXI as a folder: a cube of 240 mm from each T1 volume. size: voxels along an edge.

    source: the folder of the download. accept_licence: True if you accept CC BY-SA 3.0.
    """
    card = _card(name, {"size": writer.edge(size, local.EDGES), "limit": limit})
    if local.prepared(folder, card, TERMS, source):
        return folder
    TERMS.consent(accept_licence)
    files = local.Files(TERMS, source, ARCHIVE)
    origin, demographics = files.table(COLUMNS, *TABLES)
    table, volumes = cases(sorted(files.places), demographics)
    return local.convert(
        folder, files, table, volumes, (1, size, size, size), partial(cube, size=size), card, [origin], PUBLISHED
    )


def cases(names: list[str], demographics: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """One row for each T1 volume of known sex, and its file; the file name gives the hospital."""
    scans = [name for name in names if name.endswith((".nii", ".nii.gz"))]
    found = [match for match in map(VOLUME.fullmatch, scans) if match]
    others = [name for name in scans if not VOLUME.fullmatch(name)]
    say(f"ixi: {len(found):,} of {len(scans):,} scans are T1 volumes of IXI" + _first(others, "not used"))
    stems = [match[0].split("-T1")[0] for match in found]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        both = ", ".join(match[0] for match in found if match[0].startswith(twice[0]))
        raise ValueError(f"there are two scans of {twice[0]} ({both}): remove or rename one of them")
    known = people(demographics).reindex([int(match[2]) for match in found])
    table = pd.DataFrame(
        {
            "case": stems,
            "label": known["sex"].to_numpy() - 1,
            "patient": [match[1] for match in found],
            "site": [HOSPITALS[match[3]][0] for match in found],
            "scanner": [HOSPITALS[match[3]][1] for match in found],
            "age": known["age"].to_numpy(),
        }
    )
    volumes = pd.Series([match[0] for match in found], dtype=object)
    known_sex = table["label"].notna()
    unknown = table["case"][~known_sex].tolist()
    say(f"ixi: {int(known_sex.sum()):,} of {len(table):,} scans are of known sex" + _first(unknown, "left out"))
    table = table[known_sex].astype({"label": "int64"})
    return table.assign(sex=table["label"].map(dict(enumerate(CLASSES)))), volumes[known_sex]


def _first(names: list[str], what: str) -> str:
    """The end of a message on names that are not used."""
    return f"; {len(names):,} are {what} (first: {names[0]})" if names else ""


def people(demographics: pd.DataFrame) -> pd.DataFrame:
    """sex (1, 2) and age in years of each IXI number; unknown where the sheet's rows of a person contradict each other.

    The sheet has two rows for some people, one of which is often filled with zeros.
    """
    number, sex = (tables.numbers(demographics[column], f"IXI, column {column}") for column in (NUMBER, SEX))
    number = number.where(number == number.round())
    age = tables.ages(demographics[AGE], f"IXI, column {AGE}")
    if unnamed := int(number.isna().sum()):
        warn(f"IXI, column {NUMBER}: {unnamed:,} of {len(number):,} rows have no number and are left out")
    rows = pd.DataFrame(
        {"number": number, "sex": sex.where(sex.isin([1, 2])), "age": age.where(age > 0).round(2)}
    ).dropna(subset=["number"])
    return rows.astype({"number": "int64"}).groupby("number").agg(_agreed)


def _agreed(values: pd.Series) -> float:
    """The value on which all rows agree, else NaN."""
    stated = values.dropna().unique()
    return float(stated[0]) if len(stated) == 1 else np.nan


def cube(content: bytes, size: int, name: str = "the scan") -> NDArray[np.uint8]:
    """A NIfTI volume as (1, size, size, size): left to right, back to front, bottom to top, with cubic voxels.

    The scan is smoothed where voxels are merged, and sampled linearly on a grid of 240 mm around its centre, along the
    axes of the scanner; outside the scan the cube is black. Intensities are scaled to the scan's own range.
    """
    from scipy import ndimage

    image = reader.volume(content, name, np.float32)
    scan = image.voxels.squeeze()
    if scan.ndim != 3:
        raise ValueError(f"{name} has shape {image.voxels.shape}: wanted one volume")
    low, high = reader.window(scan, name)
    scan = np.nan_to_num(scan, nan=low, posinf=high, neginf=low) if not np.isfinite(scan).all() else scan
    step = FIELD / size
    axes = np.linalg.inv(image.affine[:3, :3])  # voxels per mm along left-right, back-front, bottom-top
    merged = step * np.abs(axes).max(1)  # voxels of the scan that one of the cube covers, along each axis of the scan
    smooth = ndimage.gaussian_filter(scan, np.maximum(merged - 1, 0) / 2, mode="nearest")
    middle = (np.array(scan.shape) - 1) / 2
    corner = middle - axes @ np.full(3, step * (size - 1) / 2)
    sampled = ndimage.affine_transform(smooth, axes * step, corner, (size, size, size), order=1, cval=scan.min())
    return reader.scaled(sampled, low, high)[None]


def _card(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title="IXI, T1-weighted MRI",
        task="binary",
        classes=CLASSES,
        licence=TERMS.licence,
        source=TERMS.url,
        citation="IXI - Information eXtraction from Images (EPSRC GR/S21533/02), https://brain-development.org",
        caution="the label is the sex in the demographic sheet, since all participants are healthy; people whose sex is"
        " missing or contradictory are left out; intensities are scaled scan by scan; no brain masks",
        checksums={},
        options=options,
        modality="mri",
        orientation="RAS",
    )
