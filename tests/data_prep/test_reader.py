"""Laws of the decoder: what Pillow and nibabel read of plain files, metadata honoured, and no silent wrong picture."""

import gzip
import io
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from data_prep import hippocampus, ixi, local, reader

RNG = np.random.default_rng(0)
PLAIN = {
    "L": RNG.integers(0, 256, (20, 14), np.uint8),
    "RGB": RNG.integers(0, 256, (20, 14, 3), np.uint8),
    "1": RNG.integers(0, 2, (20, 14)).astype(bool),
}


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(values: np.ndarray, kind: str = "TIFF", **options: Any) -> bytes:
    return written(Image.fromarray(values), kind, **options)


def seen(content: bytes, name: str = "x.png") -> np.ndarray:
    return np.asarray(reader.picture(content, name)).astype(int)


# --- pictures


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "GIF", "WEBP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_pictures_are_what_pillow_reads(mode: str, kind: str) -> None:
    content = written(Image.fromarray(PLAIN[mode]), kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert(mode))
    found = reader.picture(content)
    assert found.mode == ("L" if mode == "L" and kind not in ("GIF", "WEBP") else found.mode)
    assert np.array_equal(np.asarray(found.convert(mode)), expected)


def test_one_bit_and_palettes_are_looked_up() -> None:
    assert np.array_equal(seen(grey(PLAIN["1"], "PNG")), PLAIN["1"] * 255)
    colours = Image.fromarray(PLAIN["RGB"]).quantize(16)
    assert np.array_equal(seen(written(colours, "PNG")), np.asarray(colours.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_upright(turn: int, kind: str) -> None:
    tag = Image.Exif()
    tag[0x0112] = turn
    ramp = Image.fromarray(np.add.outer(np.arange(40) * 2, np.arange(24) * 5).astype(np.uint8))
    content = written(ramp, kind, exif=tag)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L")).astype(int)
    assert np.array_equal(np.asarray(reader.picture(content).convert("L")), upright)
    assert upright.shape == ((24, 40) if turn > 4 else (40, 24))


def test_sixteen_bits_are_turned_upright_too() -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    ramp = np.add.outer(np.arange(40) * 100, np.zeros(24)).astype(np.uint16)
    found = seen(grey(ramp, "PNG", exif=tag))
    assert found.shape == (24, 40) and (np.diff(found[0]) <= 0).all() and found[0, 0] == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "PA"])
def test_transparent_pixels_are_black_and_opaque_ones_unchanged(mode: str) -> None:
    colour = np.full((16, 16, 3), (90, 90, 90), np.uint8)
    colour[:8] = (200, 200, 200)
    image, options = Image.fromarray(colour), {}
    if mode in ("RGBA", "LA", "PA"):
        image = {"RGBA": image, "LA": image.convert("L"), "PA": image.quantize(4)}[mode]
        image.putalpha(Image.fromarray(np.repeat([0, 255], 8).astype(np.uint8)[:, None].repeat(16, 1)))
        assert image.mode == mode
    elif mode == "P":
        image = image.quantize(4)
        options["transparency"] = int(np.asarray(image)[0, 0])
    else:
        image = image.convert(mode)
        options["transparency"] = 200 if mode == "L" else (200, 200, 200)
    found = np.asarray(reader.picture(written(image, "TIFF" if mode == "PA" else "PNG", **options)).convert("L"))
    assert (found[:8] == 0).all() and (found[8:] == 90).all()


def test_half_transparent_pixels_are_mixed_with_black() -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    assert np.abs(seen(written(image, "PNG"))[0, 0] - np.array([100, 50, 25])).max() <= 1


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", ">u2"])
def test_a_hot_pixel_changes_nothing(dtype: str) -> None:
    ramp = np.tile(np.linspace(0, 1000, 64), (64, 1))
    hot = ramp.copy()
    hot[0, 0], hot[5, 5] = 65535, 0
    with_it, without = (seen(grey(values.astype(dtype))) for values in (hot, ramp))
    assert np.abs(with_it[8:] - without[8:]).max() <= 1 and without.max() == 255 and without.min() == 0


@given(gain=st.floats(0.01, 20), offset=st.floats(-500, 500), dtype=st.sampled_from(["float32", "int32", "uint16"]))
@settings(max_examples=10, deadline=None)
def test_scaling_undoes_gain_and_offset(gain: float, offset: float, dtype: str) -> None:
    values = np.random.default_rng(1).normal(600, 100, (12, 12))
    offset, gain = (
        (abs(offset), max(gain, 1)) if dtype == "uint16" else (offset, max(gain, 1) if dtype == "int32" else gain)
    )
    plain = seen(grey(values.astype("float32")))
    other = seen(
        grey(
            np.rint(values * gain + offset).astype(dtype)
            if dtype != "float32"
            else (values * gain + offset).astype(dtype)
        )
    )
    assert np.abs(plain - other).max() <= 2


