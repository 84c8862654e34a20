"""`Partition`: the site and split of each case, how the site's scanner shows it, and the shift that results."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.cases import SPLITS, Cases
from fedlab.heterogeneity import AXES, HeterogeneityWarning, LeakageWarning
from fedlab.heterogeneity.acquisition import Scanner, draw
from fedlab.heterogeneity.assignment import Explicit, read_sites
from fedlab.heterogeneity.coordinates import Atlas
from fedlab.heterogeneity.naming import natural
from fedlab.heterogeneity.prevalence import Prevalence
from fedlab.heterogeneity.quantity import Quantity
from fedlab.heterogeneity.shift import Observed
from fedlab.heterogeneity.shift import shift as realised
from fedlab.heterogeneity.simulation import simulate, site_count
from fedlab.heterogeneity.splitting import Cleared, clear, given_splits, make, unless
from fedlab.registry import nearest

Ids = NDArray[np.int64]
Names = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Partition:
    """Cases dealt to sites.

    table: columns case, site, split of the dealt cases, in the order of cases.table. spec: what was asked, JSON-able.
    scanners: site -> scanner; empty where images stay as they are.
    """

    cases: Cases
    table: pd.DataFrame
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    scanners: dict[str, Scanner] = field(default_factory=dict, repr=False)

    @cached_property
    def sites(self) -> list[str]:
        """In natural order: Site 2 before Site 10, Site Z before Site AA."""
        return sorted(self.table["site"].unique(), key=natural)

    @cached_property
    def rows(self) -> Ids:
        """Row position in cases of each row of the table."""
        return pd.Index(self.cases.table["case"]).get_indexer(self.table["case"]).astype(np.int64)

    @cached_property
    def _groups(self) -> dict[tuple[str, str], Ids]:
        groups = self.table.groupby(["site", "split"]).indices
        return {(str(site), str(split)): np.sort(self.rows[place]) for (site, split), place in groups.items()}  # type: ignore[misc]

    def index(self, site: str, split: str) -> Ids:
        """Row positions into cases of that site and split, ascending."""
        if site not in self.sites:
            raise ValueError(f"there is no site {site!r}: {nearest(site, self.sites)}")
        return self._groups.get((site, _split(split)), np.zeros(0, np.int64))

    def unassigned(self, split: str = "test") -> Ids:
        """Row positions with that official split that belong to no site, without what was dropped against leakage."""
        if "split" not in self.cases.table:
            return np.zeros(0, np.int64)
        official = self.cases.table["split"].to_numpy(object)
        dealt = np.zeros(len(self.cases), bool)
        dealt[self.rows] = True
        if self.spec.get("leakage") == "drop":
            official = clear(self.cases, official, np.ones(len(self.cases), bool), "drop").split
        return np.flatnonzero((official == _split(split)) & ~dealt)

    def pixels(self, index: ArrayLike, site: str) -> NDArray[np.generic]:
        """The images at these positions as that site's scanner shows them, in their own dtype."""
        rows = np.asarray(index, np.int64)
        images = np.asarray(self.cases.images[rows])
        if site not in self.scanners:
            return images
        return self.scanners[site].apply(images, self.cases.table["case"].to_numpy(object)[rows])

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

    def shift(self, split: str | None = "train") -> pd.DataFrame:
        """The realised shift by axis and measure, beside chance (null) and with intervals; images as the scanners show
        them.

        Measured on the training cases, from which methods learn; split=None takes all.
        """
        use = np.flatnonzero(self.table["split"] == _split(split)) if split else np.arange(len(self.table))
        rows, names = self.rows[use], self.table["site"].to_numpy(object)[use]
        seen = Observed(
            site=pd.Index(self.sites).get_indexer(names).astype(np.int64),
            labels=self.cases.labels[rows],
            units=self.cases.units[rows],
            split=pd.Index(SPLITS).get_indexer(self.table["split"].iloc[use]).astype(np.int64),
            task=self.cases.task,
            classes=len(self.cases.classes),
            sites=len(self.sites),
            seed=int(self.spec.get("seed", 0)),
        )

        def look(few: Ids) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
            plain = np.asarray(self.cases.images[rows[few]])
            shown = plain.copy()
            for site in self.scanners:
                shown[names[few] == site] = self.pixels(rows[few][names[few] == site], site)
            return plain, shown

        return realised(seen, look)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the table, the scanners and the cases."""
        digest = hashlib.blake2b(self.cases.fingerprint.encode(), digest_size=16)
        digest.update(json.dumps({site: asdict(self.scanners[site]) for site in sorted(self.scanners)}).encode())
        for column in ("case", "site", "split"):
            digest.update("\x1f".join(self.table[column].astype(str)).encode())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write partition.parquet and partition.json into the folder."""
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(root / "partition.parquet", index=False)
        scanners = {site: asdict(scanner) for site, scanner in self.scanners.items()}
        written = {"spec": self.spec, "scanners": scanners, "fingerprint": self.fingerprint}
        (root / "partition.json").write_text(json.dumps(written, indent=2))
        return root

    @classmethod
    def load(cls, folder: str | Path, cases: Cases) -> "Partition":
        """The partition saved in a folder, of the same cases; ValueError if they differ or the files were changed."""
        root = Path(folder)
        table = pd.read_parquet(root / "partition.parquet")
        written = json.loads((root / "partition.json").read_text())
        scanners = {site: Scanner(**{**s, "bias": tuple(s["bias"])}) for site, s in written["scanners"].items()}
        part = cls(cases, table, written["spec"], scanners)
        if part.fingerprint != written["fingerprint"]:
            raise ValueError(
                f"{root} does not belong to these cases ({cases.name}) or was changed: make the partition again"
            )
        return part

    @classmethod
    def from_sites(
        cls,
        cases: Cases,
        sites: Explicit,
        *,
        splits: str = "official",
        acquisition: float = 0.0,
        seed: int = 0,
        leakage: str = "together",
    ) -> "Partition":
        """Any explicit assignment, e.g. real hospitals; see `read_sites` for the forms it may take.

        splits: "official", the split of `sites` or else of the cases (made within each site where there is none), or
        "site", 70/10/20 within each site. leakage: see `clear`; test cases of no site count as test.
        """
        site, own = read_sites(cases, sites)
        spec = _settings(cases, seed, splits, leakage, own is not None)
        spec |= {"sites": sites if isinstance(sites, str) else "explicit", "acquisition": acquisition}
        given = given_splits(cases, spec["splits"], own)
        cleared = clear(cases, given, pd.notna(site) | (given == "test"), leakage)
        return _finish(cases, unless(cleared.split == "", site), cleared, spec, [])


