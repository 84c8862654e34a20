"""What an experiment describes and a run has found, for their summaries in a notebook."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedlab.core.summary import Summary, listed, named

FEW = 12  # fields that are named
WIDE, HIGH, BLUE = 150, 52, (0, 114, 178, 255)  # pixels and colour of the curve of a run


def differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an experiment that are not at their defaults, and the dataset and the method."""
    changed = {name: value for name, value in values.items() if value != defaults.get(name)}
    return {"dataset": values["dataset"], "method": values["method"], **changed}


def experiment(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Summary:
    """The fields that differ from the defaults."""
    found = differing(values, defaults)
    title = f"Experiment on {named(found.pop('dataset'))!r} by {named(found.pop('method'))}"
    facts = {name: named(value, 80) for name, value in list(found.items())[:FEW]}
    if len(found) > FEW:
        facts["others"] = listed(list(found)[FEW:])
    facts[""] = "all other fields have their defaults"
    calls = ("fedlab.run(experiment)", "fedlab.grid(experiment, method=[...])", "experiment.with_(rounds=40)")
    return Summary(title, facts, calls)


def run(
    described: Mapping[str, Any], rounds: pd.DataFrame, headline: str, unseen: tuple[str, ...], folder: Any
) -> Summary:
    """The last value of the headline metric at each site, on validation cases, and its curve."""
    title = (
        f"Run of {named(described.get('method'))} on {named(described.get('dataset'))!r}, seed {described.get('seed')}"
    )
    last = rounds[rounds["metric"].eq(headline) & rounds["split"].eq("val")].drop_duplicates(["site"], keep="last")
    facts = {
        "rounds": f"{int(rounds['round'].max()) if len(rounds) else 0:,}",
        f"validation {headline}": listed(
            f"{named(site, 30)} {value:.3f}" for site, value in zip(last["site"], last["value"], strict=True)
        ),
        "held out": listed(unseen),
        "folder": str(folder),
    }
    calls = ("run.rounds", "run.predictions", "fedlab.plots.curves(run)", "fedlab.compare([run, ...])")
    means = rounds[rounds["metric"].eq(headline) & rounds["split"].eq("val")].groupby("round")["value"].mean()
    drawn = curve(means.dropna().to_numpy(float))
    return Summary(title, facts, calls, drawn, f"mean validation {headline} by round")


def curve(values: NDArray[np.float64]) -> bytes:
    """PNG of a line through values by round; empty for fewer than two."""
    if len(values) < 2:
        return b""
    low, high = float(values.min()), float(values.max())
    x = np.linspace(3, WIDE - 4, len(values))
    y = HIGH - 4 - (HIGH - 8) * (values - low) / max(high - low, 1e-9)
    picture = Image.new("RGBA", (2 * WIDE, 2 * HIGH), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    ends = [(2 * float(a), 2 * float(b)) for a, b in zip(x, y, strict=True)]
    pen.line(ends, fill=BLUE, width=4)
    pen.ellipse((ends[-1][0] - 5, ends[-1][1] - 5, ends[-1][0] + 5, ends[-1][1] + 5), fill=BLUE)
    picture.save(buffer := BytesIO(), "png")
    return buffer.getvalue()
