"""What a CUDA graph does, on a processor: operations are recorded once and repeated in the memory that they were
recorded with, and every number that Python had at that time stays as it was.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WARM = 2
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}  # which no graph may hold
COMES = {"lift_fresh"}  # of `torch.tensor(...)`: the graph would keep the number, and cannot copy it


def recorder(device):
    """In the place of `fedlab.engine.cuda_graph.recorder`."""

    def record(call):
        for _ in range(WARM):
            call()
        with Recording() as recording:
            call()
        return recording.play

    return record


class Recording(TorchDispatchMode):
    """The operations that run while it is entered."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in WAITS, f"the step waits for the device: {name}"
        assert name not in COMES, f"the step brings a number of Python's to the device: {name}"
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def play(self):
        for function, args, kwargs, out in self.operations:
            aliases = [returned.alias_info for returned in function._schema.returns]
            if any(alias is not None and not alias.is_write for alias in aliases):
                continue  # a view sees what is written to its memory
            found = function(*args, **kwargs)
            if not any(alias is not None for alias in aliases):
                for place, value in zip(tree_leaves(out), tree_leaves(found), strict=True):
                    if isinstance(place, torch.Tensor):
                        place.copy_(value)
