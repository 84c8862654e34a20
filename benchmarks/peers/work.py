"""The work that peers are given, as files: images, labels, each site's batches in every round, initial weights.

Needs numpy and torch alone, since each peer runs in a separate environment. The network is fedlab's small CNN with
group normalisation: it has no running statistics, of which peers disagree whether they are averaged, so that all must
end with the same weights.
"""

import json
import os
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

LR, MOMENTUM = 0.02, 0.9
MEMORY = torch.channels_last if os.environ.get("MEMORY") == "channels last" else torch.contiguous_format


class Workload:
    """What lies in the folder: `given.npz` and `given.json`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.given = np.load(self.folder / "given.npz")
        about = json.loads((self.folder / "given.json").read_text(encoding="utf-8"))
        self.sites, self.rounds, self.cases = about["sites"], about["rounds"], about["cases"]
        self.names = [name for name in self.given.files if name.startswith("weights/")]

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels, as floats."""
        images = torch.from_numpy(self.given["images"]).float().div_(255)
        return images.contiguous(memory_format=MEMORY), torch.from_numpy(self.given["labels"]).float()

    def batches(self, site: int, number: int) -> list[torch.Tensor]:
        """The batches of a site in round `number`, counted from 1."""
        order, cuts = self.given[f"order/{site}"][number - 1], self.given[f"cuts/{site}"]
        return [torch.from_numpy(part) for part in np.split(order, cuts)]

    def initial(self) -> dict[str, torch.Tensor]:
        """A state_dict."""
        return {name.removeprefix("weights/"): torch.from_numpy(self.given[name]) for name in self.names}

    def network(self) -> nn.Sequential:
        """The network with its initial weights."""
        net = network()
        net.load_state_dict(self.initial())
        return net.to(memory_format=MEMORY).train()

    def finish(self, state: dict[str, torch.Tensor]) -> None:
        """Keep the final weights."""
        np.savez(self.folder / "found.npz", **{name: tensor.detach().numpy() for name, tensor in state.items()})


def network() -> nn.Sequential:
    """Three convolutions with group normalisation and pooling, the mean over the image, one logit."""
    stages: list[nn.Module] = []
    for inputs, channels in ((1, 16), (16, 32), (32, 64)):
        conv = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        norm = nn.GroupNorm(max(1, channels // 8), channels)
        stages.append(nn.Sequential(conv, norm, nn.MaxPool2d(2), nn.ReLU(inplace=True)))
    return nn.Sequential(*stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(64, 1))


class Net(nn.Sequential):
    """The network as a class that a job can name."""

    def __init__(self) -> None:
        super().__init__(*network())


def train(net: nn.Module, batches: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> None:
    """One pass with a fresh optimizer: what every peer's client does."""
    optimizer = torch.optim.SGD(net.parameters(), LR, momentum=MOMENTUM)
    for index in batches:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(images[index])[:, 0], labels[index])
        loss.backward()
        optimizer.step()


@lru_cache
def opened(folder: Path) -> tuple[Workload, torch.Tensor, torch.Tensor, nn.Sequential]:
    """Work, images, labels and network, once a process."""
    torch.set_num_threads(1)
    work = Workload(folder)
    return work, *work.data(), work.network()


def arguments() -> tuple[Workload, dict[str, str]]:
    """The folder and the options of the command line."""
    return Workload(sys.argv[1]), dict(option.split("=") for option in sys.argv[2:])
