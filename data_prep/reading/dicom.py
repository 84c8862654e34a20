"""DICOM by pydicom and its decoders: one picture, several frames, or the slices of a series as a volume.

Values are what the header says they mean: rescaled, without padding, palettes looked up. The window, the lookup table
and the inversion (MONOCHROME1) by which the header wants them shown are kept with them.
"""

import gzip
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.reading import identity
from data_prep.reading.nifti import upright
from data_prep.reading.scan import Scan, decoding, frames_of, library
from data_prep.reading.stacks import Slice, stack

REMEDY = "export it again, or convert it to an uncompressed DICOM file"
NO_IMAGES = {
    "RTDOSE": "a dose",
    "SEG": "a segmentation, which can be the mask of an image",
    "RTSTRUCT": "contours",
    "RTPLAN": "a treatment plan",
    "PR": "a presentation state",
    "KO": "a list of objects",
    "SR": "a report",
    "REG": "a registration",
    "ECG": "a waveform",
}
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
GROUPING: tuple[str, ...] = ("SOPClassUID", "Modality", "SeriesInstanceUID", "NumberOfFrames", "Rows")
GROUPING += ("ImagePositionPatient", "ImageOrientationPatient")
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True)
class Header:
    """What decides how files belong together: the series, and whether the file states its place."""

    series: str
    placed: bool
    frames: int
    pixels: bool
    segments: bool = False


def header(path: Path) -> Header:
    """Read what decides how files belong together, without pixels."""
    with quiet(), decoding(str(path), REMEDY):
        found = opened(path, str(path), stop_before_pixels=True, specific_tags=list(GROUPING))
        placed = "ImagePositionPatient" in found and "ImageOrientationPatient" in found
        frames = int(found.get("NumberOfFrames") or 1)
        modality = str(found.get("Modality"))
        pixels = "Rows" in found and modality not in NO_IMAGES
        return Header(str(found.get("SeriesInstanceUID", "")), placed, frames, pixels, modality == "SEG")


def scans(paths: Sequence[Path], name: str = "", frames: str = "refuse") -> list[Scan]:
    """Read one file, or the files of one series, which become a volume.

    frames: what to do with several frames that state no place of their own.
    """
    name = name or str(paths[0])
    with quiet():
        if len(paths) == 1:
            return _single(opened(paths[0], name), name, frames)
        return [_series(paths, name)]


