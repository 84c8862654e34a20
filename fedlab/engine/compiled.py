"""The serial engine whose network is compiled by `torch.compile`.

It pays where its compiler joins operations that wait for memory, after some ten seconds for each shape of batch; on a
processor it was measured not to (benchmarks/README.md).
"""

from typing import Any

import torch
from torch import Tensor

from fedlab.engine.serial import Serial
from fedlab.engine.work import Work

BACKEND = "inductor"


class Compiled(Serial):
    """obstacle: why the network could not be compiled; None until it is tried, and where it could."""

    obstacle: str | None = None

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._compiled = torch.compile(self.flat.model, backend=BACKEND)

    def mode_of(self, work: Work) -> str:
        """A step in which a method looks at representations goes through the stages one by one."""
        return "compiled" if self.obstacle is None and work.term is None else "serial"

    def forward(self, images: Tensor) -> Tensor:
        """Logits in training."""
        if self.obstacle is None:
            try:
                return self._compiled(images)
            except torch._dynamo.exc.TorchDynamoException as error:
                told = [line.strip() for line in str(error).splitlines() if line.strip()]
                self.obstacle = f"torch.compile failed: {' '.join(told[:2])}"
        return super().forward(images)
