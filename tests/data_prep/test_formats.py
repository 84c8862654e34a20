"""Laws of the readers of DICOM, NIfTI, NRRD and pictures: the right values, or a refusal that says why."""

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from own_scans import AXIAL, dicom, header, nifti, segmentation, series
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data_prep import reader
from fedlab.core.files import DamagedError

RNG = np.random.default_rng(0)
SLICE = RNG.integers(-900, 900, (6, 8)).astype(np.int16)
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL = Path(nibabel.__file__).parent


def one(path: Path, frames: str = "refuse") -> reader.Scan:
    (scan,) = reader.read(path, frames)
    return scan


def refusal(path: Any, frames: str = "refuse") -> str:
    with pytest.raises(ValueError) as caught:
        reader.read(path, frames)
    return str(caught.value)


# --- the files that pydicom and nibabel ship

REFUSED = {  # part of a path -> reason
    "data/0.dcm": "is a mosaic",
    "data/1.dcm": "is a mosaic",
    "rtdose": "a dose",
    "badVR": "a dose",
    "liver": "a segmentation, which can be the mask of an image",
    "siemens_dwi": "is a mosaic",
    "rtplan": "a treatment plan",
    "VR_BigEndNoMeta": "a treatment plan",
    "VR_LitEndNoMeta": "a treatment plan",
    "rtstruct": "contours",
    "SR.dcm": "a report",
    "reportsi": "a report",
    "ecg": "a waveform",
    "DICOMDIR": "a list of other files",
    "UN_sequence": "no pixels",
    "charset_LEI": "no pixels",
    "no_meta_group": "no pixels",
    "_SQ": "Bits Allocated|no pixels",
    "tsyntax": "Bits Allocated",
    "no_meta.": "no DICOM file",
    "MR_truncated": "8130 vs 8192 bytes",
    "JPEG-lossy": "cannot be decoded",
    "sequence-delimiter": "cannot be decoded",
    "_2frame": "holds 2 frames",
    "examples_ybr_color": "holds 30 frames",
    "slice_norm": "no pixels",
    "example4d.nii": r"holds 2 volumes \(its shape is 128 x 96 x 24 x 2\)",
    "functional.nii": "holds 20 volumes",
    "dconn": "volumes|wanted a picture or a volume",
    "test.mgz": "volumes",
    "example_nifti2": "volumes",
    ".hdr": "is the header of an Analyze or NIfTI pair without its voxels",
    ".PAR": "PAR/REC",
    ".mnc": "MINC",
    ".HEAD": "AFNI",
    "+orig.BRIK": "in no format that is read",
    ".BRIK": "AFNI",
    ".trk": "fibres",
    ".tck": "fibres",
    ".v": "ECAT",
    ".REC": "PAR/REC",
    ".bin": "in no format that is read",
    ".txt": "in no format that is read",
}
SHIPPED = [path for path in sorted(PYDICOM.glob("*")) if path.suffix == ".dcm"]
SHIPPED += sorted(PYDICOM.glob("dicomdirtests/DICOMDIR*")) + sorted(PYDICOM.glob("dicomdirtests/*/C*/*"))
FOLDERS = (NIBABEL / "tests" / "data", NIBABEL / "nicom" / "tests" / "data")
SHIPPED += [
    path for folder in FOLDERS for path in sorted(folder.glob("*.*")) if path.suffix not in (".py", ".rst", ".m")
]
SHIPPED = [path for path in SHIPPED if path.is_file() and not path.name.startswith(".")]


