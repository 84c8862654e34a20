"""The report card of a run, a page for human readers, and the environment that computed it."""

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
    """Versions and hardware that computed the run."""
    packages = ("fedlab-workbench", "torch", "monai", "numpy", "pandas", "scikit-learn")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": _device_name(record.fed.device),
        "threads": torch.get_num_threads(),
        "execution": sorted(record.fed.execution.used),
        "sites in parallel": record.fed.execution.workers,
        "packages": {name: version(name) for name in packages},
    }


def card(record: Recorder, experiment: Experiment) -> str:
    """Write the report card as Markdown."""
    fed, chosen = record.fed, record.selection
    data = fed.partition.cases.card
    settings = [f"| {name} | {value} |" for name, value in experiment.model_dump().items()]
    rounds = [f"* best round of {owner}: {number}" for owner, number in chosen.round.items()]
    total = int(fed.ledger.frame()["bytes"].sum())
    lines = [
        f"# {experiment.method} on {data.get('title', experiment.dataset)}",
        "",
        f"{len(fed.sites)} sites, {fed.union.cases} training cases, {fed.round} rounds;{_held_out(fed)}"
        f" {total:,} bytes were sent or received.",
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
