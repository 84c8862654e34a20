"""The one reader of images: values and metadata are honoured, or the file is refused by its name.

Pictures are turned upright as their tag says, shown on black where they are transparent, and scaled to 8 bits between
two percentiles if they hold more, so that one hot pixel changes nothing. NaN is drawn black, infinities black or white.
Volumes are turned so that their axes go to the right, to the front and upwards. `data_prep.reading` has one module for
each format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from data_prep.reading import dicom, itk, nifti, pictures, segmentation
from data_prep.reading.nifti import MILLIMETRES, NIFTI2_HEADER, Volume, volume
from data_prep.reading.pictures import PHOTOMETRIC, SCARCE, WHITE_IS_ZERO, picture
from data_prep.reading.scan import FORMATS, FRAMES, Person, Scan, decoding
from data_prep.reading.values import TAILS, labels, scaled, share, window

__all__ = [
    "FORMATS",
    "FRAMES",
    "MILLIMETRES",
    "NIFTI2_HEADER",
    "PHOTOMETRIC",
    "SCARCE",
    "TAILS",
    "WHITE_IS_ZERO",
    "Person",
    "Scan",
    "Volume",
    "companion",
    "decoding",
    "kind",
    "labels",
    "mask",
    "picture",
    "read",
    "scaled",
    "share",
    "volume",
    "window",
]

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k")
PORTABLE = (".pgm", ".ppm", ".pbm", ".pnm")
SUFFIXES = {
    "picture": PICTURES + PORTABLE,
    "dicom": (".dcm", ".dicom", ".ima", ".dcm.gz"),
    "nifti": (".nii", ".nii.gz"),
    "mgh": (".mgh", ".mgz"),
    "itk": itk.SUFFIXES,
}
HEADER, VOXELS = ".hdr", ".img"  # of one NIfTI or Analyze image in two files
OTHERS = {
    HEADER: "the header of an Analyze or NIfTI pair without its voxels (.img)",
    VOXELS: "the voxels of an Analyze or NIfTI pair without their header (.hdr)",
    ".mnc": "MINC",
    ".par": "PAR/REC",
    ".rec": "PAR/REC",
    ".brik": "AFNI",
    ".head": "AFNI",
    ".gii": "a surface",
    ".trk": "fibres",
    ".tck": "fibres",
    ".v": "ECAT",
}
PREAMBLE = 128  # bytes before the mark of a DICOM file
MARKS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF8")  # first bytes of pictures without an end of name


def kind(path: Path) -> str | None:
    """The format of a file by the end of its name, or by its first bytes; None if it is no image that is read."""
    name = path.name.lower()
    for found, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return found
    if path.suffix.lower() == HEADER and companion(path) is not None:
        return "pair"
    if path.suffix.lower() in OTHERS or name.endswith((".txt", ".csv", ".json", ".xlsx", ".pdf", ".gz", ".zip")):
        return None
    with path.open("rb") as file:
        start = file.read(PREAMBLE + 4)
    if start[PREAMBLE:] == b"DICM":
        return "dicom"
    return "picture" if start.startswith(MARKS) else None


def companion(path: Path) -> Path | None:
    """The file with the voxels of a header that is a file of its own; None if there is none."""
    if path.suffix.lower() == HEADER:
        return next(
            (path.with_suffix(end) for end in (VOXELS, VOXELS.upper()) if path.with_suffix(end).is_file()), None
        )
    return itk.voxels_of(path)


def read(paths: Path | Sequence[Path], frames: str = "refuse") -> list[Scan]:
    """Read a file of any known format, or the files of one DICOM series.

    Parameters
    ----------
    paths : Path or sequence of Path
        One file, or the slices of one series.
    frames : {"refuse", "first", "middle", "each"}
        What to do with a file that holds several pictures or volumes.

    Returns
    -------
    list of Scan
        One, or one for each frame.

    Raises
    ------
    ValueError
        If the file is damaged or cannot be read as an image, with its name and the reason.
    ModuleNotFoundError
        If the library that reads the format is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from data_prep import reader
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "x.png"
    ...     Image.new("L", (3, 2), 7).save(path)
    ...     (scan,) = reader.read(path)
    >>> scan.values.tolist(), scan.dimensions
    ([[7, 7, 7], [7, 7, 7]], 2)
    """
    several = [paths] if isinstance(paths, Path) else list(paths)
    path = several[0]
    name = str(path if len(several) == 1 else path.parent)
    found = kind(path)
    if len(several) > 1 and found != "dicom":
        raise ValueError(f"{name} holds {len(several)} files that are no DICOM series: name one file for each case")
    if found == "dicom":
        return dicom.scans(several, name, frames)
    if found == "itk":
        return itk.scans(path, name, frames)
    if found is None and path.suffix.lower() in OTHERS:
        raise ValueError(f"{name} is {OTHERS[path.suffix.lower()]}, which is not read: convert it to NIfTI (.nii.gz)")
    if found is None:
        raise ValueError(
            f"{name} is in no format that is read: wanted {', '.join(FORMATS)}, DICOM, NIfTI, MGH, NRRD or MetaImage"
        )
    content = path.read_bytes()
    voxels = companion(path) if found == "pair" else None
    if voxels is not None:
        return nifti.pair(content, voxels.read_bytes(), name, frames)
    if found in ("nifti", "mgh"):
        return nifti.scans(content, name, frames, mgh=found == "mgh")
    return pictures.scans(content, name, frames)


def mask(path: Path, image: Scan | None = None) -> tuple[NDArray[Any], Scan]:
    """The numbers of structures in a file, and the file as it was read: pictures by their palette, not its colours.

    A DICOM segmentation is put on the grid of the image.
    """
    if image is not None and kind(path) == "dicom" and (found := segmentation.mask(path, image)) is not None:
        return found, Scan(found, image.spacing, image.affine)
    if kind(path) == "picture":
        values = pictures.mask(path.read_bytes(), str(path))
        return values, Scan(values)
    (scan,) = read(path)
    if scan.colour:
        raise ValueError(f"{path} is in colour: a mask numbers its structures, save it as grey")
    return scan.values, scan
