"""Operations that make the host wait for a GPU, counted on a CPU."""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

T = torch.Tensor
CALLS = {T.cpu: "cpu", T.numpy: "numpy", T.tolist: "tolist", T.__array__: "__array__"}  # on a GPU each is a transfer
OPERATIONS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "is_nonzero"}


class HostReads(TorchFunctionMode):
    """Counts by name, inside this context, what waits until the device's queue is empty."""

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self._below = _Operations(self.found)

    def __enter__(self):
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._below.__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in CALLS:
            self.found[CALLS[function]] += 1
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(_is_mask(index) for index in args[1])
        if name in OPERATIONS or masks:  # an index by booleans looks for the places that are true
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def _is_mask(index):
    return index is not None and index.dtype in (torch.bool, torch.uint8)
