"""The machine of a measurement, and the page that keeps the result."""

import json
import os
import platform
import sys
import tomllib
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Processor or GPU, cores and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "device": device.replace(" ", "-").lower(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def about() -> str:
    """The command, the date and the machine, as every page of results has them."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return f"`{command}`, {date.today()}, {json.dumps(machine())}"


def page(path: Path, title: str, text: str) -> None:
    """Keep a result with its command, its machine and its date."""
    path.write_text(f"# {title}\n\n{about()}\n\n{text}\n", encoding="utf-8")
    print(f"\nkept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def describe_checkout(folder: Path) -> list[str]:
    """What to add to PYTHONPATH so that a checkout that is not installed has a version, as runs store it.

    Writes the metadata into `folder`; nothing is added where fedlab is installed.
    """
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    try:
        version(project["name"])
    except PackageNotFoundError:
        place = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        place.mkdir(parents=True, exist_ok=True)
        (place / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
        )
        return [str(folder)]
    return []