def test_an_object_of_few_pixels_is_seen() -> None:
    values = np.zeros((64, 64), np.uint16)
    values[30, 30] = 9  # percentiles alone would show nothing
    assert seen(grey(values))[30, 30] == 255


def test_nan_is_black_and_infinity_white() -> None:
    values = np.tile(np.linspace(0, 100, 64), (64, 1)).astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    found = seen(grey(values))
    assert found[0, :3].tolist() == [0, 255, 0] and found[1, -1] == 255 and found[1, 32] in range(120, 136)


@pytest.mark.parametrize("values", [np.nan, np.inf])
def test_a_picture_without_a_value_is_refused(values: float) -> None:
    with pytest.raises(ValueError, match=r"x\.tif holds no finite value among its 64"):
        reader.picture(grey(np.full((8, 8), values, np.float32)), "x.tif")


def test_inverted_grey_is_turned_back() -> None:
    ramp = np.tile(np.linspace(0, 4000, 64), (64, 1)).astype(np.uint16)
    inverted = seen(grey(ramp, tiffinfo={262: 0}))
    content = bytearray(grey(ramp))
    place = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # the tag, its type, one value: black is zero
    content[place + 8] = 0
    assert np.array_equal(seen(bytes(content)), 255 - seen(grey(ramp)))
    assert inverted.shape == ramp.shape


def test_twelve_of_sixteen_bits_a_colour_are_refused_and_sixteen_are_read() -> None:
    header, body = grey(np.zeros((4, 4, 3), np.uint8), "PNG"), np.zeros((4, 1 + 4 * 6), np.uint8)
    for high, fails in ((15, True), (200, False)):
        body[:, 1::2] = high
        content = _png16(header, body)
        if fails:
            with pytest.raises(ValueError, match=r"x\.png has 16 bits a colour.*convert it to 8 bits"):
                reader.picture(content, "x.png")
        else:
            assert (seen(content) == 200).all()


