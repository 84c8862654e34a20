"""State of a run in one file that is replaced as a whole; read without running code from the file.

Lists, tuples, dicts, plain values and tensors are stored as PyTorch stores them; arrays of numpy and models of fedlab
as a `Stored` of these. What is read is what was written, type for type and bit for bit.
"""

import hashlib
import io
import reprlib
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fedlab.core.layout import Layout
from fedlab.core.stages import stage_layout
from fedlab.core.weights import Weights
from fedlab.federation import Ensemble, Localised

PLAIN = (type(None), bool, int, float, str)
NO_COMMENT, COMMENT = b"\x00\x00", b"\x20\x00"  # lengths of the comment of a zip archive, 0 and 32 bytes
MODELS = {kind.__name__: kind for kind in (Weights, Ensemble, Localised)}


class Stored(NamedTuple):
    """The kind of a value that PyTorch does not store, and what it is made of."""

    kind: str
    content: Any


torch.serialization.add_safe_globals([Stored])


def save(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of models, tensors, arrays and plain values.

    TypeError names any other value and where it is.
    """
    scratch = path.with_suffix(".writing")
    torch.save(_pack(state, ""), buffer := io.BytesIO())
    content = buffer.getbuffer()[: -len(NO_COMMENT)]
    with scratch.open("wb") as file:  # OSError if the disk is full; torch.save to a file raises RuntimeError
        file.writelines((content, COMMENT, _checksum(content)))
    scratch.replace(path)


def load(path: Path, layout: Layout, device: torch.device) -> Any:
    """Read what `save` wrote, with tensors on this device; ValueError for a damaged file or another model."""
    try:
        content = memoryview(path.read_bytes())
        rest, comment, stored = content[:-34], content[-34:-32], content[-32:]
        if comment == COMMENT and stored != _checksum(rest):  # PyTorch compares none
            raise ValueError("its bytes are not those that were stored")
        if content[:2] != b"PK":  # with which a zip archive begins
            raise ValueError("it is no checkpoint")
        return _unpack(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), layout, device)
    except MemoryError:
        raise
    except Exception as error:  # of the disk, pickle or PyTorch
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"{path.name}: {reason}") from error


def _checksum(content: memoryview) -> bytes:
    """Hash in 32 letters, the comment at the end of the file, which is a zip archive."""
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _pack(value: Any, name: str) -> Any:
    """Replace what PyTorch does not store; name: where the value is, such as "memory['w']"."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple):
        return kind(_pack(item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind is dict:
        return {_key(key, name): _pack(item, f"{name}[{key!r}]" if name else str(key)) for key, item in value.items()}
    if kind in MODELS.values():
        return Stored(kind.__name__, [_pack(getattr(value, field.name), name) for field in fields(value)])
    if isinstance(value, Layout):
        return Stored("Layout", getattr(value, "stages", None))
    if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        np.save(file := io.BytesIO(), value, allow_pickle=False)
        content = torch.frombuffer(bytearray(file.getbuffer()), dtype=torch.uint8)
        return Stored("array" if kind is np.ndarray else "scalar", content)
    if kind in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_quantized:
        whole = value.untyped_storage().nbytes() <= 2 * value.nbytes  # else it is a small part of other memory
        return value.detach() if whole else value.detach().clone()
    raise _refusal(value, name)


def _key(key: Any, name: str) -> Any:
    """Pack a key of a dict: plain values, scalars of numpy, and tuples of them."""
    if type(key) is tuple:
        return tuple(_key(each, name) for each in key)
    if type(key) in PLAIN or isinstance(key, np.generic):
        return _pack(key, name)
    raise _refusal(key, f"a key of {name or 'the state'}")


def _unpack(value: Any, layout: Layout, device: torch.device) -> Any:
    kind = type(value)
    if kind in (list, tuple):
        return kind(_unpack(item, layout, device) for item in value)
    if kind is dict:
        return {_unpack(key, layout, device): _unpack(item, layout, device) for key, item in value.items()}
    if kind is torch.Tensor:
        return value.to(device, copy=True, memory_format=torch.contiguous_format)
    if kind is not Stored:
        return value
    if value.kind == "Layout":
        return layout if value.content is None else stage_layout(layout, value.content)
    if value.kind in ("array", "scalar"):
        array = np.load(io.BytesIO(value.content.numpy().tobytes()), allow_pickle=False)
        return array if value.kind == "array" else array[()]
    found = MODELS[value.kind](*_unpack(value.content, layout, device))
    if isinstance(found, Weights) and found.vector.shape[-1] != found.layout.size:
        raise ValueError(
            f"its weights are vectors of {found.vector.shape[-1]} numbers, this fedlab lays the model out in"
            f" {found.layout.size}: it was written by another version"
        )
    return found


def _refusal(value: Any, name: str) -> TypeError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    dtype = f" of dtype {value.dtype}" if isinstance(value, np.ndarray | torch.Tensor) else ""
    return TypeError(
        f"{name or 'the state'} is {reprlib.repr(value)} ({kind}{dtype}), which a checkpoint cannot hold: let the"
        " memory of a method be weights, dense tensors, arrays and scalars of numpy (no objects), numbers, text, True,"
        " False, None, or lists, tuples and dicts of these; keys of dicts are plain values or tuples of them"
    )
