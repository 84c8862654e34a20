"""State of a run in one file that is replaced as a whole, without pickle: tensors, and a JSON skeleton around them.

What is read is what was written, type for type. A node of the skeleton is {kind: what it holds}.
"""

import io
import json
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from fedlab.core.layout import Layout
from fedlab.core.stages import part
from fedlab.core.weights import Weights
from fedlab.federation import Ensemble, Localised

PLAIN = (type(None), bool, int, float, str)  # as JSON has them, nan and inf included
Node = dict[str, Any]


def save(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of weights, ensembles, tensors, arrays and plain values.

    Raises TypeError that names whatever is none of these.
    """
    writer = _Writer()
    skeleton = writer.node(state, "")
    scratch = path.with_suffix(".writing")
    save_file(writer.tensors, scratch, metadata={"state": json.dumps(skeleton)})
    scratch.replace(path)


def load(path: Path, layout: Layout, device: torch.device) -> Any:
    """What `save` wrote, bit for bit; tensors are on this device."""
    with safe_open(path, "pt") as file:
        skeleton = json.loads(file.metadata()["state"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return _Reader(tensors, layout, device).value(skeleton)


class _Writer:
    """Turns values into nodes; tensors and the bytes of arrays are put aside, memory that is held twice once."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._seen: dict[tuple, str] = {}

    def node(self, value: Any, name: str) -> Node:
        """The node of a value; name: where it stands, such as "memory['w']"."""
        kind = type(value)
        if kind in PLAIN:
            return {"plain": value}
        if kind in (list, tuple):
            return {kind.__name__: [self.node(item, f"{name}[{i}]") for i, item in enumerate(value)]}
        if kind is dict:
            inside = [(key, f"{name}[{key!r}]" if name else str(key)) for key in value]
            return {"dict": [[self._key(key, name), self.node(value[key], place)] for key, place in inside]}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), name)}
        if kind is np.ndarray:
            return {"array": self._array(value, name)}
        if isinstance(value, torch.Tensor):
            return {"tensor": self._tensor(value, name)}
        return self._models(value, name)

    def _models(self, value: Any, name: str) -> Node:
        if isinstance(value, Weights):
            held = {key: self._tensor(tensor, name) for key, tensor in value.tensors().items()}
            held |= {} if value.clock is None else {"clock": self._array(value.clock, name)}
            return {"weights": [held, value.sites, getattr(value.layout, "stages", None)]}
        if isinstance(value, Ensemble):
            return {"ensemble": [self.node(each, name) for each in (value.models, value.shares)]}
        if isinstance(value, Localised):
            return {"localised": [self.node(each, name) for each in (value.shared, value.sites)]}
        raise _refusal(value, name)

    def _key(self, key: Any, name: str) -> Node:
        """A dict is found again by plain keys, numpy scalars and tuples of them."""
        if type(key) is tuple:
            return {"tuple": [self._key(each, name) for each in key]}
        if type(key) in PLAIN or isinstance(key, np.generic):
            return self.node(key, name)
        raise _refusal(key, f"a key of {name or 'the state'}")

    def _tensor(self, value: torch.Tensor, name: str) -> str:
        if value.layout is not torch.strided or value.is_quantized or value.dtype == torch.complex128:
            raise _refusal(value, name)
        place = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if place not in self._seen:
            self._seen[place] = self._put(value.detach().contiguous().clone())
        return self._seen[place]

    def _array(self, value: NDArray[Any], name: str) -> str:
        if value.dtype.hasobject:
            raise _refusal(value, name)
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return self._put(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8))

    def _put(self, tensor: torch.Tensor) -> str:
        key = str(len(self.tensors))
        self.tensors[key] = tensor
        return key


class _Reader:
    """Turns nodes into values: a method for each kind of node."""

    def __init__(self, tensors: dict[str, torch.Tensor], layout: Layout, device: torch.device) -> None:
        self.tensors, self.layout, self.device = tensors, layout, device

    def value(self, node: Node) -> Any:
        ((kind, held),) = node.items()
        return getattr(self, f"_{kind}")(held)

    def _plain(self, held: Any) -> Any:
        return held

    def _list(self, held: list[Node]) -> list[Any]:
        return [self.value(item) for item in held]

    def _tuple(self, held: list[Node]) -> tuple[Any, ...]:
        return tuple(self._list(held))

    def _dict(self, held: list[list[Node]]) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in held}

    def _array(self, key: str) -> NDArray[Any]:
        found: NDArray[Any] = np.load(io.BytesIO(self.tensors[key].numpy().tobytes()), allow_pickle=False)
        return found

    def _scalar(self, key: str) -> Any:
        return self._array(key)[()]

    def _tensor(self, key: str) -> torch.Tensor:
        return self.tensors[key].to(self.device, copy=True)

    def _weights(self, held: list[Any]) -> Weights:
        tensors, sites, stages = held
        layout = self.layout if stages is None else part(self.layout, stages)
        owners = None if sites is None else tuple(sites)
        clock = self._array(tensors.pop("clock")) if "clock" in tensors else None
        found = Weights(layout, **{name: self._tensor(key) for name, key in tensors.items()}, clock=clock, sites=owners)
        if found.vector.shape[-1] != layout.size:
            raise ValueError(
                f"its weights are vectors of {found.vector.shape[-1]} numbers, this fedlab lays the model out in"
                f" {layout.size}: it was written by another version"
            )
        return found

    def _ensemble(self, held: list[Node]) -> Ensemble:
        return Ensemble(*self._list(held))

    def _localised(self, held: list[Node]) -> Localised:
        return Localised(*self._list(held))


def _refusal(value: Any, name: str) -> TypeError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    dtype = f" of dtype {value.dtype}" if isinstance(value, np.ndarray | torch.Tensor) else ""
    return TypeError(
        f"{name or 'the state'} is {reprlib.repr(value)} ({kind}{dtype}), which a checkpoint cannot hold: let the"
        " memory of a method be weights, dense tensors, arrays and scalars of numpy (no objects), numbers, text, True,"
        " False, None, or lists, tuples and dicts of these; keys of dicts are plain values or tuples of them"
    )
