"""What a run says of itself to a human reader: its card, and what it was computed with."""

import json
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch

from fedlab.experiments.experiment import Experiment
from fedlab.experiments.recorder import Recorder
from fedlab.federation import Federation


def environment(record: Recorder) -> dict[str, Any]:
    """What the run was computed with."""
    packages = ("fedlab-workbench", "torch", "monai", "numpy", "pandas", "scikit-learn")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": _device_name(record.fed.device),
        "threads": torch.get_num_threads(),
        "execution": sorted(record.fed.execution.used),
        "sites side by side": record.fed.execution.lanes.count,
        "packages": {name: version(name) for name in packages},
    }


def card(record: Recorder, experiment: Experiment) -> str:
    """One page for a human reader."""
    fed, chosen = record.fed, record.selection
    data = fed.partition.cases.card
    settings = [f"| {name} | {value} |" for name, value in experiment.model_dump().items()]
    rounds = [f"* best round of {owner}: {number}" for owner, number in chosen.round.items()]
    total = int(fed.ledger.frame()["bytes"].sum())
    lines = [
        f"# {experiment.method} on {data.get('title', experiment.dataset)}",
        "",
        f"{len(fed.sites)} institutions, {fed.union.cases} training cases, {fed.round} rounds;{_held_out(fed)}"
        f" {total:,} bytes crossed institutions' borders.",
        "",
        *rounds,
        "",
        f"Federation: {json.dumps(fed.partition.spec, ensure_ascii=False)}",
        "",
        fed.partition.counts().to_string(),
        "",
        "| parameter | value |",
        "| --- | --- |",
        *settings,
        "",
        f"Data: {data.get('source', '')}. Licence: {data.get('licence', '')}. Cite: {data.get('citation', '')}",
    ]
    return "\n".join(lines) + "\n"


def _held_out(fed: Federation) -> str:
    unseen = fed.partition.unseen
    return f" {', '.join(unseen)} held out of training;" if unseen else ""


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
