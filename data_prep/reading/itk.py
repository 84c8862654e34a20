"""NRRD and MetaImage by SimpleITK, turned so that axes go to the right, to the front and upwards."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.reading.nifti import upright
from data_prep.reading.scan import Scan, decoding, frames_of, library
from data_prep.reading.stacks import LPS

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DETACHED = (".nhdr", ".mhd")  # headers that name the file of the voxels
DATA_FILE = re.compile(r"^(?:ElementDataFile\s*=|data ?file\s*:)\s*(.+?)\s*$", re.M | re.I)
COLOURS = (3, 4)  # components of a pixel in colour, the fourth is how opaque it is


def scans(path: Path, name: str = "", frames: str = "refuse") -> list[Scan]:
    """Read a file as volumes, or as a picture if it has two axes."""
    name = name or str(path)
    sitk = library("SimpleITK", "NRRD and MetaImage")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with decoding(name, "save it again"):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
        stored = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in stored or (components > 1 and (dimension != 2 or components not in COLOURS)):
        raise ValueError(
            f"{name} stores {stored} with {components} components in each voxel: wanted one real number, or a"
            " picture in colour"
        )
    with decoding(name, "save it again"):
        image = reader.Execute()
        values = sitk.GetArrayFromImage(image)
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    if dimension == 2:
        if components > 1:
            return [Scan(values[..., :3], colour=True, window=(0.0, 255.0) if values.dtype == np.uint8 else None)]
        return [Scan(values, tuple(reversed(image.GetSpacing())))]
    oriented = path.suffix.lower() not in (".nrrd", ".nhdr") or image.HasMetaDataKey("NRRD_space")
    affine = _affine(image, dimension)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < np.finfo(np.float32).tiny:
        raise ValueError(f"{name} states no orientation that can be inverted, {affine.tolist()}: correct its header")
    if dimension == 3:
        return [upright(values.transpose(2, 1, 0), affine, oriented, (), name)]
    shape = " x ".join(map(str, reversed(values.shape)))
    chosen = frames_of(len(values), frames, name, f"volumes (its shape is {shape})")
    return [upright(values[place].transpose(2, 1, 0), affine, oriented, (), name) for place in chosen]


def voxels_of(path: Path) -> Path | None:
    """The file that a detached header names; None if there is none, or several."""
    found = DATA_FILE.search(path.read_text(encoding="latin-1")) if path.suffix.lower() in DETACHED else None
    named = path.parent / found[1] if found else path
    return named if named != path and named.is_file() else None


def _affine(image: Any, dimension: int) -> NDArray[np.float64]:
    """The place of the first three axes, to the right, to the front and upwards."""
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return LPS @ affine
