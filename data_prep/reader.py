"""The one decoder of pictures and volumes: values and metadata are honoured, or the file is refused by its name.

Pictures are turned upright as their tag says, shown on black where they are transparent, and scaled to 8 bits between
two percentiles if they hold more, so that one hot pixel changes nothing. NaN is drawn black, infinities black or white.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedlab.core.files import DamagedError

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
TAILS = (0.5, 99.5)  # percentiles of a picture of more than 8 bits, or of a volume, that become black and white
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # of a unit of length in a NIfTI header; others are mm
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # tag of a TIFF, and its value for inverted grey
NIFTI2_HEADER = 540  # bytes, the first number of a file
SCARCE = 16  # brightest upper byte of a picture of 16 bits a colour that uses at most 12 of them


@dataclass(frozen=True)
class Volume:
    """Voxels, their place (4, 4) in mm from left to right, back to front and bottom to top, and the stored type."""

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    stored: str


def picture(content: bytes, name: str = "the picture", draft: tuple[str, tuple[int, int]] | None = None) -> Any:
    """Decode a picture as a Pillow image of mode "L" or "RGB".

    draft: mode and least size that will do, which let a JPEG be decoded faster. Raises ValueError with `name` for a
    file that is damaged (DamagedError), holds several pictures, no finite value, or more bits a colour than are read.
    """
    from PIL import ImageOps

    with decoding(name):
        image = _opened(content)
        if draft:
            image.draft(*draft)
        frames = (
            1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        )  # an MPO is a photograph and its previews
        inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
        cut = any(";16" in str(tile[3]) for tile in image.tile) and not _deep(image)
        image.load()
        upright = ImageOps.exif_transpose(image)
    if frames > 1:
        raise ValueError(f"{name} holds {frames} pictures: save the one that is meant as a file of its own")
    if _deep(upright):
        return _eight_bits(upright, inverted, name)
    with decoding(name):
        plain = _flattened(upright)
    if cut and max(high for _, high in plain.convert("RGB").getextrema()) < SCARCE:
        raise ValueError(
            f"{name} has 16 bits a colour and uses at most 12 of them, of which Pillow reads the upper 8: convert it to"
            " 8 bits a colour"
        )
    return plain


def volume(content: bytes, name: str = "the volume", dtype: DTypeLike | None = None) -> Volume:
    """Decode a NIfTI file, gzipped or not. dtype: of the voxels, by default as stored and scaled.

    Raises ValueError with `name` for a file that is damaged (DamagedError), holds colours or complex numbers, or whose
    orientation cannot be inverted.
    """
    import nibabel

    with decoding(name):
        body = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        second = NIFTI2_HEADER in (int.from_bytes(body[:4], order) for order in ("little", "big"))
        image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(body)
        stored = image.get_data_dtype()
        real = stored.kind in "biuf"
        voxels = np.asarray(image.dataobj, dtype) if real else np.zeros(0)
        affine = np.array(image.affine, np.float64)
        affine[:3] *= MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    if not real:
        raise ValueError(f"{name} stores {stored} in each voxel: wanted one real number, convert it to grey values")
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        raise ValueError(f"{name} states no orientation that can be inverted, {affine.tolist()}: correct its header")
    return Volume(voxels, affine, str(stored))


def window(values: NDArray[Any], name: str, tails: tuple[float, float] = TAILS) -> tuple[float, float]:
    """Two percentiles of the finite values, or their least and largest one if the percentiles are the same."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError(f"{name} holds no finite value among its {values.size:,}: use the original file")
    low, high = np.percentile(finite, tails)
    return (low, high) if high > low else (float(finite.min()), float(finite.max()))


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values from low to high as 0..255, rounded; lower ones and NaN are 0, higher ones 255, all 0 if low is high."""
    span: Any = max(high - low, np.finfo(np.float32).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        share = np.clip((values - low) / span, 0, 1)
    return np.rint(np.nan_to_num(share, copy=False) * 255).astype(np.uint8)


def labels(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """The values of a mask as uint8; ValueError if one is no whole number from 0 to 255."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    wrong = values[whole != values]
    if wrong.size:
        raise ValueError(
            f"{name} holds {wrong[0]:g} in {wrong.size:,} voxels: a mask numbers its structures 0, 1, ... up to 255"
        )
    return whole


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn any error of a library that decodes a file into a DamagedError with the file's name."""
    from PIL import ImageFile, UnidentifiedImageError

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # other code may have set it
    try:
        yield
    except DamagedError:
        raise
    except Exception as error:  # decoders raise many kinds of errors
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is none of {', '.join(FORMATS)}" if unknown else str(error) or type(error).__name__
        raise DamagedError(f"{name} cannot be decoded ({reason}): download it again") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _opened(content: bytes) -> Any:
    """Open a picture; of a PNG the checksums are compared, which decoding skips."""
    from PIL import Image

    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.format != "PNG":
        return image
    image.verify()  # leaves the image unusable
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _deep(image: Any) -> bool:
    """Whether an image is grey with more than 8 bits, which Pillow would clip at 255."""
    return image.mode.startswith(("I", "F"))


def _eight_bits(image: Any, inverted: bool, name: str) -> Any:
    """Scale an image of more than 8 bits between two percentiles of its values."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int | float):
        values[values == hidden] = np.nan
    values = -values if inverted else values
    return Image.fromarray(scaled(values, *window(values, name)))


def _flattened(image: Any) -> Any:
    """An image of at most 8 bits a channel as "L" or "RGB", on black where it is transparent."""
    from PIL import Image

    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
