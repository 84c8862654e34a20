"""What every reader returns: grey values or colours, their place, and what the header says about them."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.files import DamagedError

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
FRAMES = ("refuse", "first", "middle", "each")  # what to do with a file that holds several pictures or volumes
LONGEST = 300  # characters of the reason that a library gives
AGAIN = "get the original file again"


@dataclass(frozen=True)
class Person:
    """What a header says about the person and the place: used to group cases, never written as it is.

    words: field -> text that names the person or the study. tags: names of all fields that hold something that
    identifies. burned: why there may be text in the pixels.
    """

    patient: str = ""
    institution: str = ""
    words: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    burned: str = ""


@dataclass(frozen=True)
class Scan:
    """A picture (height, width[, 3]) or a volume (right, anterior, superior), its place and its header.

    values: stored integers, or float32 after rescaling; NaN where the file says that there is no value. spacing: mm for
    each axis, if stated. affine: (4, 4) in mm, of a volume whose orientation is stated. window: values that the header
    shows black and white. display: 0 to 1, where the header has another curve than a window. inverted: low values are
    white. hounsfield: values are Hounsfield units of CT. facts: plain header facts, such as the manufacturer. notes:
    what was done that a reader may not expect.
    """

    values: NDArray[Any]
    spacing: tuple[float, ...] | None = None
    affine: NDArray[np.float64] | None = None
    colour: bool = False
    window: tuple[float, float] | None = None
    display: NDArray[np.float32] | None = None
    inverted: bool = False
    hounsfield: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    person: Person = field(default_factory=Person, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def dimensions(self) -> int:
        """2 for a picture, 3 for a volume."""
        return self.values.ndim - self.colour


def library(name: str, what: str) -> Any:
    """Import a library of the extra `images` when it is first needed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {what} needs {name}, which is not installed: pip install 'fedlab-workbench[images]'", name=name
        ) from error


def frames_of(count: int, frames: str, name: str, what: str) -> list[int]:
    """Which of several pictures or volumes in one file are wanted; ValueError if that was not said."""
    if frames == "refuse":
        raise ValueError(
            f"{name} holds {count} {what}: choose with frames='first', 'middle' or 'each' (--frames), or save the one"
            " that is meant as a file of its own"
        )
    return {"first": [0], "middle": [count // 2], "each": list(range(count))}[frames]


@contextmanager
def decoding(name: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turn any error of a library that decodes a file into a DamagedError with the file's name."""
    from PIL import ImageFile, UnidentifiedImageError

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # other code may have set it
    try:
        yield
    except (DamagedError, ModuleNotFoundError):
        raise
    except Exception as error:  # decoders raise many kinds of errors
        unknown = isinstance(error, UnidentifiedImageError)
        message = " ".join(str(error).split()) or type(error).__name__
        reason = f"it is none of {', '.join(FORMATS)}" if unknown else message
        raise DamagedError(f"{name} cannot be decoded ({reason[:LONGEST]}): {remedy}") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
