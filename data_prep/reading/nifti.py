"""NIfTI and MGH volumes by nibabel, turned so that axes go to the right, to the front and upwards."""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data_prep.reading.scan import Scan, decoding, frames_of

MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # of a unit of length in a NIfTI header; others are mm
NIFTI2_HEADER = 540  # bytes, the first number of a file
MARK = slice(344, 347)  # where the header of a NIfTI file says so
ANALYZE = "an Analyze file states no orientation: left and right may be exchanged"
AGREE = 0.01  # relative difference of voxel sizes, and of directions, that is rounding
SHEAR = 0.02  # cosine between two axes, above which voxels are no boxes

Open = Callable[[], Any]  # opens an image with nibabel


@dataclass(frozen=True)
class Volume:
    """Voxels, their place (4, 4) in mm from left to right, back to front and bottom to top, and the stored type."""

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    stored: str


def volume(content: bytes, name: str = "the volume", dtype: DTypeLike | None = None) -> Volume:
    """Decode a NIfTI file, gzipped or not. dtype: of the voxels, by default as stored and scaled.

    Raises ValueError with `name` for a file that is damaged (DamagedError), holds colours or complex numbers, or whose
    orientation cannot be inverted.
    """
    return _volume(_single(content), name, dtype)[0]


def scans(content: bytes, name: str = "the volume", frames: str = "refuse", mgh: bool = False) -> list[Scan]:
    """Decode a file as volumes whose axes go to the right, to the front and upwards; a single slice is a picture."""
    return _scans(_single(content, mgh), name, frames)


def acquired(content: bytes, name: str = "the volume") -> list[Scan]:
    """Decode a file as volumes whose axes stay as they are stored, e.g. slices along the last; none has a place.

    For oblique slices, such as short axes of hearts, of which the nearest anatomical axis differs between patients.
    """
    from nibabel.affines import voxel_sizes

    found, _ = _volume(_single(content), name)
    voxels: Any = found.voxels.astype(np.float32) if found.voxels.dtype == np.float64 else found.voxels
    series = voxels.reshape(*(*voxels.shape, 1, 1)[:3], -1)
    spacing = tuple(float(size) for size in voxel_sizes(found.affine))
    return [Scan(series[..., place], spacing) for place in range(series.shape[3])]


def pair(header: bytes, voxels: bytes, name: str = "the volume", frames: str = "refuse") -> list[Scan]:
    """Decode a NIfTI or Analyze image whose header and voxels are two files, as `scans` does."""
    return _scans(partial(_pair, header, voxels), name, frames)


def _single(content: bytes, mgh: bool = False) -> Open:
    """What opens a file, unpacked if it is gzipped."""
    import nibabel

    def opened() -> Any:
        body = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        nifti = nibabel.Nifti2Image if _is_second(body) else nibabel.Nifti1Image
        return (nibabel.MGHImage if mgh else nifti).from_bytes(body)

    return opened


def _pair(header: bytes, voxels: bytes) -> Any:
    """Open an image of two files: NIfTI if its header says so, else Analyze."""
    import nibabel

    nifti: Any = nibabel.Nifti2Pair if _is_second(header) else nibabel.Nifti1Pair
    kind = nifti if _is_second(header) or header[MARK] in (b"ni1", b"n+1") else nibabel.Spm99AnalyzeImage
    files = {"header": io.BytesIO(header), "image": io.BytesIO(voxels)}
    files |= {"mat": io.BytesIO()} if kind is nibabel.Spm99AnalyzeImage else {}  # a place that SPM may state: none
    return kind.from_file_map({part: nibabel.FileHolder(fileobj=file) for part, file in files.items()})


def _is_second(header: bytes) -> bool:
    """Whether a header is of NIfTI-2."""
    return NIFTI2_HEADER in (int.from_bytes(header[:4], order) for order in ("little", "big"))


def _volume(opened: Open, name: str, dtype: DTypeLike | None = None) -> tuple[Volume, Any]:
    """Decode an image; returns its header, too."""
    with decoding(name):
        image = opened()
        stored = image.get_data_dtype()
        real = stored.kind in "biuf"
        voxels = np.asarray(image.dataobj, dtype) if real else np.zeros(0)
        affine = np.array(image.affine, np.float64)
        if hasattr(image.header, "get_xyzt_units"):
            affine[:3] *= MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    if not real:
        raise ValueError(f"{name} stores {stored} in each voxel: wanted one real number, convert it to grey values")
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        raise ValueError(f"{name} states no orientation that can be inverted, {affine.tolist()}: correct its header")
    return Volume(voxels, affine, str(stored)), image.header


