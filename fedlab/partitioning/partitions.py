"""`Partition`: the site and split of each case, how its scanner shows it and its readers label it, and the shift that
results."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.core.typing import Ints
from fedlab.data.cases import SPLITS, Cases
from fedlab.heterogeneity.acquisition.scanner import Scanner, positivity
from fedlab.heterogeneity.annotation import Annotator
from fedlab.heterogeneity.levels import Levels
from fedlab.heterogeneity.population import Covariate
from fedlab.heterogeneity.shift.report import shift as realised
from fedlab.partitioning import observe
from fedlab.partitioning.explicit import Explicit
from fedlab.partitioning.splits import clear

COLUMNS = ("case", "site", "split")


@dataclass(frozen=True, eq=False)
class Partition:
    """Cases dealt to sites.

    table: columns case, site, split of the dealt cases, in the order of cases.table; also `annotated`, the label that
    the site's readers wrote, and `covariate`, where these are in use. spec: what was asked, JSON-able. scanners,
    annotators: site -> scanner, readers; empty where images and labels stay as they are. regions: site -> region.
    unseen: sites held out of training. covariate: the synthetic one, if there is one.
    """

    cases: Cases
    table: pd.DataFrame
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    scanners: dict[str, Scanner] = field(default_factory=dict, repr=False)
    annotators: dict[str, Annotator] = field(default_factory=dict, repr=False)
    regions: dict[str, str] = field(default_factory=dict, repr=False)
    unseen: tuple[str, ...] = ()
    covariate: Covariate | None = field(default=None, repr=False)

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of `fedlab.partition` that deal these cases in this way."""
        return {name: value for name, value in self.spec.items() if name not in ("notes", "causes")}

    @cached_property
    def sites(self) -> list[str]:
        """In natural order: Site 2 before Site 10, Site Z before Site AA. Unseen ones are among them."""
        return sorted(self.table["site"].unique(), key=natural)

    @cached_property
    def rows(self) -> Ints:
        """Row position in cases of each row of the table."""
        return pd.Index(self.cases.table["case"]).get_indexer(self.table["case"]).astype(np.int64)

    @cached_property
    def _groups(self) -> dict[tuple[str, str], Ints]:
        groups = self.table.groupby(["site", "split"]).indices
        return {(str(site), str(split)): np.sort(self.rows[place]) for (site, split), place in groups.items()}  # type: ignore[misc]

    def index(self, site: str, split: str) -> Ints:
        """Row positions into cases of that site and split, ascending."""
        if site not in self.sites:
            raise ValueError(f"there is no site {site!r}: {nearest(site, self.sites)}")
        return self._groups.get((site, _split(split)), np.zeros(0, np.int64))

    def unassigned(self, split: str = "test") -> Ints:
        """Row positions with that official split that belong to no site, without what was dropped against leakage."""
        if "split" not in self.cases.table:
            return np.zeros(0, np.int64)
        official = self.cases.table["split"].to_numpy(object)
        dealt = np.zeros(len(self.cases), bool)
        dealt[self.rows] = True
        if self.spec.get("leakage") == "drop":
            official = clear(self.cases, official, np.ones(len(self.cases), bool), "drop").split
        return np.flatnonzero((official == _split(split)) & ~dealt)

    # -- what a site sees ----------------------------------------------------------------------------------------

    def pixels(self, index: ArrayLike, site: str) -> NDArray[np.generic]:
        """The images at these positions as that site's scanner shows them, in their own dtype."""
        rows = np.asarray(index, np.int64)
        images = np.asarray(self.cases.images[rows])
        if self.covariate is not None and self.covariate.visible:
            images = self.covariate.show(images, self._of_case("covariate")[rows])
        if site not in self.scanners:
            return images
        ids = self.cases.table["case"].iloc[rows].to_numpy(object)
        return self.scanners[site].apply(images, ids, positivity(self.cases, rows))

    def marked(self, index: ArrayLike, site: str) -> Ints:
        """The labels (n,) that models at that site learn from: its readers' on train and val, the true ones on test."""
        rows = np.asarray(index, np.int64)
        clean = np.zeros(len(self.cases), bool)
        clean[self.rows[(self.table["split"] == "test").to_numpy()]] = True
        return np.where(clean[rows], self.cases.labels[rows], self.annotated(rows))

    def annotated(self, index: ArrayLike) -> Ints:
        """The labels (n,) as readers wrote them, also on test cases; the true ones where nobody errs."""
        rows = np.asarray(index, np.int64)
        if "annotated" not in self.table:
            return self.cases.labels[rows]
        return self._of_case("annotated", self.cases.labels)[rows]

    def outlined(self, index: ArrayLike, site: str) -> NDArray[np.uint8]:
        """The masks (n, height, width[, depth]) that models at that site learn from; the true ones on test cases."""
        rows = np.asarray(index, np.int64)
        if self.cases.masks is None:
            raise ValueError(f"{self.cases.name} has no masks: choose a dataset with outlines")
        masks = np.array(self.cases.masks[rows])
        if site in self.annotators:
            noisy = ~np.isin(rows, self.index(site, "test"))
            masks[noisy] = self.annotators[site].outline(masks[noisy])
        return masks

    def _of_case(self, column: str, rest: Ints | None = None) -> Ints:
        """(cases,) a column of the table, in the order of the cases; `rest` or 0 for cases that are not dealt."""
        values = np.zeros(len(self.cases), np.int64) if rest is None else rest.copy()
        values[self.rows] = self.table[column]
        return values

    # -- how different the sites are -----------------------------------------------------------------------------

    def counts(self, split: str | None = None) -> pd.DataFrame:
        """Sites x classes: cases of each class; in a multi-label task a case counts for each of its findings."""
        labels, classes = self.cases.labels[self.rows], self.cases.classes
        if self.cases.task == "multilabel":
            present = (labels[:, None] >> np.arange(len(classes))) & 1
        else:
            present = (labels[:, None] == np.arange(len(classes))).astype(np.int64)
        use = np.ones(len(labels), bool) if split is None else (self.table["split"] == _split(split)).to_numpy()
        frame = pd.DataFrame(present[use], columns=classes).groupby(self.table["site"].to_numpy()[use]).sum()
        return frame.reindex(self.sites, fill_value=0).rename_axis("site")

    @cached_property
    def levels(self) -> dict[str, Levels]:
        """What the presentation and population axes look at, over all cases; an axis nobody knows is absent."""
        return observe.levels(self.cases, self.spec, len(self.sites))

    def standardised(self) -> pd.DataFrame:
        """Sites x classes: crude shares (%) and shares standardised to the pool's population level by level."""
        if "population" not in self.levels:
            raise ValueError(f"{self.cases.name} has no age, sex or other covariate to standardise by")
        return observe.standardised(self)

    def shift(self, split: str | None = "train", *, brief: bool = False) -> pd.DataFrame:
        """The realised shift by axis and measure, beside chance (null) and with intervals; images as the scanners show
        them.

        Measured on the training cases, from which methods learn; split=None takes all. brief: the headline measure of
        each axis alone, from fewer images and draws. null: what chance and the other axes in use would make of the same
        cases.
        """
        use = np.flatnonzero(self.table["split"] == _split(split)) if split else np.arange(len(self.table))
        return realised(observe.observed(self, use), observe.look(self, use), brief=brief)

    # -- files ---------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the table, of how sites show and label cases, of who is unseen, and of the cases."""
        digest = hashlib.blake2b(self.cases.fingerprint.encode(), digest_size=16)
        digest.update(json.dumps(self._sites_as_json(), sort_keys=True).encode())
        for column in sorted(self.table.columns):
            digest.update(column.encode() + "\x1f".join(self.table[column].astype(str)).encode())
        return digest.hexdigest()

    def _sites_as_json(self) -> dict[str, Any]:
        return {
            "scanners": {site: asdict(scanner) for site, scanner in self.scanners.items()},
            "annotators": {site: asdict(reader) for site, reader in self.annotators.items()},
            "regions": self.regions,
            "unseen": list(self.unseen),
            "covariate": None if self.covariate is None else asdict(self.covariate),
        }

    def save(self, folder: str | Path) -> Path:
        """Write partition.parquet and partition.json into the folder."""
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(root / "partition.parquet", index=False)
        written = {"spec": self.spec, **self._sites_as_json(), "fingerprint": self.fingerprint}
        (root / "partition.json").write_text(json.dumps(written, indent=2))
        return root

    @classmethod
    def load(cls, folder: str | Path, cases: Cases) -> "Partition":
        """The partition saved in a folder, of the same cases; ValueError if they differ or the files were changed."""
        root = Path(folder)
        table = pd.read_parquet(root / "partition.parquet")
        written = json.loads((root / "partition.json").read_text())
        part = cls(
            cases,
            table,
            written["spec"],
            {site: Scanner.read(s) for site, s in written["scanners"].items()},
            {site: Annotator(**reader) for site, reader in written.get("annotators", {}).items()},
            written.get("regions", {}),
            tuple(written.get("unseen", ())),
            Covariate(**written["covariate"]) if written.get("covariate") else None,
        )
        if part.fingerprint != written["fingerprint"]:
            raise ValueError(
                f"{root} does not belong to these cases ({cases.name}) or was changed: make the partition again"
            )
        return part

    @classmethod
    def from_sites(cls, cases: Cases, sites: Explicit, **chosen: Any) -> "Partition":
        """Any explicit assignment, e.g. real hospitals; see `fedlab.partitioning.build.from_sites`."""
        from fedlab.partitioning.build import from_sites

        return from_sites(cases, sites, **chosen)


def _split(name: str) -> str:
    if name not in SPLITS:
        raise ValueError(f"there is no split {name!r}: {nearest(str(name), SPLITS)}")
    return name