@pytest.mark.filterwarnings("ignore")
def test_shipped_files_are_read_as_their_library_reads_them_or_refused_for_a_reason() -> None:
    """Over 200 files; those that are read hold what the library reads, rescaled."""
    import re

    count = 0
    for path in SHIPPED:
        reason = next((reason for part, reason in REFUSED.items() if part in f"{path.parent.name}/{path.name}"), None)
        if reason is not None:
            assert re.search(reason, refusal(path)), (path.name, refusal(path))
            continue
        scan = one(path)
        count += 1
        if reader.kind(path) == "dicom":
            dataset = pydicom.dcmread(io.BytesIO(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else path)
            expected = dataset.pixel_array.astype(np.float64)
            if not scan.colour:
                expected = expected * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
                known = np.isfinite(scan.values)
                assert np.allclose(scan.values[known], expected[known]), path.name
            elif dataset.PhotometricInterpretation != "PALETTE COLOR":
                assert np.array_equal(scan.values, expected), path.name
        else:
            expected = nibabel.as_closest_canonical(nibabel.load(path))
            assert np.allclose(scan.values, expected.get_fdata(), equal_nan=True), path.name
            assert np.allclose(scan.affine, expected.affine), path.name
    assert count > 65 and len(SHIPPED) > 180


# --- DICOM: values


@pytest.mark.parametrize(
    ("dtype", "tags", "expected"),
    [
        ("int16", {}, lambda p: p),
        ("int16", {"RescaleSlope": 2, "RescaleIntercept": -1024}, lambda p: p * 2.0 - 1024),
        ("int16", {"RescaleSlope": 0.5}, lambda p: p * 0.5),
        ("int16", {"PhotometricInterpretation": "MONOCHROME1"}, lambda p: p),
        ("int16", {"PixelPaddingValue": -900}, lambda p: np.where(p == -900, np.nan, p)),
        (
            "int16",
            {"PixelPaddingValue": -900, "PixelPaddingRangeLimit": -800},
            lambda p: np.where(p <= -800, np.nan, p),
        ),
        ("int8", {}, lambda p: p),
        ("int32", {}, lambda p: p),
        ("uint16", {"BitsStored": 12, "HighBit": 11}, lambda p: p),
        ("int16", {"SOPClassUID": None, "StudyInstanceUID": None, "Modality": None}, lambda p: p),
    ],
)
def test_grey_values_are_what_the_header_says(dtype: str, tags: dict, expected: Any, tmp_path: Path) -> None:
    pixels = SLICE.copy()
    pixels[0, :2] = -900, -850
    pixels = (np.abs(pixels) if dtype == "uint16" else pixels // 8 if dtype == "int8" else pixels).astype(dtype)
    scan = one(dicom(tmp_path / "x.dcm", pixels, **tags))
    assert np.array_equal(scan.values, expected(pixels), equal_nan=True)
    assert scan.inverted == (tags.get("PhotometricInterpretation") == "MONOCHROME1")


@pytest.mark.parametrize(
    ("tags", "window"),
    [
        ({"WindowCenter": 40, "WindowWidth": 80}, (0.0, 79.0)),
        ({"WindowCenter": [40, 400], "WindowWidth": [80, 2000]}, (0.0, 79.0)),
        ({"WindowCenter": 40, "WindowWidth": 80, "VOILUTFunction": "LINEAR_EXACT"}, (0.0, 80.0)),
        ({"WindowCenter": 40, "WindowWidth": 0}, None),
        ({"WindowCenter": 40}, None),
        ({}, None),
    ],
)
def test_the_first_window_of_the_header_is_kept(tags: dict, window: Any, tmp_path: Path) -> None:
    assert one(dicom(tmp_path / "x.dcm", SLICE, **tags)).window == window


def test_a_sigmoid_and_a_lookup_table_are_followed(tmp_path: Path) -> None:
    curve = one(dicom(tmp_path / "s.dcm", SLICE, WindowCenter=0, WindowWidth=400, VOILUTFunction="SIGMOID")).display
    assert np.allclose(curve, 1 / (1 + np.exp(-SLICE / 100.0)), atol=1e-6)
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.LUTData = [0, 10, 200, 255]
    item["LUTData"].VR = "US"
    pixels = np.array([[0, 1], [2, 9]], np.uint16)
    found = one(dicom(tmp_path / "l.dcm", pixels, VOILUTSequence=Sequence([item]))).display
    assert np.allclose(found * 255, [[0, 10], [200, 255]])


def test_a_modality_table_is_followed(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.LUTData = [5, 100, 1000, 4000]
    item["LUTData"].VR = "US"
    pixels = np.array([[0, 1], [2, 9]], np.uint16)
    found = one(dicom(tmp_path / "m.dcm", pixels, ModalityLUTSequence=Sequence([item])))
    assert found.values.tolist() == [[5, 100], [1000, 4000]]


def test_palettes_are_looked_up_and_colours_kept(tmp_path: Path) -> None:
    tables = {}
    for name, values in zip(("Red", "Green", "Blue"), ([0, 255], [10, 20], [30, 40]), strict=True):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 8]
        tables[f"{name}PaletteColorLookupTableData"] = bytes(values)
    pixels = np.array([[0, 1], [1, 0]], np.uint8)
    scan = one(dicom(tmp_path / "p.dcm", pixels, PhotometricInterpretation="PALETTE COLOR", **tables))
    assert scan.colour and scan.values[0].tolist() == [[0, 10, 30], [255, 20, 40]] and scan.window == (0, 255)
    colours = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    assert np.array_equal(one(dicom(tmp_path / "c.dcm", colours)).values, colours)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, ImplicitVRLittleEndian])