def _scans(opened: Open, name: str, frames: str) -> list[Scan]:
    """Decode an image as volumes."""
    found, header = _volume(opened, name)
    voxels: Any = found.voxels.astype(np.float32) if found.voxels.dtype == np.float64 else found.voxels
    shape = (*voxels.shape, 1, 1)
    voxels = voxels.reshape(shape[:3] + tuple(edge for edge in shape[3:] if edge > 1))
    oriented, notes = _orientation(header, name)
    if voxels.ndim == 3:
        return [upright(voxels, found.affine, oriented, notes, name)]
    edges = " x ".join(map(str, voxels.shape))
    series = voxels.reshape(*voxels.shape[:3], -1)
    chosen = frames_of(series.shape[3], frames, name, f"volumes (its shape is {edges})")
    return [upright(series[..., place], found.affine, oriented, notes, name) for place in chosen]


def upright(
    voxels: NDArray[Any], affine: NDArray[np.float64], oriented: bool, notes: tuple[str, ...], name: str
) -> Scan:
    """Turn axes to right, anterior, superior, without resampling; a volume of one slice becomes a picture.

    A slice is shown as DICOM stores one: the patient's right on the left, the front or the head at the top. Raises
    ValueError for axes that are not at right angles, and for what is no image.
    """
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    columns = affine[:3, :3] / voxel_sizes(affine)
    if (shear := np.abs(columns.T @ columns - np.eye(3)).max()) > SHEAR:
        angle = 90 - np.degrees(np.arccos(min(shear, 1)))
        raise ValueError(
            f"{name} has axes that are {angle:.1f} degrees off a right angle, as after a tilted gantry: resample it to"
            " boxes first, e.g. with dcm2niix or SimpleITK"
        )
    turn = io_orientation(affine)
    placed = affine @ inv_ornt_aff(turn, voxels.shape)
    turned = apply_orientation(voxels, turn)
    spacing = tuple(float(size) for size in voxel_sizes(placed))
    if not oriented and not notes:
        notes = ("states no orientation: axes are kept as nibabel reads them",)
    turned = np.array(turned, turned.dtype.newbyteorder("="), order="K")  # the axes stay as they are in memory
    thin = [axis for axis, edge in enumerate(turned.shape) if edge == 1]
    if len(thin) > 1:
        raise ValueError(f"{name} has the shape {' x '.join(map(str, turned.shape))}: wanted a picture or a volume")
    if len(thin) == 1:
        flat = np.ascontiguousarray(turned.squeeze(thin[0]).T[::-1, ::-1])
        kept = [size for axis, size in enumerate(spacing) if axis != thin[0]]
        return Scan(flat, (kept[1], kept[0]), notes=notes)
    return Scan(turned, spacing, placed if oriented else None, notes=notes)


def _orientation(header: Any, name: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a header states an orientation; ValueError if its two ways to state one contradict each other."""
    from nibabel.affines import voxel_sizes
    from nibabel.freesurfer import MGHImage
    from nibabel.orientations import aff2axcodes

    if not hasattr(header, "get_qform"):
        return (True, ()) if isinstance(header, MGHImage.header_class) else (False, (ANALYZE,))
    with decoding(name):
        (q, q_code), (s, s_code) = header.get_qform(coded=True), header.get_sform(coded=True)
    if not (q_code and s_code):
        return bool(q_code or s_code), ()
    sizes = np.array([voxel_sizes(q), voxel_sizes(s)])
    names = ["".join(code or "?" for code in aff2axcodes(each)) for each in (q, s)]
    if names[0] != names[1] or np.abs(sizes[0] - sizes[1]).max() > AGREE * sizes.max():
        raise ValueError(
            f"{name} states two places that contradict each other (qform: axes {names[0]}, voxels {_mm(sizes[0])};"
            f" sform: axes {names[1]}, voxels {_mm(sizes[1])}): left and right may be exchanged, correct its header"
        )
    same = np.allclose(q[:3, :3], s[:3, :3], atol=AGREE * sizes.max())
    return True, () if same else ("qform and sform differ a little: the sform is used",)


def _mm(sizes: NDArray[np.float64]) -> str:
    """`1 x 1 x 2.5 mm`"""
    return f"{' x '.join(f'{size:.4g}' for size in sizes)} mm"
