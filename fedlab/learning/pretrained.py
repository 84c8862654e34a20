"""Weights from a local file: safetensors, a file of `torch.save`, or the folder of a finished run.

Tensors are taken over by name. Everything but the last stage (the head) must match in name and shape; a head of other
classes keeps its initial weights, and the run says so. No code of the file is run: files of PyTorch are read with
`weights_only=True`.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from fedlab.core import files
from fedlab.core.layout import FACTORS
from fedlab.learning.trainable import SCALE, head_names

HOLDERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts store a state dict
PREFIXES = ("module.", "model.", "_orig_mod.")  # of wrappers, removed where every name has them
OF_RUNS = "weights.safetensors"  # in the folder of a run
SHARED = "global"  # the model of a run that is taken
LISTED = 12  # tensors that an error names


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file by name; name: as the user wrote it; version: hash of its bytes."""

    name: str
    tensors: dict[str, Tensor]
    version: str


def version(name: str | None) -> str:
    """Hash of the bytes of a file of weights, empty for none; computed again when the file has changed."""
    if name is None:
        return ""
    path = _path(name)
    about = path.stat()
    return _version(path, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))


@lru_cache(maxsize=64)
def _version(path: Path, stamp: tuple[int, ...]) -> str:
    return files.checksum(path)


def read(name: str) -> WeightsFile:
    """Read a file of weights.

    Parameters
    ----------
    name : str
        Path of a safetensors file, of a file of `torch.save`, or of the folder of a finished run, whose "global" model
        of the last round is taken. A state dict may be inside a dict ("state_dict", "model"), and all names may begin
        with "module." or "model.".

    Returns
    -------
    WeightsFile

    Raises
    ------
    ValueError
        If there is no such file, it cannot be read, or it holds something else than tensors by name.

    Examples
    --------
    >>> import tempfile, torch
    >>> from fedlab.learning.pretrained import read
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": {"module.0.bias": torch.zeros(2)}}, f"{folder}/w.pt")
    ...     read(f"{folder}/w.pt").tensors
    {'0.bias': tensor([0., 0.])}
    """
    content = _path(name).read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        found, about = _of_safetensors(content) if _is_safetensors(content) else (_of_torch(content), {})
    except MemoryError:
        raise
    except Exception as error:  # of safetensors, pickle, zip or PyTorch
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _unreadable(name, why) from error
    if {"names", "same", "rounds"} <= about.keys():
        found = _of_run(name, found, json.loads(about["names"]))
    return WeightsFile(name, _merged(_without_prefixes(_state_dict(name, found))), digest)


def load(model: nn.Module, file: WeightsFile) -> list[str]:
    """Load the file's tensors into a model; the names in its last stage if these keep their initial weights.

    A model may have the attribute `names_in_files`, name in published files -> its own name.

    Raises
    ------
    ValueError
        With the names, if anything but the last stage is missing, unexpected or of another shape, or if nothing but the
        last stage could be taken over.
    """
    wanted, head = model.state_dict(), head_names(model)
    published: Mapping[str, str] = getattr(model, "names_in_files", {})
    found = {published.get(name, name): tensor for name, tensor in file.tensors.items()}
    parameters = {name for name, _ in model.named_parameters()}
    body = [name for name in wanted if name not in head]
    wrong = _differences(wanted, found)
    if body and not any(name in parameters and name not in wrong for name in body):
        raise _misfit(file, wrong, "no tensor before the last stage matches")
    if body and any(name in head for name in wrong) and all(_at(name, head) for name in wrong):
        left_out = [name for name in wanted if name in head]
    elif wrong:
        raise _misfit(file, wrong, "they do not match the model")
    else:
        left_out = []
    for name in wanted.keys() & found.keys() - set(left_out):
        tensor = found[name]
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"weights={file.name!r}: {name} holds numbers that are not finite: use another file")
        wanted[name].copy_(tensor)
    return left_out