def test_compressed_pixels_are_decoded(syntax: str, tmp_path: Path) -> None:
    pixels = np.tile(SLICE, (12, 10))
    dataset = header(pixels)
    if syntax.is_compressed:
        dataset.compress(syntax)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(tmp_path / "x.dcm", dataset, enforce_file_format=True)
    assert np.array_equal(one(tmp_path / "x.dcm").values, pixels)


def test_a_file_without_preamble_and_syntax_is_read(tmp_path: Path) -> None:
    dataset = header(SLICE)
    del dataset.file_meta
    pydicom.dcmwrite(tmp_path / "x.dcm", dataset, implicit_vr=True, little_endian=True)
    assert np.array_equal(one(tmp_path / "x.dcm").values, SLICE)


def test_a_packed_file_is_unpacked(tmp_path: Path) -> None:
    path = dicom(tmp_path / "x.dcm", SLICE)
    (tmp_path / "x.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(one(tmp_path / "x.dcm.gz").values, SLICE)
    (tmp_path / "x.dcm.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    assert "x.dcm.gz cannot be decoded" in refusal(tmp_path / "x.dcm.gz")


def test_a_mosaic_and_an_overlay_in_the_pixels_are_no_picture(tmp_path: Path) -> None:
    assert "many slices in one picture" in refusal(dicom(tmp_path / "m.dcm", SLICE, ImageType=["ORIGINAL", "MOSAIC"]))
    pixels = RNG.integers(0, 4096, (6, 8)).astype(np.uint16)
    marked = pixels | np.uint16(1 << 12)  # an overlay in a bit that is not stored
    assert np.array_equal(one(dicom(tmp_path / "o.dcm", marked, BitsStored=12, HighBit=11)).values, pixels)


def test_a_file_without_an_end_of_name_is_known_by_its_mark(tmp_path: Path) -> None:
    assert np.array_equal(one(dicom(tmp_path / "IM0001", SLICE)).values, SLICE)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PhotometricInterpretation": None}, "Photometric Interpretation"),
        ({"Rows": None}, "Rows"),
        ({"BitsAllocated": None}, "Bits Allocated"),
        ({"Rows": 7}, "pixel data"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "rescale slope is 0"),
        ({"Modality": "RTDOSE"}, "holds a dose"),
    ],
)
def test_a_dicom_that_lacks_something_is_named(tags: dict, reason: str, tmp_path: Path) -> None:
    import re

    told = refusal(dicom(tmp_path / "x.dcm", SLICE, **tags))
    assert "x.dcm" in told and re.search(reason, told)


def test_frames_without_places_are_chosen_or_refused(tmp_path: Path) -> None:
    frames = RNG.integers(0, 99, (5, 4, 6)).astype(np.uint8)
    path = dicom(tmp_path / "x.dcm", frames, Modality="XA")
    assert "holds 5 frames without a place of their own" in refusal(path)
    assert np.array_equal(one(path, "first").values, frames[0])
    assert np.array_equal(one(path, "middle").values, frames[2])
    assert [scan.values[0, 0] for scan in reader.read(path, "each")] == frames[:, 0, 0].tolist()