def partition(
    cases: Cases,
    sites: int | str = 4,
    *,
    quantity: Quantity = 0.0,
    prevalence: Prevalence = 0.0,
    acquisition: float = 0.0,
    seed: int = 0,
    splits: str = "official",
    leakage: str = "together",
    **unknown: object,
) -> Partition:
    """Deal cases to simulated sites with controlled heterogeneity; see `fedlab.AXES` for what each axis may be.

    sites: how many, or the column of the cases' table that holds real ones. splits: "official" deals each official
    split to the same sites (made within each site where the cases have none); "site" makes 70/10/20 within each site.
    leakage: what to do with units on both sides of an official split, see `clear`. Raises ValueError for what cannot be
    done.
    """
    for name in unknown:
        raise TypeError(f"partition has no axis or argument {name!r}: {nearest(name, [*AXES, *ARGUMENTS])}")
    if isinstance(sites, str):
        _refuse_with_column(sites, quantity=quantity, prevalence=prevalence)
        return Partition.from_sites(cases, sites, splits=splits, acquisition=acquisition, seed=seed, leakage=leakage)
    count = site_count(sites)
    spec = _settings(cases, seed, splits, leakage, False) | {"sites": count, "acquisition": acquisition}
    spec |= {"quantity": _plain(quantity), "prevalence": _plain(prevalence)}
    given = given_splits(cases, spec["splits"])
    cleared = clear(cases, given, np.ones(len(cases), bool), leakage)
    pools = cleared.split if spec["splits"] == "official" else np.full(len(cases), "", object)
    site, notes = simulate(cases, unless(cleared.split == "", pools), count, quantity, prevalence, seed)
    return _finish(cases, site, cleared, spec, notes)


