"""A folder that `fedlab.export_sites` wrote says itself how to import it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.core.files import read_json, resolve
from fedlab.partitioning.export import MANIFEST


@dataclass(frozen=True)
class Exported:
    """Arguments of `import_images` that bring back what was exported."""

    table: Path
    columns: dict[str, str]
    keep: list[str]
    size: list[int] | str
    window: str
    task: str
    classes: list[str]
    structures: list[str] | None
    licence: str
    modality: str | None
    orientation: str
    overlap: bool = False
    target: str | None = None


def exported(folder: str | Path) -> Exported | None:
    """What a folder says of itself; None if it is no export. Raises ValueError if its manifest was changed."""
    path = resolve(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = read_json(path)
        return Exported(**{**stored, "table": path.parent / str(stored["table"])})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not as fedlab wrote it ({error}): export again, or give --table and columns"
        ) from None