def enhanced(volume: np.ndarray, order: list[int], step: float = 2.0) -> dict[str, Any]:
    """Functional groups that place the frames."""

    def item(**tags: Any) -> Dataset:
        found = Dataset()
        for keyword, value in tags.items():
            setattr(found, keyword, Sequence([value]) if isinstance(value, Dataset) else value)
        return found

    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=AXIAL),
        PixelMeasuresSequence=item(PixelSpacing=[0.5, 0.25]),
        PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-100),
        FrameVOILUTSequence=item(WindowCenter=40, WindowWidth=80),
    )
    frames = [item(PlanePositionSequence=item(ImagePositionPatient=[0, 0, place * step])) for place in order]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    return {key: Sequence(value) for key, value in groups.items()}


def test_placed_frames_are_a_volume(tmp_path: Path) -> None:
    volume = RNG.integers(0, 99, (4, 6, 5)).astype(np.int16)
    order = [3, 0, 4, 1, 2]
    frames = np.moveaxis(volume[..., order], 2, 0).copy()
    scan = one(dicom(tmp_path / "x.dcm", frames, **enhanced(volume, order)))
    expected = volume.transpose(1, 0, 2)[::-1, ::-1] * 2.0 - 100
    assert np.array_equal(scan.values, expected)
    assert scan.window == (0, 79) and np.allclose(scan.spacing, (0.25, 0.5, 2))


# --- DICOM: series

VOLUME = RNG.integers(0, 999, (6, 8, 5)).astype(np.int16)  # rows, columns, slices


def test_a_series_is_sorted_by_position_and_placed(tmp_path: Path) -> None:
    (scan,) = reader.read(series(tmp_path, VOLUME, RescaleSlope=1, RescaleIntercept=-1024))
    assert np.array_equal(scan.values, VOLUME.transpose(1, 0, 2)[::-1, ::-1] - 1024.0)  # columns go to the left
    assert np.allclose(scan.spacing, (0.25, 0.5, 2))
    assert np.allclose(np.diag(scan.affine), (0.25, 0.5, 2, 1))
    assert np.allclose(scan.affine[:3, 3], (-0.25 * 7, -0.5 * 5, 0))


def test_a_sagittal_series_has_the_axes_of_an_axial_one(tmp_path: Path) -> None:
    (scan,) = reader.read(series(tmp_path, VOLUME, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], step=0, shift=(2, 0)))
    assert scan.values.shape == (5, 8, 6) and np.allclose(scan.spacing, (2, 0.25, 0.5))
    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S")
    assert scan.values[-1, -1, -1] == VOLUME[0, 0, 0]  # first slice is right-most, its first pixel front and top


def test_copies_of_slices_are_left_out(tmp_path: Path) -> None:
    paths = series(tmp_path, VOLUME)
    (tmp_path / "copy.dcm").write_bytes(paths[0].read_bytes())
    (scan,) = reader.read([*paths, tmp_path / "copy.dcm"])
    assert scan.values.shape == (8, 6, 5) and scan.notes[-1] == "1 copies of slices left out"