RESERVED = ("", "global", "all sites", "unassigned", "pooled", "mean of sites", "worst site")
ARGUMENTS = ("sites", "seed", "splits", "leakage")


def _finish(cases: Cases, site: Names, cleared: Cleared, spec: dict[str, Any], notes: list[str]) -> Partition:
    """The partition of cases with a site, once every site can train; warns of what cannot be measured."""
    split = make(cases, site, spec["seed"]) if spec["splits"] == "site" else cleared.split
    dealt = pd.notna(site)
    if not dealt.any():
        raise ValueError("no case belongs to a site: give at least one site some cases")
    table = pd.DataFrame({"case": cases.table["case"][dealt], "site": site[dealt], "split": split[dealt]})
    names = sorted(set(site[dealt]), key=natural)
    if taken := [name for name in names if name.strip() in RESERVED]:
        raise ValueError(f"a site is called {taken[0]!r}, which means something else in every table: rename it")
    spec["notes"] = cleared.notes + notes
    part = Partition(
        cases, table.reset_index(drop=True), spec, draw(names, spec["acquisition"], Atlas(len(names), spec["seed"]))
    )
    without = [name for name in names if not len(part.index(name, "train"))]
    if without:
        raise ValueError(
            f"{', '.join(without)} would have no training case: ask for fewer sites or a lower dose, or leave it out"
        )
    if cleared.notes:
        warnings.warn("; ".join(cleared.notes), LeakageWarning, stacklevel=3)
    if shortfalls := notes + _missing(part):
        warnings.warn("; ".join(shortfalls), HeterogeneityWarning, stacklevel=3)
    return part


def _missing(part: Partition) -> list[str]:
    """A line on the classes that sites lack in train or test, or none."""
    gaps = []
    for split in ("train", "test"):
        counts = part.counts(split)
        for site, row in counts.iterrows() if counts.to_numpy().any() else ():
            gaps += [f"{site} has no {name} in {split}" for name in row.index[row == 0]]
    if not gaps:
        return []
    shown = ", ".join(gaps[:4]) + (f" and {len(gaps) - 4} more" if len(gaps) > 4 else "")
    return [f"{shown}: metrics that need these classes are undefined there and left out of means"]


def _settings(cases: Cases, seed: int, splits: str, leakage: str, own: bool) -> dict[str, Any]:
    if not isinstance(cases, Cases):
        raise ValueError(f"cases is {cases!r}: give the cases themselves, e.g. fedlab.load('phantoms')")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"seed is {seed!r}: give a whole number")
    if splits not in ("official", "site"):
        raise ValueError(f"splits is {splits!r}: {nearest(str(splits), ('official', 'site'))}")
    used = splits if own or "split" in cases.table else "site"
    return {"seed": int(seed), "splits": used, "leakage": leakage}


def _refuse_with_column(column: str, **axes: object) -> None:
    for axis, value in axes.items():
        if not (isinstance(value, int | float) and value == 0):
            raise ValueError(f"sites come from column {column!r}: leave {axis} at 0, found {value!r}")


def _split(name: str) -> str:
    if name not in SPLITS:
        raise ValueError(f"there is no split {name!r}: {nearest(str(name), SPLITS)}")
    return name


def _plain(value: Any) -> Any:
    """JSON-able."""
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