def _single(dataset: Any, name: str, frames: str) -> list[Scan]:
    """One file: a picture, a volume of placed frames, or a choice of frames."""
    pixels = _pixels(dataset, name)
    common = {"facts": identity.facts(dataset), "person": identity.person(dataset)}
    count = len(pixels)
    if count > 1 and dataset.get("PerFrameFunctionalGroupsSequence"):
        slices = [
            Slice(_grey(dataset, values, place, name), *place_of(dataset, place), f"frame {place + 1}")
            for place, values in enumerate(pixels)
        ]
        if _is_grey(dataset) and all(each.position and each.orientation for each in slices):
            return [_placed(slices, name, _window(dataset, count // 2), dataset, common)]
    chosen = [0] if count == 1 else frames_of(count, frames, name, "frames without a place of their own")
    return [_picture(dataset, pixels[place], place, name, common) for place in chosen]


def _picture(dataset: Any, pixels: NDArray[Any], place: int, name: str, common: dict[str, Any]) -> Scan:
    """One frame as a picture."""
    _, _, spacing = place_of(dataset, place)
    if not _is_grey(dataset):
        values, full = _colours(dataset, pixels, name)
        return Scan(values, spacing, colour=True, window=(0.0, full), notes=_notes(dataset), **common)
    values = _grey(dataset, pixels, place, name)
    return Scan(
        values,
        spacing,
        window=_window(dataset, place),
        display=_curve(dataset, values, name),
        inverted=_inverted(dataset),
        hounsfield=_hounsfield(dataset),
        notes=_notes(dataset),
        **common,
    )


def _series(paths: Sequence[Path], name: str) -> Scan:
    """The slices of one series as a volume."""
    kept = _distinct([(path, opened(path, str(path))) for path in paths])
    datasets = [each for _, each in kept]
    series = {str(each.get("SeriesInstanceUID", "")) for each in datasets}
    if len(series) > 1:
        kinds = sorted({str(each.get("Modality", "")) for each in datasets})
        raise ValueError(
            f"{name} holds {len(series)} series ({len(datasets)} files, {', '.join(kinds)}): keep one series in a"
            " folder, or name a file of it"
        )
    slices = []
    for path, each in kept:
        if not _is_grey(each):
            raise ValueError(f"{name} holds a series in colour: import each file as a picture")
        pixels = _pixels(each, str(path))
        if len(pixels) != 1:
            raise ValueError(f"{name} holds several files of several frames each: import each file for itself")
        label = str(each.get("InstanceNumber") or path.name)
        slices.append(Slice(_grey(each, pixels[0], 0, str(path)), *place_of(each, 0), f"slice {label}"))
    middle = datasets[len(datasets) // 2]
    inverted = {_inverted(each) for each in datasets}
    if len(inverted) > 1:
        raise ValueError(f"{name} holds slices of MONOCHROME1 and MONOCHROME2: keep one series in a folder")
    common = {"facts": identity.facts(middle), "person": _together([identity.person(each) for each in datasets])}
    extra = (f"{len(paths) - len(datasets)} copies of slices left out",) if len(paths) > len(datasets) else ()
    return _placed(slices, name, _window(middle, 0), middle, common, extra)


def _placed(
    slices: list[Slice],
    name: str,
    window: tuple[float, float] | None,
    dataset: Any,
    common: dict[str, Any],
    extra: tuple[str, ...] = (),
) -> Scan:
    """Slices with positions as a volume."""
    voxels, affine = stack(slices, name)
    volume = upright(voxels, affine, True, (*_notes(dataset), *extra), name)
    shown: dict[str, Any] = {"window": window, "inverted": _inverted(dataset), "hounsfield": _hounsfield(dataset)}
    return Scan(volume.values, volume.spacing, volume.affine, notes=volume.notes, **shown, **common)


def _together(persons: list[identity.Person]) -> identity.Person:
    """What the headers of one series say, taken together."""
    first = persons[0]
    if len({each.patient for each in persons}) > 1:
        raise ValueError("the files of one series name different patients: keep one series in a folder")
    tags = sorted({tag for each in persons for tag in each.tags})
    burned = next((each.burned for each in persons if each.burned), "")
    return identity.Person(first.patient, first.institution, first.words, tuple(tags), burned)


def _distinct(datasets: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Files of a series without those that are copies: the same instance, at the same place."""
    kept: dict[tuple[str, str], tuple[Path, Any]] = {}
    for path, each in datasets:
        key = (str(each.get("SOPInstanceUID") or path), str(each.get("ImagePositionPatient", "")))
        kept.setdefault(key, (path, each))
    return list(kept.values())


def opened(path: Path, name: str, **options: Any) -> Any:
    """Open a file, with or without its preamble; ValueError if it holds no DICOM."""
    pydicom = library("pydicom", "DICOM")
    packed = path.suffix.lower() == ".gz"
    content: Any = path if options and not packed else io.BytesIO(_content(path, name, packed))
    try:
        found = pydicom.dcmread(content, **options)
    except pydicom.errors.InvalidDicomError:
        if isinstance(content, io.BytesIO):
            content.seek(0)
        with decoding(name, REMEDY):
            found = pydicom.dcmread(content, force=True, **options)
        if "SOPClassUID" not in found and "Rows" not in found:
            raise ValueError(f"{name} is no DICOM file: it has neither a preamble nor an image") from None
    except OSError:
        raise
    except Exception as error:
        with decoding(name, REMEDY):
            raise error
    if "TransferSyntaxUID" not in getattr(found, "file_meta", {}):
        implicit, little = found.original_encoding
        uid = pydicom.uid
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        if not hasattr(found, "file_meta"):
            found.file_meta = pydicom.dataset.FileMetaDataset()
        found.file_meta.TransferSyntaxUID = syntax if little else uid.ExplicitVRBigEndian
    return found


def _content(path: Path, name: str, packed: bool) -> bytes:
    """The bytes of a file, unpacked."""
    content = path.read_bytes()
    with decoding(name, REMEDY):
        return gzip.decompress(content) if packed else content


def _pixels(dataset: Any, name: str) -> list[NDArray[Any]]:
    """The stored values of each frame; ValueError for what is no image."""
    modality = str(dataset.get("Modality", ""))
    if "DirectoryRecordSequence" in dataset:
        raise ValueError(f"{name} is a DICOMDIR, a list of other files: name the files or their folder")
    if modality in NO_IMAGES:
        raise ValueError(f"{name} holds {NO_IMAGES[modality]} ({modality}) and no image: leave it out")
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError(f"{name} holds no pixels (modality {modality or 'not stated'}): leave it out")
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        raise ValueError(f"{name} is a mosaic, many slices in one picture: convert it to NIfTI, e.g. with dcm2niix")
    return stored(dataset, name)


def stored(dataset: Any, name: str) -> list[NDArray[Any]]:
    """The values of each frame as they are in the file."""
    with decoding(name, REMEDY):
        pixels = dataset.pixel_array
        colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    return [pixels] if pixels.ndim == 2 + colour else list(pixels)


def _is_grey(dataset: Any) -> bool:
    return int(dataset.get("SamplesPerPixel", 1)) == 1 and dataset.get("PhotometricInterpretation") != PALETTE


def _grey(dataset: Any, pixels: NDArray[Any], place: int, name: str) -> NDArray[Any]:
    """Grey values as they are meant: without bits that are not stored, padding as NaN, rescaled."""
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in GREY:
        raise ValueError(f"{name} has the photometric interpretation {photometric!r}: wanted grey, colour or a palette")
    values = pixels
    padding = _padding(dataset, values)
    with decoding(name, REMEDY):
        if dataset.get("ModalityLUTSequence"):
            values = library("pydicom.pixels", "DICOM").apply_modality_lut(values, dataset)
        else:
            slope, intercept = _rescale(dataset, place)
            if slope == 0:
                raise ValueError("its rescale slope is 0, which makes all values equal")
            if (slope, intercept) != (1.0, 0.0):
                exact = values.dtype.itemsize <= 2 and slope in (1.0, -1.0) and intercept.is_integer()  # in float32
                scaled: Any = values.astype(np.float32 if exact else np.float64)
                values = (scaled * slope + intercept).astype(np.float32)
    if padding is not None and padding.any():
        values = values.astype(np.float32)
        values[padding] = np.nan
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def _padding(dataset: Any, values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the header says that there is no value."""
    low = dataset.get("PixelPaddingValue")
    if not isinstance(low, int):
        return None
    high = dataset.get("PixelPaddingRangeLimit")
    bounds = sorted((low, high if isinstance(high, int) else low))
    found = (values >= bounds[0]) & (values <= bounds[1])
    return None if found.all() else found


def _rescale(dataset: Any, place: int) -> tuple[float, float]:
    """Slope and intercept of a frame; (1, 0) if none are stated."""
    source = group_of(dataset, place, "PixelValueTransformationSequence") or dataset
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(intercept or 0)


def _colours(dataset: Any, pixels: NDArray[Any], name: str) -> tuple[NDArray[Any], float]:
    """Colours and the value that is brightest."""
    if dataset.get("PhotometricInterpretation") == PALETTE:
        with decoding(name, REMEDY):
            looked_up = library("pydicom.pixels", "DICOM").apply_color_lut(pixels, dataset)
            bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        deep = looked_up[..., :3]
        # tables of 16 bits may hold 8, and say so or not
        return deep, 255.0 if bits <= 8 or int(deep.max(initial=0)) < 256 else 65535.0
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"{name} holds {pixels.shape[-1]} samples in each pixel: wanted grey, or three colours")
    return pixels, float(2 ** int(dataset.get("BitsStored", 8)) - 1)


def group_of(dataset: Any, place: int, keyword: str) -> Any:
    """The first item of a functional group of a frame, its own or the shared one; None if there is none."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (own[place : place + 1], shared[:1]):
        for group in groups:
            if group.get(keyword):
                return group[keyword][0]
    return None


def place_of(dataset: Any, place: int) -> tuple[Any, Any, Any]:
    """Position (3,), directions (6,) and spacing (row, column) of a frame; None where not stated."""
    position = (group_of(dataset, place, "PlanePositionSequence") or dataset).get("ImagePositionPatient")
    orientation = (group_of(dataset, place, "PlaneOrientationSequence") or dataset).get("ImageOrientationPatient")
    measures = group_of(dataset, place, "PixelMeasuresSequence") or dataset
    spacing = next((measures[key].value for key in SPACINGS if measures.get(key)), None)
    return _numbers(position, 3), _numbers(orientation, 6), _positive(_numbers(spacing, 2))


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """As many numbers as wanted; None if there are others."""
    try:
        numbers = tuple(float(value) for value in values or ())
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(np.isfinite, numbers)) else None


def _positive(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return values if values and min(values) > 0 else None


def _hounsfield(dataset: Any) -> bool:
    """Whether values are Hounsfield units: of CT, rescaled, and to no other unit."""
    source = group_of(dataset, 0, "PixelValueTransformationSequence") or dataset
    unit = str(source.get("RescaleType") or "HU").upper()
    return dataset.get("Modality") == "CT" and "RescaleIntercept" in source and unit.startswith("HU")


def _inverted(dataset: Any) -> bool:
    """Whether low values are shown white."""
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        return True
    return str(dataset.get("PresentationLUTShape", "")).upper() == "INVERSE"


def _window(dataset: Any, place: int) -> tuple[float, float] | None:
    """The values that the header shows black and white: of the first window; None if it states none."""
    source = group_of(dataset, place, "FrameVOILUTSequence") or dataset
    centre, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    exact = str(source.get("VOILUTFunction", "LINEAR")).upper() == "LINEAR_EXACT"
    if centre is None or width is None or width < (0 if exact else 1):
        return None
    shift, span = (0.0, width) if exact else (0.5, width - 1)
    return centre - shift - span / 2, centre - shift + span / 2


def _first(value: Any) -> float | None:
    """The first number of a field that may hold several; None if it holds none."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    found = (value[0] if len(value) else None) if several or hasattr(value, "append") else value
    try:
        return None if found in (None, "") else float(found)
    except (TypeError, ValueError):
        return None


def _curve(dataset: Any, values: NDArray[Any], name: str) -> NDArray[np.float32] | None:
    """Values as the header shows them, 0 to 1, if it has a lookup table or a curve; else None."""
    if dataset.get("VOILUTSequence"):
        with decoding(name, REMEDY):
            whole = np.nan_to_num(np.rint(values), nan=float(np.nanmin(values))).astype(np.int64)
            table = dataset.VOILUTSequence[0]
            found = library("pydicom.pixels", "DICOM").apply_voi(whole, dataset)
            top = max(2 ** int(table.LUTDescriptor[2]) - 1, int(found.max(initial=0)))
        return (found / top).astype(np.float32)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if str(dataset.get("VOILUTFunction", "")).upper() == "SIGMOID" and centre is not None and width:
        return (1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))).astype(np.float32)
    return None


def _notes(dataset: Any) -> tuple[str, ...]:
    """What was done that a reader may not expect."""
    notes = []
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        notes.append("MONOCHROME1: inverted, so that high values are bright")
    if dataset.get("Modality") == "CT" and "RescaleIntercept" not in dataset and _is_grey(dataset):
        notes += [] if _hounsfield(dataset) else ["CT without rescale: its values may not be Hounsfield units"]
    return tuple(notes)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of pydicom, which repeat for each file what is no harm to the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