def test_series_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    whole = series(tmp_path / "whole", VOLUME)
    other = series(tmp_path / "other", VOLUME[:, :, :2], SeriesInstanceUID="9.9")
    small = series(tmp_path / "small", VOLUME[:4, :, :1], step=50)
    again = series(tmp_path / "again", VOLUME, EchoTime=30)
    gone = [path for path in whole if pydicom.dcmread(path).ImagePositionPatient[2] != 4]
    turned = dicom(tmp_path / "t.dcm", VOLUME[..., 0].copy(), ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
                   ImagePositionPatient=[0, 0, 40], PixelSpacing=[0.5, 0.25])  # fmt: skip
    placeless = dicom(tmp_path / "p.dcm", VOLUME[..., 0].copy(), PixelSpacing=[0.5, 0.25])
    white = dicom(tmp_path / "w.dcm", VOLUME[..., 0].copy(), ImageOrientationPatient=AXIAL, PixelSpacing=[0.5, 0.25],
                  ImagePositionPatient=[0, 0, 10], PhotometricInterpretation="MONOCHROME1")  # fmt: skip
    cases = [
        ([*whole, *other], "holds 2 series"),
        ([*whole, small[0]], "different size"),
        ([*whole, *again], "several times, echoes or contrasts"),
        (gone, "lacks slices: they are 2 mm apart, but 4 mm between"),
        ([*whole, turned], "different orientation"),
        ([*whole, placeless], "1 of 6 slices without position"),
        ([*whole, white], "MONOCHROME1 and MONOCHROME2"),
        (series(tmp_path / "tilted", VOLUME, shift=(0, 0.5)), "tilted gantry.*14.0 degrees"),
        (series(tmp_path / "plain", VOLUME, PixelSpacing=None), "no pixel spacing"),
        (series(tmp_path / "long", VOLUME, ImageOrientationPatient=[2, 0, 0, 0, 1, 0]), "length 1"),
    ]
    import re

    for paths, reason in cases:
        assert re.search(reason, refusal(paths)), reason
    patients = [*series(tmp_path / "a", VOLUME[..., :2], PatientID="A")]
    patients.append(dicom(tmp_path / "a" / "9.dcm", VOLUME[..., 2].copy(), ImageOrientationPatient=AXIAL,
                          ImagePositionPatient=[0, 0, 4], PixelSpacing=[0.5, 0.25], PatientID="B"))  # fmt: skip
    assert "different patients" in refusal(patients)


def test_several_pictures_are_no_series(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    assert "no DICOM series" in refusal([tmp_path / "a.png", tmp_path / "b.png"])


# --- NIfTI

FLIPS = [np.diag([x, y, z, 1.0]) for x in (2, -2) for y in (3, -3) for z in (4, -4)]


@pytest.mark.parametrize("affine", FLIPS)
def test_negative_strides_are_turned(affine: np.ndarray, tmp_path: Path) -> None:
    voxels = RNG.normal(size=(4, 5, 6)).astype(np.float32)
    scan = one(nifti(tmp_path / "x.nii.gz", voxels, affine))
    turned = voxels[tuple(slice(None, None, int(np.sign(each))) for each in np.diag(affine)[:3])]
    assert np.array_equal(scan.values, turned) and scan.spacing == (2, 3, 4)


def test_nifti_with_oddities_is_read_or_refused(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 99, (4, 5, 6)).astype(np.int16)
    blank = one(nifti(tmp_path / "blank.nii", voxels, qform=0, sform=0))
    assert blank.affine is None and "states no orientation" in blank.notes[0]
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([0, 7], "<f4").tobytes()  # scl_slope 0: no scaling
    (tmp_path / "slope.nii").write_bytes(content)
    assert np.array_equal(one(tmp_path / "slope.nii").values, voxels)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    image.set_sform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "conflict.nii")
    assert "qform: axes LAS" in refusal(tmp_path / "conflict.nii") and "left and right" in refusal(
        tmp_path / "conflict.nii"
    )
    image.set_qform(np.diag([2.0, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "sizes.nii")
    assert "voxels 2 x 1 x 1 mm" in refusal(tmp_path / "sizes.nii")
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    assert "16.7 degrees off a right angle" in refusal(nifti(tmp_path / "shear.nii", voxels, sheared))
    holes = voxels.astype(np.float32)
    holes[0, 0, 0] = np.nan
    assert np.isnan(one(nifti(tmp_path / "nan.nii", holes)).values[0, 0, 0])
    series4 = nifti(tmp_path / "4d.nii.gz", RNG.integers(0, 9, (4, 5, 6, 3)).astype(np.int16))
    assert "holds 3 volumes (its shape is 4 x 5 x 6 x 3)" in refusal(series4)
    assert len(reader.read(series4, "each")) == 3
    assert one(nifti(tmp_path / "4d1.nii", voxels[..., None])).values.shape == (4, 5, 6)
    big = nibabel.Nifti1Image(voxels.astype(">i2"), np.eye(4))
    nibabel.save(big, tmp_path / "big.nii")
    assert one(tmp_path / "big.nii").values.dtype.isnative
    assert "8,192" not in refusal(_cut(nifti(tmp_path / "cut.nii.gz", voxels)))


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:100])
    return path


