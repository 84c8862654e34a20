"""Files as scanners and people write them: DICOM with any header, series, and NIfTI."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = [1, 0, 0, 0, 1, 0]


def header(pixels: np.ndarray, **tags: Any) -> Dataset:
    """A CT slice with these pixels, (rows, columns[, 3]) or (frames, rows, columns); None removes a tag."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    usual = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.3",
        "Modality": "CT",
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    usual |= {"PlanarConfiguration": 0} if colour else {}
    usual |= {"NumberOfFrames": len(pixels)} if pixels.ndim == 3 + colour else {}
    for keyword, value in {**usual, **tags}.items():
        if value is not None:
            setattr(found, keyword, value)
    found.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    found["PixelData"].VR = "OW" if bits > 8 else "OB"
    return found


def dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """Write a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = header(pixels, **tags)
    found.file_meta.MediaStorageSOPClassUID = found.get("SOPClassUID", CTImageStorage)
    found.file_meta.MediaStorageSOPInstanceUID = found.get("SOPInstanceUID", "1.2")
    pydicom.dcmwrite(path, found, enforce_file_format=True)
    return path


def series(folder: Path, volume: np.ndarray, step: float = 2.0, shift: tuple = (0, 0), **tags: Any) -> list[Path]:
    """Write the slices volume[..., k], (rows, columns), in an order that their names do not tell."""
    names = np.random.default_rng(0).permutation(volume.shape[2])
    own = {"ImageOrientationPatient": AXIAL, "PixelSpacing": [0.5, 0.25], **tags}
    found = []
    for place, name in enumerate(names):
        position = [place * shift[0], place * shift[1], place * step]
        own_place = {"ImagePositionPatient": position, "InstanceNumber": int(name)}
        found.append(dicom(folder / f"{name:03}.dcm", volume[..., place].copy(), **{**own_place, **own}))
    return sorted(found)


def segmentation(
    path: Path, numbers: np.ndarray, shift: float = 0.0, overlap: bool = False, kind: str = "BINARY"
) -> Path:
    """Write the segments of numbers (rows, columns, slices) on the grid of `series`: frames of one slice of one."""
    frames, groups = [], []
    for number in [each for each in np.unique(numbers) if each] + [9] * overlap:
        for place in range(numbers.shape[2]):
            segment = (numbers[..., place] == number) | ((number == 9) & (numbers[..., place] > 0))
            if not segment.any():
                continue  # as most programs do
            group = Dataset()
            group.PlanePositionSequence = [Dataset()]
            group.PlanePositionSequence[0].ImagePositionPatient = [shift, 0, 2.0 * place]
            group.SegmentIdentificationSequence = [Dataset()]
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = int(number)
            frames.append(segment)
            groups.append(group)
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [Dataset()], [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = AXIAL
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.25]
    order = np.random.default_rng(1).permutation(len(frames))
    pixels = np.stack([frames[place] for place in order]).astype(np.uint8)
    found = header(pixels, Modality="SEG", SegmentationType=kind, SharedFunctionalGroupsSequence=[shared],
                   PerFrameFunctionalGroupsSequence=[groups[place] for place in order],
                   SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SeriesInstanceUID="5.5",
                   BitsAllocated=1, BitsStored=1, HighBit=0)  # fmt: skip
    found.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    found.PixelData += b"\0" * (len(found.PixelData) % 2)
    found["PixelData"].VR = "OB"
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    pydicom.dcmwrite(path, found, enforce_file_format=True)
    return path


def nifti(path: Path, voxels: np.ndarray, affine: Any = None, **codes: int) -> Path:
    """Write a NIfTI file. codes: qform and sform, by default as nibabel sets them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    if "sform" in codes:
        image.set_sform(image.affine, codes["sform"])
    if "qform" in codes:
        image.set_qform(image.affine, codes["qform"])
    nibabel.save(image, path)
    return path
