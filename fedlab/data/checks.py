"""Check that the card, the table, the images and the masks of cases are what they should be, and fit together."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.typing import Ints
from fedlab.data.columns import check_columns, is_absent, kind_of
from fedlab.data.extents import check_extents, cut
from fedlab.data.structures import MOST, highest_value
from fedlab.data.target_column import REGRESSION, check_target

TASKS = ("binary", "multiclass", "ordinal", "multilabel", "segmentation", "regression")
SPLITS = ("train", "val", "test")
# Least and most classes; other tasks have at least two.
LIMITS: dict[str, tuple[int, float]] = {
    "binary": (2, 2),
    "multilabel": (1, 62),
    "segmentation": (1, math.inf),
    "regression": (1, math.inf),
}
BLOCK = 2**26  # bytes of images read at a time, so that a memory-mapped dataset never has to fit in memory
MOST_CHANNELS = 16  # of a volume; a longer first axis holds slices


def check_card(card: Any) -> None:
    """Check that a card is a dictionary of plain values with name, task and classes."""
    if not isinstance(card, dict):
        raise ValueError(f"the card is a {type(card).__name__}: give a dictionary with name, task and classes")
    for key in ("name", "task", "classes"):
        if key not in card:
            raise ValueError(f"the card has no {key!r}: add it to card.json (found {sorted(map(str, card))})")
    for key in ("name", "modality"):
        if key in card and not (isinstance(card[key], str) and card[key].strip()):
            raise ValueError(f"the card's {key} is {card[key]!r}: write text")
    if card["task"] not in TASKS:
        raise ValueError(f"the card's task is {card['task']!r}: {nearest(str(card['task']), TASKS)}")
    least, most = LIMITS.get(card["task"], (2, math.inf))
    if not _are_names(card["classes"]) or not least <= len(card["classes"]) <= most:
        wanted = "two" if most == 2 else f"at least {least}"
        raise ValueError(
            f"the card's classes are {card['classes']!r}: list {wanted} different names for a {card['task']} task"
        )
    for key, value in card.items():
        _check_plain(key, value)


def _are_names(names: Any) -> bool:
    """Whether these are different, non-empty texts."""
    texts = isinstance(names, list | tuple) and all(isinstance(name, str) and name.strip() for name in names)
    return texts and len(set(names)) == len(names)


def _check_plain(key: Any, value: Any) -> None:
    """Check that a field of the card can be written as JSON in UTF-8."""
    try:
        if not isinstance(key, str):
            raise TypeError("its name is no text")
        json.dumps({key: value}, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the card's field {key!r} cannot be written as JSON ({error}): use text, numbers, lists and dictionaries"
        ) from None


def check_table(table: pd.DataFrame, card: dict[str, Any]) -> None:
    """Check columns, case names, labels, splits and patients."""
    check_columns(table)
    for column in ("case", "label"):
        if column not in table:
            raise ValueError(
                f"the table has no column {column!r}: found {list(table.columns)}; {nearest(column, table.columns)}"
                " Rename or add it"
            )
    if not len(table):
        raise ValueError("the table has no rows: a dataset has at least one case")
    unnamed = np.array([not isinstance(name, str) or not name for name in table["case"].tolist()])
    if unnamed.any():
        raise ValueError(
            f"column 'case' holds {table['case'][unnamed].iloc[0]!r}: name every case by text, e.g."
            " table['case'].astype(str), since a number would mean a row"
        )
    if not table["case"].is_unique:
        twice = table["case"][table["case"].duplicated()].iloc[0]
        raise ValueError(f"case {twice!r} occurs more than once in the table: give every case a unique name")
    _check_labels(table, card)
    if "split" in table and not table["split"].isin(SPLITS).all():
        raise ValueError(f"column 'split' holds {sorted(set(table['split'].astype(str)) - set(SPLITS))}: use {SPLITS}")
    if "patient" in table:
        _check_patients(table)
    if card["task"] == REGRESSION:
        check_target(table, card)


def _check_labels(table: pd.DataFrame, card: dict[str, Any]) -> None:
    """Check that labels are whole numbers of the card's classes."""
    limit = 2 ** len(card["classes"]) if card["task"] == "multilabel" else len(card["classes"])
    if kind_of(table["label"]) not in ("integer", "floating", "boolean", "string"):
        raise ValueError(f"column 'label' holds {kind_of(table['label'])} values: number the classes from 0")
    labels = numbers_of(table["label"])
    wrong = labels.isna() | (labels < 0) | (labels >= limit) | (labels != labels.round())
    if wrong.any():
        row = table[wrong].iloc[0]
        raise ValueError(
            f"{int(wrong.sum())} labels are outside 0..{limit - 1} (first: case {row['case']!r}: {row['label']!r})"
            f": number the classes {card['classes']} from 0"
        )


def numbers_of(labels: pd.Series) -> pd.Series:
    """Labels as numbers, whatever holds them; missing where they are something else."""
    plain = labels.astype(object) if isinstance(labels.dtype, pd.CategoricalDtype) else labels
    numbers = pd.to_numeric(plain, errors="coerce")
    return numbers.astype(np.int64) if pd.api.types.is_bool_dtype(numbers) and not numbers.hasnans else numbers