def test_a_single_slice_is_a_picture_as_dicom_stores_it(tmp_path: Path) -> None:
    """Of the patient's right, left, front and back, right is on the left and front is at the top."""
    voxels = np.zeros((3, 4, 1), np.uint8)
    voxels[2, 3, 0] = 9  # right and front, as axes go to the right and to the front
    scan = one(nifti(tmp_path / "x.nii", voxels))
    assert scan.values.shape == (4, 3) and scan.values[0, 0] == 9 and scan.spacing == (3, 2)


@pytest.mark.parametrize(
    ("kind", "noted"), [(nibabel.Nifti1Pair, False), (nibabel.Nifti2Pair, False), (nibabel.Spm99AnalyzeImage, True)]
)
def test_an_image_in_two_files_is_that_in_one(kind: Any, noted: bool, tmp_path: Path) -> None:
    voxels = RNG.integers(0, 99, (4, 5, 6)).astype(np.int16)
    affine = np.diag([-2.0, 3, 4, 1])
    nibabel.save(kind(voxels, affine), tmp_path / "pair.img")
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "one.nii")
    pair, single = one(tmp_path / "pair.hdr"), one(tmp_path / "one.nii")
    assert np.array_equal(pair.values, single.values) and pair.spacing == single.spacing
    assert noted == (pair.affine is None) == any("left and right may be exchanged" in note for note in pair.notes)
    assert "without their header" in refusal(_moved(tmp_path / "pair.img", tmp_path / "alone.img"))
    assert "without its voxels" in refusal(tmp_path / "pair.hdr")


def _moved(path: Path, target: Path) -> Path:
    return path.rename(target)


# --- DICOM segmentations


def test_a_segmentation_is_put_on_the_grid_of_its_image(tmp_path: Path) -> None:
    """Segments that a NIfTI mask and a DICOM segmentation state are the same mask, in any order of frames."""
    (image,) = reader.read(series(tmp_path / "ct", VOLUME))
    numbers = np.zeros(VOLUME.shape, np.uint8)  # rows, columns, slices, as the files have them
    numbers[1:4, 2:5, 1:3], numbers[4:, 6:, 3:] = 1, 2
    path = segmentation(tmp_path / "seg.dcm", numbers)
    found, scan = reader.mask(path, image)
    assert np.array_equal(found, numbers.transpose(1, 0, 2)[::-1, ::-1]) and np.array_equal(scan.affine, image.affine)
    assert "a segmentation, which can be the mask of an image" in refusal(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shift": 0.1}, "on another grid"),
        ({"shift": 100.0}, "on another grid"),
        ({"overlap": True}, "overlap in 9 voxels of frame"),
        ({"kind": "FRACTIONAL"}, "type FRACTIONAL"),
    ],
)
def test_segmentations_that_are_no_mask_of_their_image_are_refused(change: dict, reason: str, tmp_path: Path) -> None:
    (image,) = reader.read(series(tmp_path / "ct", VOLUME))
    numbers = np.zeros(VOLUME.shape, np.uint8)
    numbers[1:4, 2:5, 1:3] = 1
    with pytest.raises(ValueError, match=reason):
        reader.mask(segmentation(tmp_path / "seg.dcm", numbers, **change), image)


def test_a_segmentation_of_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its image is no volume with a place"):
        reader.mask(segmentation(tmp_path / "seg.dcm", np.ones((6, 8, 1), np.uint8)), reader.Scan(SLICE))


# --- NRRD and MetaImage


