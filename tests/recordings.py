"""A CUDA graph on a CPU: operations are captured once and repeated in the memory of the capture, and every number that
Python had at that time keeps its value.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WARM_UP = 2
HOST_READS = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}  # which no graph may contain
HOST_COPIES = {"lift_fresh"}  # by `torch.tensor(...)`: the graph would keep the number, and cannot copy it


def capture_on(device):
    """Instead of `fedlab.engine.cuda_graph.capture_on`."""

    def capture(call):
        for _ in range(WARM_UP):
            call()
        with Recording() as recording:
            call()
        return recording.replay

    return capture


class Recording(TorchDispatchMode):
    """The operations that run inside this context."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in HOST_READS, f"the step waits for the device: {name}"
        assert name not in HOST_COPIES, f"the step copies a Python number to the device: {name}"
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, out in self.operations:
            aliases = [returned.alias_info for returned in function._schema.returns]
            if any(alias is not None and not alias.is_write for alias in aliases):
                continue  # a view sees what is written to its memory
            found = function(*args, **kwargs)
            if not any(alias is not None for alias in aliases):
                for target, value in zip(tree_leaves(out), tree_leaves(found), strict=True):
                    if isinstance(target, torch.Tensor):
                        target.copy_(value)