def _differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> what is wrong with it; counters of batches, which older files lack, may be missing."""
    wrong = {}
    for name, tensor in wanted.items():
        if name not in found:
            if tensor.ndim or tensor.is_floating_point():
                wrong[name] = f"missing, the model has {tuple(tensor.shape)}"
        elif found[name].shape != tensor.shape:
            wrong[name] = f"{tuple(found[name].shape)}, the model has {tuple(tensor.shape)}"
        elif found[name].is_floating_point() != tensor.is_floating_point():
            wrong[name] = f"{found[name].dtype}, the model has {tensor.dtype}"
    return wrong | {name: f"unexpected, {tuple(found[name].shape)}" for name in found.keys() - wanted.keys()}


def _at(name: str, head: Sequence[str]) -> bool:
    """Whether a tensor, which the model may not have, belongs to the last stage."""
    stages = {each.partition(".")[0] for each in head}
    return name in head or name.partition(".")[0] in stages


def _misfit(file: WeightsFile, wrong: Mapping[str, str], why: str) -> ValueError:
    """The error that lists what differs between file and model."""
    listed = [f"{name} ({what})" for name, what in sorted(wrong.items(), key=lambda pair: _natural(pair[0]))]
    more = f" and {len(listed) - LISTED:,} more" if len(listed) > LISTED else ""
    return ValueError(
        f"weights={file.name!r} cannot be used, {why}: {'; '.join(listed[:LISTED])}{more}. Only the last"
        " stage may differ: choose the model, its arguments and the images' channels with which the file was made, or"
        " rename its tensors"
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts stage 10 after stage 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in name.split(".")]


def _path(name: str) -> Path:
    """The file; ValueError if there is none."""
    path = files.resolve(name)
    if path.is_dir():
        path = path / OF_RUNS
    if not path.is_file():
        raise ValueError(
            f"weights={name!r}: there is no file {path}: give a safetensors file, one of torch.save, or a run folder"
        )
    return path


def _is_safetensors(content: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header, then the header."""
    return content[8:9] == b"{" and 8 + int.from_bytes(content[:8], "little") <= len(content)


def _of_safetensors(content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(load_safetensors(content)), header.get("__metadata__") or {}


def _of_run(name: str, tensors: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The tensors of the shared model among those of a run."""
    owners = sorted({key.split("/", 1)[1].rsplit("/", 1)[0] for key in tensors if key.startswith("last/")})
    if SHARED not in owners:
        raise ValueError(
            f"weights={name!r} are of a run without a shared model (it has {', '.join(owners)}): store the one to start"
            f" from, as in torch.save(run.weights({owners[0]!r}), 'weights.pt')"
        )
    return {each: tensors[f"last/{SHARED}/{each}"] for each in names}


def _of_torch(content: bytes) -> Any:
    """What a file of `torch.save` holds."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _state_dict(name: str, found: Any) -> dict[str, Tensor]:
    """The tensors by name, also from inside a dict; ValueError if there are none."""
    while isinstance(found, Mapping) and any(isinstance(found.get(key), Mapping) for key in HOLDERS):
        found = next(found[key] for key in HOLDERS if isinstance(found.get(key), Mapping))
    if isinstance(found, Mapping) and found and all(isinstance(each, Tensor) for each in found.values()):
        return {str(key): each.detach() for key, each in found.items()}
    raise _unreadable(name, f"it holds {_kind(found)}, wanted are tensors by name")


def _kind(found: Any) -> str:
    """What a file holds, in words."""
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(repr, list(found)[:LISTED]))}" if found else "nothing"
    return f"a {type(found).__name__}"


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names without the prefixes of wrappers."""
    for prefix in (found for _ in PREFIXES for found in PREFIXES):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the adapters of a run added to them, W + (alpha/r) B A."""
    scales = [name for name in tensors if name.rpartition(".")[2] == SCALE]
    merged = dict(tensors)
    for layer in (name.removesuffix(SCALE) for name in scales):
        scale, a, b = (merged.pop(layer + each) for each in (SCALE, *FACTORS))
        weight = merged[f"{layer}weight"]
        merged[f"{layer}weight"] = (weight.double() + scale.double() * (b.double() @ a.double()).view_as(weight)).to(
            weight
        )
    return merged


def _unreadable(name: str, why: str) -> ValueError:
    return ValueError(
        f"weights={name!r} cannot be read ({why}): store a network's state_dict, with safetensors.torch.save_file or"
        " torch.save"
    )