def _png16(header: bytes, rows: np.ndarray) -> bytes:
    """A PNG of 4 x 4 pixels with 16 bits a colour."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    return header[:8] + size + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_a_file_of_several_pictures_is_refused(kind: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 90)]
    content = written(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="x holds 2 pictures: save the one"):
        reader.picture(content, "x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"])
def test_a_cut_picture_is_named_whatever_other_code_has_set(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(Image.fromarray(RNG.integers(0, 256, (60, 60, 3), np.uint8)), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="x cannot be decoded"):
        reader.picture(content[: len(content) // 2], "x")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a/b\.jpg cannot be decoded \(it is none of BMP"):
        reader.picture(content, "a/b.jpg")


PNG = {mode: grey(values, "PNG") for mode, values in PLAIN.items()}


@given(mode=st.sampled_from(sorted(PNG)), place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(max_examples=20, deadline=None)
def test_any_changed_byte_of_a_png_is_found(mode: str, place: float, change: int) -> None:
    content = bytearray(PNG[mode])
    content[int(place * len(content))] ^= change
    try:
        assert np.array_equal(seen(bytes(content)), seen(PNG[mode]))
    except ValueError as error:
        assert str(error).startswith("x.png ")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some
@given(
    kind=st.sampled_from(["TIFF", "BMP", "JPEG", "GIF"]),
    place=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
)
@settings(max_examples=20, deadline=None)
def test_a_changed_byte_never_ends_in_another_error(kind: str, place: float, change: int) -> None:
    content = bytearray(grey(PLAIN["RGB"], kind))
    content[int(place * len(content))] ^= change
    try:
        local.picture(bytes(content), 8, name="x.png")
    except ValueError as error:
        assert str(error).startswith("x.png ")


def test_the_middle_of_a_picture_is_the_same_in_grey_and_colour() -> None:
    content = grey(np.tile(np.arange(32, dtype=np.uint16) * 100, (20, 1)))
    assert np.array_equal(local.picture(content, 20, "RGB"), np.repeat(local.picture(content, 20, "L"), 3, 0))


# --- volumes


def nifti(
    voxels: np.ndarray, affine: Any = None, kind: type = nibabel.Nifti1Image, unit: str = "mm", **scale: float
) -> bytes:
    image = kind(voxels, np.diag([2.0, 3, 4, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    if scale:
        image.header.set_slope_inter(**scale)
    return image.to_bytes()


@given(
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4"]),
    axes=st.permutations("RAS"),
    flips=st.tuples(*[st.booleans()] * 3),
    packed=st.booleans(),
    kind=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
)
@settings(max_examples=12, deadline=None)
def test_volumes_are_what_nibabel_reads(dtype: str, axes: list[str], flips: tuple, packed: bool, kind: type) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(dtype)
    opposite = {"R": "L", "A": "P", "S": "I"}
    codes = [opposite[axis] if flip else axis for axis, flip in zip(axes, flips, strict=True)]
    plain = kind(voxels, np.diag([2.0, 3, 4, 1]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    image = plain.as_reoriented(turn)
    found = reader.volume(gzip.compress(image.to_bytes()) if packed else image.to_bytes(), "v.nii")
    assert np.array_equal(found.voxels, np.asarray(image.dataobj)) and np.array_equal(found.affine, image.affine)
    assert found.stored == str(image.get_data_dtype()) and nibabel.aff2axcodes(found.affine) == tuple(codes)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_lengths_are_in_millimetres(unit: str, factor: float) -> None:
    affine = np.diag([2.0 / factor, 3 / factor, 4 / factor, 1])
    assert np.allclose(
        reader.volume(nifti(np.zeros((3, 3, 3), np.int16), affine, unit=unit)).affine, np.diag([2, 3, 4, 1])
    )


def test_a_scan_stored_in_metres_looks_the_same() -> None:
    scan = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    in_mm, in_metres = (
        nifti(scan, np.diag([20 / k, 20 / k, 20 / k, 1]), unit=u) for k, u in ((1, "mm"), (1000, "meter"))
    )
    assert np.array_equal(ixi.cube(in_mm, 16), ixi.cube(in_metres, 16))


def test_slope_and_intercept_are_used() -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    body = bytearray(image.to_bytes())
    body[112:120] = np.array([2, -5], "<f4").tobytes()  # scl_slope and scl_inter
    assert np.array_equal(reader.volume(bytes(body)).voxels, voxels * 2.0 - 5)


def test_nan_outside_of_a_head_is_black_and_spoils_nothing() -> None:
    scan = np.random.default_rng(0).normal(100, 10, (24, 24, 24)).astype(np.float32)
    holes = scan.copy()
    holes[:6] = np.nan
    affine = np.diag([10.0, 10, 10, 1])
    found, whole = ixi.cube(nifti(holes, affine), 24)[0], ixi.cube(nifti(scan, affine), 24)[0]
    assert (found[:5] == 0).all() and np.abs(found[8:].astype(int) - whole[8:]).max() < 40 and found[8:].std() > 20


FLAT = bytearray(nifti(np.zeros((3, 3, 3), np.int16)))
FLAT[312:328] = bytes(16)  # the last row of the orientation


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (nifti(np.zeros((3, 3, 3), np.complex64)), "v.nii stores complex64 in each voxel"),
        (nifti(np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "v.nii stores .*one real number"),
        (bytes(FLAT), "v.nii states no orientation"),
        (nifti(np.zeros((3, 3, 3), np.int16))[:380], "v.nii cannot be decoded"),
        (gzip.compress(nifti(np.zeros((3, 3, 3), np.int16)), mtime=0)[:-9], "v.nii cannot be decoded"),
        (b"<html>", "v.nii cannot be decoded"),
    ],
)
def test_a_volume_that_cannot_be_used_is_named(content: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        reader.volume(content, "v.nii")


VOLUME = gzip.compress(nifti(np.arange(60, dtype=np.int16).reshape(3, 4, 5)), mtime=0)


@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_changed_byte_of_a_packed_volume_is_found(place: float, change: int, cut: bool) -> None:
    spot = int(place * len(VOLUME))
    content = VOLUME[:spot] if cut else VOLUME[:spot] + bytes([VOLUME[spot] ^ change]) + VOLUME[spot + 1 :]
    try:
        found = reader.volume(content, "v.nii.gz")
    except ValueError as error:
        assert str(error).startswith("v.nii.gz ")
    else:
        assert np.array_equal(found.voxels, reader.volume(VOLUME).voxels)


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan, np.inf])
def test_a_mask_of_other_than_small_whole_numbers_is_refused(value: float) -> None:
    mask = np.zeros((3, 3, 3))
    mask[1, 1, 1] = value
    with pytest.raises(ValueError, match=r"m\.nii holds .* in 1 voxels: a mask numbers its structures"):
        reader.labels(mask, "m.nii")
    assert np.array_equal(reader.labels(np.eye(3), "m.nii"), np.eye(3))


def test_a_hot_or_missing_voxel_changes_no_other() -> None:
    scan = np.random.default_rng(0).normal(100, 10, (10, 10, 10)).astype(np.float32)
    spoilt = scan.copy()
    spoilt[0, 0, 0], spoilt[0, 0, 1], spoilt[0, 0, 2] = np.float32(3e38), np.nan, -np.inf
    plain, found = hippocampus._scaled(scan, "v"), hippocampus._scaled(spoilt, "v")
    assert np.abs(plain[1:].astype(int) - found[1:]).max() <= 5 and found[0, 0, :3].tolist() == [255, 0, 0]
