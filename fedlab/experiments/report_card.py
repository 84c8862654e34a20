"""The report card of a run, a page for human readers, and the environment that computed it."""

import json
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fedlab.data import catalogue
from fedlab.experiments import origin
from fedlab.experiments.experiment import DESCRIBED, Experiment
from fedlab.experiments.recorder import Recorder
from fedlab.federation import Federation


def environment(record: Recorder, experiment: Experiment) -> dict[str, Any]:
    """Versions and hardware that computed the run, the folder of its dataset, and the code of the user's own."""
    dataset = experiment.dataset
    return {
        "platform": platform.platform(),
        **hardware(record.fed.device),
        "execution": sorted(record.fed.execution.used),
        "sites in parallel": record.fed.execution.workers,
        "packages": origin.packages(),
        "commit": origin.fedlab_commit(),
        "dataset": {"name": dataset, "folder": str(catalogue.folder_of(dataset) or "")},
        "code": origin.own_code(experiment),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Python, device and threads, on which the last bits may depend."""
    return {"python": sys.version.split()[0], "device": _device_name(device), "threads": torch.get_num_threads()}


def card(record: Recorder, experiment: Experiment) -> str:
    """Write the report card as Markdown."""
    fed, chosen = record.fed, record.selection
    data = fed.partition.cases.card
    about = {name: as_written(data.get(name, "")) for name in ("source", "licence", "citation")}
    explicit = fed.partition.spec.get("sites") == "explicit"  # no argument describes which case is where
    unknown = {*DESCRIBED[1:]} - {*fed.partition.spec, "sites", "target", "partition_seed"} if explicit else set()
    counts = fed.partition.counts()
    rounds = [f"* best round of {as_written(owner)}: {number}" for owner, number in chosen.round.items()]
    total = fed.ledger.total
    lines = [
        f"# {as_written(experiment.method)} on {as_written(data.get('title', experiment.dataset))}",
        "",
        f"{len(fed.sites)} sites, {fed.union.cases} training cases, {fed.round} rounds;{_held_out(fed)}"
        f" {total:,} bytes were sent or received.",
        "",
        *rounds,
        "",
        f"Federation: {as_written(json.dumps(fed.partition.spec, ensure_ascii=False))}",
        "",
        *_table(["site", *counts.columns], counts.itertuples(name=None)),
        "",
        *_table(["parameter", "value"], experiment.model_dump(exclude=unknown).items()),
        "",
        f"Data: {about['source']}. Licence: {about['licence']}. Cite: {about['citation']}",
    ]
    return "\n".join(lines) + "\n"


def _held_out(fed: Federation) -> str:
    unseen = fed.partition.unseen
    return f" {', '.join(as_written(name) for name in unseen)} held out of training;" if unseen else ""


def as_written(value: Any) -> str:
    r"""Markdown, on one line, that shows a text as the user wrote it.

    Examples
    --------
    >>> from fedlab.experiments.report_card import as_written
    >>> print(as_written("A|B <i>_new_ local_steps"), as_written("St. Olav\nWard 3"))
    A\|B \<i\>\_new\_ local_steps St. Olav<br>Ward 3
    """
    text = re.sub(r"([\\`*\[\]<>|~$&#])|(?<![^\W_])(_)|(_)(?![^\W_])", r"\\\g<0>", str(value))
    text = re.sub(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", "<br>", text)
    return re.sub(r"[\x00-\x08\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    head, *cells = [[as_written(value) for value in row] for row in (columns, *rows)]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
