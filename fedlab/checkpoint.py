"""State of a run in one file that is replaced as a whole, without pickle: tensors, and a JSON skeleton around them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedlab.federation import Ensemble, Localised
from fedlab.stages import part
from fedlab.weights import Layout, Weights


def save(path: Path, state: Any) -> None:
    """Write nested dicts and lists of weights, ensembles, tensors, arrays and plain values."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _pack(state, tensors, {})
    scratch = path.with_suffix(".writing")
    save_file(tensors, scratch, metadata={"state": json.dumps(skeleton)})
    scratch.replace(path)


def load(path: Path, layout: Layout, device: torch.device) -> Any:
    """What `save` wrote, bit for bit, on this device."""
    with safe_open(path, "pt") as file:
        skeleton = json.loads(file.metadata()["state"])
        tensors = {key: file.get_tensor(key).to(device) for key in file.keys()}  # noqa: SIM118
    return _unpack(skeleton, tensors, layout)


def _pack(value: Any, tensors: dict[str, torch.Tensor], seen: dict[tuple, str]) -> Any:
    if isinstance(value, Weights):
        parts = {name: _pack(t, tensors, seen) for name, t in value.tensors().items()}
        return {"weights": parts, "sites": value.sites, "stages": getattr(value.layout, "stages", None)}
    if isinstance(value, Ensemble):
        return {"ensemble": _pack(value.models, tensors, seen), "shares": value.shares.tolist()}
    if isinstance(value, Localised):
        return {"shared": _pack(value.shared, tensors, seen), "sites": _pack(value.sites, tensors, seen)}
    if isinstance(value, torch.Tensor):
        place = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)  # one copy of what is held twice
        if place not in seen:
            seen[place] = str(len(tensors))
            tensors[seen[place]] = value.detach().contiguous().clone()
        return {"tensor": seen[place]}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {"dict": {key: _pack(item, tensors, seen) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [_pack(item, tensors, seen) for item in value]}
    return {"value": value}


def _unpack(node: Any, tensors: dict[str, torch.Tensor], layout: Layout) -> Any:
    if "weights" in node:
        own = layout if node["stages"] is None else part(layout, node["stages"])
        sites = None if node["sites"] is None else tuple(node["sites"])
        return Weights(own, **{name: _unpack(t, tensors, layout) for name, t in node["weights"].items()}, sites=sites)
    if "ensemble" in node:
        return Ensemble(_unpack(node["ensemble"], tensors, layout), np.array(node["shares"]))
    if "shared" in node:
        return Localised(_unpack(node["shared"], tensors, layout), _unpack(node["sites"], tensors, layout))
    if "tensor" in node:
        return tensors[node["tensor"]].clone()
    if "array" in node:
        return np.array(node["array"], dtype=node["dtype"])
    if "dict" in node:
        return {key: _unpack(item, tensors, layout) for key, item in node["dict"].items()}
    if "list" in node:
        return [_unpack(item, tensors, layout) for item in node["list"]]
    return node["value"]
