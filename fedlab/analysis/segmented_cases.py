"""Masks that finished runs predict for the worst and the median test case of each site, with image and truth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis.alignment import of_used_models, stored_predictions
from fedlab.analysis.grouping import check_one_federation
from fedlab.analysis.split_leakage import _partition_of
from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.data.extents import within
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation
from fedlab.learning.mask_metrics import case_scores, stored_numbers
from fedlab.partitioning.partitions import Partition

REFERENCES = ("local", "centralized")
WHICH = ("worst", "median")
Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentedCases:
    """Test cases with their true and predicted masks.

    Attributes
    ----------
    table : pandas.DataFrame
        A row a case: site, which (worst or median), case, and the Dice of each method in a column of its name.
    by : str
        The method whose Dice chose the cases.
    images : numpy.ndarray
        As the site's scanner acquires them, in 0 to 1, shape (n, channels, height, width[, depth]). Images and masks of
        unequal size are followed by 0.
    truth : numpy.ndarray
        True masks, shape (n, height, width[, depth]).
    predicted : dict
        Method -> the masks that it predicts, of the same shape.
    structures : list of str
        Names of the structures of masks, background first.
    overlap : bool
        Whether structures may overlap, see `fedlab.data.cases.Cases`.
    """

    table: pd.DataFrame
    by: str
    images: NDArray[np.float32] = field(repr=False)
    truth: Masks = field(repr=False)
    predicted: dict[str, Masks] = field(repr=False)
    structures: list[str]
    overlap: bool = False


def predicted_masks(
    runs: Sequence[Run], *, by: str | None = None, partition: Partition | None = None, choice: str = "last"
) -> SegmentedCases:
    """Predict the worst and the median test case of each site again, with the stored weights of each method.

    Cases are ranked by their Dice with one method. Those whose true mask is empty are left out, since they would show
    nothing. The median is the lower one of two.

    Parameters
    ----------
    runs : list of Run
        Runs of one federation with a segmentation task; of each method the first one counts.
    by : str, optional
        The method whose Dice chooses the cases; by default the first one that is neither local nor centralized.
    partition : Partition, optional
        The explicit partition of the runs, if they had one.
    choice : {"last", "best"}, default "last"
        The models of the last round, or of the round that is best on validation cases.

    Returns
    -------
    SegmentedCases

    Raises
    ------
    ValueError
        If the task is another one, a method keeps no single model, or the runs were trained on another partition.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> from fedlab.analysis.segmented_cases import predicted_masks
    >>> base = fedlab.Experiment(
    ...     dataset="phantoms(cases=60, size=16, task='segmentation')", sites=2, model="unet(width=2)", rounds=1
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = predicted_masks(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
    >>> found.by, list(found.predicted), found.truth.shape
    ('fedavg', ['local', 'fedavg'], (4, 16, 16))
    """
    chosen = list({run.method: run for run in reversed(list(runs))}.values())[::-1]
    check_one_federation(chosen)
    if chosen[0].task != "segmentation":
        raise ValueError(f"these runs are for a {chosen[0].task} task: masks are predicted in segmentation tasks")
    methods = [run.method for run in chosen]
    by = by or next((method for method in methods if method not in REFERENCES), methods[0])
    if by not in methods:
        raise ValueError(f"by is {by!r}, which is no method of these runs: {nearest(by, methods)}")
    part = _partition_of(chosen[0], partition)
    dice = {run.method: _dice(run, choice) for run in chosen}
    table = _ranked(dice[by])
    rows = pd.Index(part.cases.table["case"]).get_indexer(pd.Index(table["case"]))
    for method in methods:
        table[method] = dice[method].set_index("case")["dice"].reindex(table["case"]).to_numpy()
    masks = part.cases.masks
    assert masks is not None
    federations: dict[str, Federation] = {}
    predicted = {run.method: _masks(run, part, choice, table, rows, federations) for run in chosen}
    images = [_acquired(part, site, row) for site, row in zip(table["site"], rows, strict=True)]
    extents = None if part.cases.extents is None else part.cases.extents[rows]
    truth = within(lambda true, _: true, np.asarray(masks[rows]), extents)
    return SegmentedCases(table, by, np.stack(images), truth, predicted, chosen[0].structures, part.cases.overlap)


def _dice(run: Run, choice: str) -> pd.DataFrame:
    """Dice of each test case with the model that its site uses: columns case, site, dice, empty (the true mask)."""
    found = of_used_models(stored_predictions(run, choice, "test")).reset_index(drop=True)
    stored = stored_numbers(found, len(run.structures))
    true = sum(found[f"tp{k}"] + found[f"fn{k}"] for k in range(1, len(run.structures)))
    return found[["case", "site"]].assign(dice=case_scores("dice", stored), empty=np.asarray(true) == 0)


def _ranked(dice: pd.DataFrame) -> pd.DataFrame:
    """The worst and the median case of each site: columns site, which, case."""
    found = []
    for site in sorted(dice["site"].unique(), key=natural):
        known = dice[(dice["site"] == site) & ~dice["empty"]].dropna().sort_values(["dice", "case"], kind="stable")
        if len(known):
            places = dict(zip(WHICH, (0, (len(known) - 1) // 2), strict=True))
            found += [(site, which, known["case"].iloc[place]) for which, place in places.items()]
    if not found:
        raise ValueError("no test case has a structure in its true mask, so that none can be shown")
    return pd.DataFrame(found, columns=["site", "which", "case"])


def _masks(
    run: Run, part: Partition, choice: str, table: pd.DataFrame, rows: Any, federations: dict[str, Federation]
) -> Masks:
    """The masks (n, *space) that a run's models predict for these cases of the dataset."""
    key = json.dumps(run.experiment.model_dump(mode="json", exclude={"method"}), sort_keys=True, default=str)
    if key not in federations:
        federations[key] = Federation(part, run.experiment.model, run.experiment)
    engine = federations[key].execution.engine
    model = engine.flat.model.eval()
    found = np.empty((len(rows), *part.cases.shape[1:]), np.uint8)
    for site, cases in table.reset_index(drop=True).groupby("site", sort=False):
        model.load_state_dict(run.weights(_used_model(run, choice, str(site)), choice))
        found[cases.index] = engine.masks(rows[cases.index]).cpu().numpy()
    return found


def _used_model(run: Run, choice: str, site: str) -> str:
    """The name of the stored model that a site uses; ValueError where its prediction is that of several."""
    used = of_used_models(stored_predictions(run, choice, "test"))
    name = str(used.loc[used["site"] == site, "model"].iloc[0])
    known = run.models
    if name == "global" and "global" not in known:
        raise ValueError(f"{run.method!r} predicts with several models at a time: leave it out")
    return site if name == "global" and site in known else name  # a shared model with private parameters


def _acquired(part: Partition, site: str, row: int) -> NDArray[np.float32]:
    """An image as its site's scanner acquires it, in 0 to 1."""
    image = part.pixels(np.array([row]), site)[0]
    return np.asarray(image, np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)