@pytest.mark.parametrize("end", [".nrrd", ".mha", ".mhd"])
def test_itk_and_nifti_files_of_one_image_are_the_same(end: str, tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(RNG.integers(-99, 99, (4, 5, 6)).astype(np.int16))
    image.SetSpacing((0.5, 1, 2))
    image.SetOrigin((10, 20, 30))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    for path in (f"x{end}", "x.nii.gz"):
        SimpleITK.WriteImage(image, tmp_path / path)
    first, second = one(tmp_path / f"x{end}"), one(tmp_path / "x.nii.gz")
    assert np.array_equal(first.values, second.values) and np.allclose(first.affine, second.affine, atol=1e-4)
    assert np.allclose(first.spacing, second.spacing)


def test_itk_files_that_are_no_grey_volume_are_refused(tmp_path: Path) -> None:
    vectors = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 2), np.float32), isVector=True)
    SimpleITK.WriteImage(vectors, tmp_path / "v.nrrd")
    assert "with 2 components in each voxel" in refusal(tmp_path / "v.nrrd")
    volume = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.float32))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([volume, volume]), tmp_path / "t.mha")
    assert "holds 2 volumes (its shape is 5 x 4 x 3 x 2)" in refusal(tmp_path / "t.mha")
    (tmp_path / "b.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    assert "b.nrrd cannot be decoded" in refusal(tmp_path / "b.nrrd")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), tmp_path / "p.mha")
    assert one(tmp_path / "p.mha").values.tolist() == np.arange(12).reshape(3, 4).tolist()


# --- pictures


def test_pictures_of_any_depth_keep_their_values(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (5, 7), np.uint8)
    deep = RNG.integers(0, 60000, (5, 7), np.uint16)
    colours = RNG.integers(0, 60000, (5, 7, 3), np.uint16)
    Image.fromarray(grey > 99).save(tmp_path / "1.png")
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(deep).save(tmp_path / "16.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "32.tif")
    tifffile.imwrite(tmp_path / "c.tif", colours, photometric="rgb")
    assert np.array_equal(one(tmp_path / "1.png").values, (grey > 99) * 255)
    assert np.array_equal(one(tmp_path / "8.png").values, grey) and one(tmp_path / "8.png").window == (0, 255)
    assert np.array_equal(one(tmp_path / "16.png").values, deep) and one(tmp_path / "16.png").window is None
    assert np.array_equal(one(tmp_path / "32.tif").values, deep)
    found = one(tmp_path / "c.tif")
    assert np.array_equal(found.values, colours) and found.colour
    for bits in (2, 4):
        Image.fromarray(grey % 2**bits).quantize(2**bits).save(tmp_path / f"{bits}.png", bits=bits)
        assert one(tmp_path / f"{bits}.png").values.shape == (5, 7, 3)


def test_masks_are_the_numbers_of_a_palette_and_not_its_colours(tmp_path: Path) -> None:
    numbers = RNG.integers(0, 3, (5, 7), np.uint8)
    palette = Image.fromarray(numbers)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette.save(tmp_path / "p.png")
    Image.fromarray(numbers).convert("RGB").save(tmp_path / "rgb.png")
    Image.fromarray(numbers > 0).save(tmp_path / "1.png")
    for name in ("p.png", "rgb.png"):
        assert np.array_equal(reader.mask(tmp_path / name)[0], numbers)
    assert np.array_equal(reader.mask(tmp_path / "1.png")[0], numbers > 0)
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / "red.png")
    with pytest.raises(ValueError, match=r"red\.png is in colour"):
        reader.mask(tmp_path / "red.png")


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    for name, reason in {"notes.txt": "in no format that is read", "x.png": "cannot be decoded"}.items():
        (tmp_path / name).write_bytes(b"hello")
        assert reason in refusal(tmp_path / name)
    (tmp_path / "x.nii").write_bytes(io.BytesIO(b"\0" * 400).getvalue())
    with pytest.raises(DamagedError, match=r"x\.nii cannot be decoded"):
        reader.read(tmp_path / "x.nii")
