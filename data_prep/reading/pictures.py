"""Pictures by Pillow: upright as their tag says, on black where transparent, and of any depth of grey.

Colours of 16 bits in a TIFF, of which Pillow reads 8, are read by tifffile.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.reading.scan import FORMATS, Scan, decoding, frames_of, library
from data_prep.reading.values import scaled, window

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # tag of a TIFF, and its value for inverted grey
SCARCE = 16  # brightest upper byte of a picture of 16 bits a colour that uses at most 12 of them
ROTATION = 274  # tag for the orientation
FULL = (0.0, 255.0)


def picture(content: bytes, name: str = "the picture", draft: tuple[str, tuple[int, int]] | None = None) -> Any:
    """Decode a picture as a Pillow image of mode "L" or "RGB".

    draft: mode and least size that will do, which let a JPEG be decoded faster. Raises ValueError with `name` for a
    file that is damaged (DamagedError), holds several pictures, no finite value, or more bits a colour than are read.
    """
    image, count = _first(content, name, draft)
    if count > 1:
        raise ValueError(f"{name} holds {count} pictures: save the one that is meant as a file of its own")
    upright, inverted, cut = _upright(image, name)
    if _deep(upright):
        values = _grey(upright)
        values = -values if inverted else values
        from PIL import Image

        return Image.fromarray(scaled(values, *window(values, name)))
    return _plain(upright, cut, name)


def scans(content: bytes, name: str = "the picture", frames: str = "refuse") -> list[Scan]:
    """Decode a picture as its stored grey values, or as colours of 8 bits."""
    image, count = _first(content, name, None)
    if count == 1:
        return [_scan(image, content, name)]
    found = []
    for number in frames_of(count, frames, name, "pictures"):
        with decoding(name):
            image.seek(number)
            single = image.copy()
        found.append(_scan(single, b"", name))
    return found


def mask(content: bytes, name: str = "the mask") -> NDArray[Any]:
    """The numbers in a picture of structures, (height, width): those of a palette, not its colours."""
    image, count = _first(content, name, None)
    if count > 1:
        raise ValueError(f"{name} holds {count} pictures: save the mask as a file of its own")
    upright, _, _ = _upright(image, name)
    if upright.mode in ("P", "PA"):
        return np.asarray(upright.getchannel("P") if upright.mode == "PA" else upright)
    values = np.asarray(upright)
    if values.ndim == 2:
        return values.astype(np.uint8) if values.dtype == bool else values
    grey = values[..., :-1] if upright.mode in ("LA", "RGBA", "La", "RGBa") else values
    if (grey == grey[..., :1]).all():
        return grey[..., 0]
    raise ValueError(
        f"{name} is in colour ({upright.mode}): a mask numbers its structures, save it as grey or with a palette"
    )


def _first(content: bytes, name: str, draft: tuple[str, tuple[int, int]] | None) -> tuple[Any, int]:
    """Open a picture; returns it and how many the file holds."""
    with decoding(name):
        image = _opened(content)
        if draft:
            image.draft(*draft)
        # an MPO is a photograph and its previews
        return image, 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _opened(content: bytes) -> Any:
    """Open a picture; of a PNG the checksums are compared, which decoding skips."""
    from PIL import Image

    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.format != "PNG":
        return image
    image.verify()  # leaves the image unusable
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _upright(image: Any, name: str) -> tuple[Any, bool, bool]:
    """Decode and turn upright; returns whether grey is inverted, and whether 16 bits a colour were cut to 8."""
    from PIL import ImageOps

    with decoding(name):
        inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
        cut = any(";16" in str(tile[3]) for tile in image.tile) and not _deep(image)
        image.load()
        return ImageOps.exif_transpose(image), inverted, cut


def _scan(image: Any, content: bytes, name: str) -> Scan:
    """One picture as values."""
    turned = image.getexif().get(ROTATION, 1) != 1
    upright, inverted, cut = _upright(image, name)
    notes = ("turned upright as its tag says",) if turned else ()
    if _deep(upright):
        return Scan(_grey(upright), inverted=inverted, notes=notes)
    if cut and content and image.format == "TIFF":
        return _deep_colours(content, name)
    plain = _plain(upright, cut, name)
    if upright.has_transparency_data:
        notes = (*notes, "shown on black where it is transparent")
    values = np.asarray(plain)
    return Scan(values, colour=values.ndim == 3, window=FULL, notes=notes)


def _deep_colours(content: bytes, name: str) -> Scan:
    """Colours of 16 bits in a TIFF, which Pillow cuts to their upper byte."""
    tifffile = library("tifffile", "TIFF with 16 bits a colour")
    with decoding(name):
        values = tifffile.imread(io.BytesIO(content))
    if values.ndim == 3 and values.shape[0] in (3, 4) and values.shape[2] not in (3, 4):
        values = np.moveaxis(values, 0, 2)
    if values.ndim != 3 or values.shape[2] not in (3, 4):
        raise ValueError(f"{name} has the shape {values.shape}: wanted one picture of three colours")
    return Scan(values[..., :3], colour=True)


def _deep(image: Any) -> bool:
    """Whether an image is grey with more than 8 bits, which Pillow would clip at 255."""
    return image.mode.startswith(("I", "F"))


def _grey(image: Any) -> NDArray[Any]:
    """The values of an image of more than 8 bits, NaN where it is transparent."""
    values = np.asarray(image).astype(np.float64)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int | float):
        values[values == hidden] = np.nan
    return values


def _plain(image: Any, cut: bool, name: str) -> Any:
    """An image of at most 8 bits a channel as "L" or "RGB", on black where it is transparent."""
    from PIL import Image

    with decoding(name):
        if image.has_transparency_data:
            colours = image.convert("RGBA")
            plain = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours).convert("RGB")
        else:
            plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if cut and int(np.asarray(plain).max(initial=0)) < SCARCE:
        raise ValueError(
            f"{name} has 16 bits a colour and uses at most 12 of them, of which Pillow reads the upper 8: convert it to"
            " 8 bits a colour"
        )
    return plain