def _check_patients(table: pd.DataFrame) -> None:
    """Check that no cases share a patient that stands for an unknown one: they would all stay together."""
    patients = table["patient"]
    unknown = is_absent(patients)
    if kind_of(patients) in ("integer", "floating"):
        unknown = (patients < 0).fillna(False).to_numpy(bool)
    if unknown.sum() > 1:
        raise ValueError(
            f"{unknown.sum()} cases have the patient {patients[unknown].iloc[0]!r} (first: case"
            f" {table['case'][unknown].iloc[0]!r}), who would be one person: write None where the patient is unknown"
        )


def check_images(images: Any, table: pd.DataFrame, card: dict[str, Any], masks: Any, extents: Any = None) -> None:
    """Check shapes, data types and values of images and masks; of unequal images within their extents."""
    for name, array in {"images": images, "masks": masks}.items():
        if array is not None and (not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray)):
            raise ValueError(f"{name} are a {type(array).__name__}: give an array of numpy, e.g. np.asarray({name})")
    if images is None:
        raise ValueError("there are no images: give an array (n, channels, height, width[, depth])")
    n = len(table)
    if images.ndim not in (4, 5) or images.shape[0] != n:
        gray = "; images of one channel are images[:, None]" if images.ndim == 3 and images.shape[0] == n else ""
        raise ValueError(
            f"images have shape {images.shape} but the table has {n} rows:"
            f" wanted ({n}, channels, height, width[, depth]){gray}"
        )
    if _channels_last(images.shape):
        channels, *edges = images.shape[1:]
        raise ValueError(
            f"images have shape {images.shape}, which would be {channels} channels of"
            f" {' x '.join(map(str, edges))} pixels: channels come first, so give"
            " np.ascontiguousarray(np.moveaxis(images, -1, 1))"
        )
    if not all(images.shape):
        raise ValueError(f"images have shape {images.shape}: wanted at least one channel and one pixel")
    if images.dtype not in (np.dtype(np.uint8), np.dtype(np.float16)):
        raise ValueError(f"images are {images.dtype}: store uint8 (0..255) or float16 (0..1)")
    if masks is not None and masks.shape != (n, *images.shape[2:]):
        wanted = (n, *images.shape[2:])
        raise ValueError(f"masks have shape {masks.shape}: wanted {wanted}, one mask for each image")
    if masks is not None and masks.dtype != np.uint8:
        raise ValueError(f"masks are {masks.dtype}: store the numbers of the structures as uint8")
    if extents is not None:
        check_extents(extents, images, table)
    if card["task"] == "segmentation":
        _check_masks(masks, table, card, extents)
    if images.dtype == np.float16:
        _check_finite(images, table, extents)


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the last axis seems to hold the channels: it is as short as none of an image, and the others are long."""
    others = shape[1:-1]
    return shape[-1] in (1, 3, 4) and min(others) > (MOST_CHANNELS if len(shape) == 5 else 4)


def _check_masks(
    masks: NDArray[np.uint8] | None, table: pd.DataFrame, card: dict[str, Any], extents: Ints | None
) -> None:
    """Check structures and mask values."""
    names = card.get("structures", card["classes"])
    if not _are_names(names) or len(names) < 2:
        raise ValueError(
            f"the card's structures are {names!r}: list a different name for each value of the masks, background first"
        )
    overlap = card.get("overlap", False)
    if not isinstance(overlap, bool) or (overlap and len(names) > MOST + 1):
        raise ValueError(
            f"the card has overlap={overlap!r} and {len(names) - 1} structures without the background: write true or"
            f" false, and true for at most {MOST} structures"
        )
    if masks is None:
        raise ValueError("a segmentation dataset has no masks: add masks.npy, or give the card another task")
    most = highest_value(len(names), overlap)
    for number, mask in enumerate(_inside(masks, extents)):
        if (top := int(mask.max(initial=0))) > most:
            remedy = f"give each but the background one bit, 0..{most} in all" if overlap else f"number them 0..{most}"
            raise ValueError(
                f"the mask of case {table['case'].iloc[number]!r} holds the value {top}, but the structures are"
                f" {list(names)}: {remedy}"
            )


def _check_finite(images: NDArray[np.float16], table: pd.DataFrame, extents: Ints | None) -> None:
    """Check that float images are finite and in [0, 1]."""
    for number, image in enumerate(_inside(images, extents)):
        low, high = image.min(), image.max()
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(
                f"case {table['case'].iloc[number]!r} has pixels that are NaN, infinite or outside [0, 1]:"
                " scale images to [0, 1] and fill holes before saving"
            )


def _inside(arrays: NDArray[Any], extents: Ints | None) -> Iterator[NDArray[Any]]:
    """Iterate over images or masks, within their extents if they have some."""
    if extents is None:
        return each(arrays)
    return (cut(array, extent) for array, extent in zip(each(arrays), extents, strict=True))


def each(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Iterate over images, reading many at a time."""
    step = max(1, BLOCK // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield from np.asarray(images[start : start + step])
