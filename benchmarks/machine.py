"""On what something was measured, and the page that keeps it."""

import json
import os
import platform
import sys
from datetime import date
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


def page(path: Path, title: str, text: str) -> None:
    """Keep a result with its command, its machine and its date."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    about = f"`{command}`, {date.today()}, {json.dumps(machine())}"
    path.write_text(f"# {title}\n\n{about}\n\n{text}\n")
    print(f"\nkept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
