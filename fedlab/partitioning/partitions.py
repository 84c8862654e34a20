"""`Partition`: the site and split of each case, how its scanner shows it and its readers label it, and the shift that
results."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core import files
from fedlab.core.registry import nearest
from fedlab.core.typing import Ints
from fedlab.data.cases import Cases
from fedlab.data.extents import within
from fedlab.data.per_case import chosen_rows
from fedlab.heterogeneity.acquisition.scanner import Scanner, positivity
from fedlab.heterogeneity.annotation import Annotator, drawn
from fedlab.heterogeneity.log_odds import Levels
from fedlab.heterogeneity.population import Covariate
from fedlab.heterogeneity.shift.measures import shift as realised
from fedlab.partitioning import assignment, case_flow, description, observe, overview
from fedlab.partitioning.assignment import check_split
from fedlab.partitioning.explicit import Explicit
from fedlab.partitioning.holdout import Unseen
from fedlab.partitioning.parts import explicit_parts
from fedlab.partitioning.scanned_images import scanned_images
from fedlab.partitioning.splits import clear


@dataclass(frozen=True, eq=False, repr=False)
class Partition:
    """Cases assigned to sites, made by `fedlab.partition` or `Partition.from_sites`.

    Attributes
    ----------
    cases : Cases
        The dataset.
    table : pandas.DataFrame
        A row for each assigned case in the order of `cases.table`, with columns case, site, split; also `annotated`,
        the label that the site's readers wrote, and `covariate`, where these are in use.
    spec : dict
        The arguments that made the partition, JSON-able, and notes on what was not reached.
    scanners : dict
        Site -> its scanner; empty where images stay as they are.
    annotators : dict
        Site -> its readers; empty where labels stay as they are.
    regions : dict
        Site -> its region; empty without regions.
    unseen : tuple of str
        Sites held out of training, whose cases are all test cases.
    covariate : Covariate or None
        The synthetic covariate of population="synthetic(...)".

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=300, size=16)")
    >>> part = fedlab.partition(cases, sites=3, prevalence=0.5)
    >>> part.sites
    ['Site A', 'Site B', 'Site C']
    >>> part.table.columns.tolist()
    ['case', 'site', 'split']
    """

    cases: Cases
    table: pd.DataFrame
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    scanners: dict[str, Scanner] = field(default_factory=dict, repr=False)
    annotators: dict[str, Annotator] = field(default_factory=dict, repr=False)
    regions: dict[str, str] = field(default_factory=dict, repr=False)
    unseen: tuple[str, ...] = ()
    covariate: Covariate | None = field(default=None, repr=False)

    @classmethod
    def from_sites(
        cls,
        cases: Cases,
        sites: Explicit,
        *,
        splits: str = "official",
        acquisition: float | str | Sequence[str] = 0.0,
        annotation: float | str = 0.0,
        unseen: Unseen = 0,
        seed: int = 0,
        leakage: str = "together",
    ) -> "Partition":
        """Make a partition from an explicit assignment, such as the real hospital of each case.

        Parameters
        ----------
        cases : Cases
            The dataset.
        sites : str, sequence, pandas.Series, mapping or pandas.DataFrame
            A column of the cases' table; the site of each case (None, NaN or -1: no site); a mapping from a site to
            its cases, as ids, row positions or a mask; or a frame with columns case, site and perhaps split. A Series
            is aligned by its index, which names cases or counts rows; ids that are numbers are matched as text. Text
            names a site, anything else k becomes "Site k". Cases of no site are counted and left out.
        splits : {"official", "site"}, default "official"
            "official" takes the split of `sites` or else of the cases, and makes splits within each site where there
            are none; "site" makes new splits of 70/10/20 % within each site.
        acquisition, annotation : float, str or list of str, default 0.0
            Dose or scheme of the two axes that change images and labels, see `fedlab.partition`.
        unseen : int, str or list of str, default 0
            Held-out sites: how many, counted from the last, or names of sites. All of their cases are test cases.
        seed : int, default 0
            Seed of new splits, scanners and readers.
        leakage : {"together", "drop", "allow"}, default "together"
            Patients or identical images in more than one split, see `fedlab.partition`.

        Returns
        -------
        Partition

        Raises
        ------
        ValueError
            If the assignment cannot be read, names a case twice, or leaves a site without training cases.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> hospitals = ["north"] * 80 + ["south"] * 40
        >>> part = fedlab.Partition.from_sites(cases, hospitals)
        >>> part.table["site"].value_counts().to_dict()
        {'north': 80, 'south': 40}
        """
        return cls(**explicit_parts(cases, sites, splits, acquisition, annotation, unseen, seed, leakage))

    def __repr__(self) -> str:
        return overview.summary(self).text()

    def _repr_html_(self) -> str:
        return overview.summary(self, picture=True).html()

    @property
    def requested(self) -> dict[str, Any]:
        """The arguments of `fedlab.partition` that make this partition again.

        Raises
        ------
        ValueError
            If sites were given case by case, since no argument of `fedlab.partition` describes them.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> part = fedlab.partition(cases, sites=2, quantity=0.5)
        >>> fedlab.partition(cases, **part.requested).fingerprint == part.fingerprint
        True
        """
        if not isinstance(self.spec.get("sites"), int | str) or self.spec["sites"] == "explicit":
            raise ValueError(
                "these sites were given case by case, so no arguments make them again: hand on the partition itself, or"
                " add a column to the cases' table and name it, sites='my_column'"
            )
        return {name: value for name, value in self.spec.items() if name not in ("notes", "causes")}

    @cached_property
    def sites(self) -> list[str]:
        """Names of all sites in natural order (Site 2 before Site 10), held-out ones included."""
        return assignment.site_order(self.table)

    @cached_property
    def rows(self) -> Ints:
        """Row position in `cases` of each row of `table`, shape (n,)."""
        return assignment.row_positions(self.cases, self.table)

    @cached_property
    def _groups(self) -> assignment.Groups:
        return assignment.group_rows(self.table, self.rows)

    def index(self, site: str, split: str) -> Ints:
        """Row positions in `cases` of one site and split, ascending.

        Parameters
        ----------
        site : str
            Name of a site.
        split : {"train", "val", "test"}

        Returns
        -------
        numpy.ndarray of int
            Shape (m,), empty where the site has no such case.

        Raises
        ------
        ValueError
            If there is no such site or split.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> part = fedlab.partition(cases, sites=2)
        >>> rows = part.index("Site A", "train")
        >>> cases.labels[rows].shape == rows.shape
        True
        """
        if site not in self.sites:
            raise ValueError(f"there is no site {site!r}: {nearest(site, self.sites)}")
        return assignment.rows_of(self._groups, site, split)

    def unassigned(self, split: str = "test") -> Ints:
        """Row positions of cases with that official split that belong to no site.

        Cases that were left out to prevent leakage are not among them.

        Parameters
        ----------
        split : {"train", "val", "test"}, default "test"

        Returns
        -------
        numpy.ndarray of int
            Shape (m,), ascending.
        """
        if "split" not in self.cases.table:
            return np.zeros(0, np.int64)
        official = self.cases.table["split"].to_numpy(object)
        assigned = np.zeros(len(self.cases), bool)
        assigned[self.rows] = True
        if self.spec.get("leakage") == "drop":
            official = clear(self.cases, official, np.ones(len(self.cases), bool), "drop").split
        return np.flatnonzero((official == check_split(split)) & ~assigned)

    # -- what a site sees ----------------------------------------------------------------------------------------

    def pixels(self, index: ArrayLike, site: str) -> NDArray[np.generic]:
        """Images as the scanner of a site shows them.

        Parameters
        ----------
        index : array_like of int
            Row positions in `cases`, shape (m,).
        site : str
            Name of a site.

        Returns
        -------
        numpy.ndarray
            Shape (m, channels, height, width[, depth]), in the dtype of `cases.images`. Images of unequal size are
            followed by 0 beyond their `cases.extents`, and scanners see them without it.
        """
        rows = chosen_rows(index, self.cases.table["case"])
        extents = None if self.cases.extents is None else self.cases.extents[rows]
        return within(
            lambda images, place: self._acquired(images, rows[place], site),
            np.asarray(self.cases.images[rows]),
            extents,
        )

    def _acquired(self, images: NDArray[np.generic], rows: Ints, site: str) -> NDArray[np.generic]:
        """Images of one size as the scanner of a site shows them. rows: their positions in `cases`."""
        if self.covariate is not None and self.covariate.visible:
            images = self.covariate.show(images, self._of_case("covariate")[rows])
        if site not in self.scanners:
            return images
        ids = self.cases.table["case"].iloc[rows].to_numpy(object)
        return self.scanners[site].apply(images, ids, positivity(self.cases, rows))

    def _scanned(self, index: Ints, site: str) -> NDArray[np.generic]:
        """Images as `pixels` has them; those that were shown last are kept."""
        scanner = self.scanners.get(site)
        if scanner is None or scanner.neutral or (self.covariate is not None and self.covariate.visible):
            return self.pixels(index, site)
        return scanned_images(self.cases).show(index, scanner, lambda rows: self.pixels(rows, site))

    def training_labels(self, index: ArrayLike, site: str) -> Ints:
        """Labels that models at a site learn from: as its readers wrote them, but the true ones on test cases.

        Parameters
        ----------
        index : array_like of int
            Row positions in `cases`, shape (m,).
        site : str
            Name of a site.

        Returns
        -------
        numpy.ndarray of int
            Shape (m,).
        """
        rows = chosen_rows(index, self.cases.table["case"])
        clean = np.zeros(len(self.cases), bool)
        clean[self.rows[(self.table["split"] == "test").to_numpy()]] = True
        return np.where(clean[rows], self.cases.labels[rows], self.annotated_labels(rows))

    def annotated_labels(self, index: ArrayLike) -> Ints:
        """Labels as the readers of each case's site wrote them, also on test cases.

        Parameters
        ----------
        index : array_like of int
            Row positions in `cases`, shape (m,).

        Returns
        -------
        numpy.ndarray of int
            Shape (m,); the true labels where readers make no error.
        """
        rows = chosen_rows(index, self.cases.table["case"])
        if "annotated" not in self.table:
            return self.cases.labels[rows]
        return self._of_case("annotated", self.cases.labels)[rows]

    def training_masks(self, index: ArrayLike, site: str) -> NDArray[np.uint8]:
        """Masks that models at a site learn from: as its readers drew them, but the true ones on test cases.

        Parameters
        ----------
        index : array_like of int
            Row positions in `cases`, shape (m,).
        site : str
            Name of a site.

        Returns
        -------
        numpy.ndarray of uint8
            Shape (m, height, width[, depth]); those of images of unequal size are followed by 0.

        Raises
        ------
        ValueError
            If the dataset has no masks.
        """
        rows = chosen_rows(index, self.cases.table["case"])
        if self.cases.masks is None:
            raise ValueError(f"{self.cases.name} has no masks: choose a segmentation dataset")
        extents = None if self.cases.extents is None else self.cases.extents[rows]
        masks = within(lambda found, _: np.array(found), np.asarray(self.cases.masks[rows]), extents)
        if site in self.annotators:
            noisy = ~np.isin(rows, self.index(site, "test"))
            own = None if extents is None else extents[noisy]
            masks[noisy] = drawn(masks[noisy], own, self.annotators[site], self.cases.overlap)
        return masks

    def _of_case(self, column: str, rest: Ints | None = None) -> Ints:
        """A column of the table in the order of the cases, (cases,); `rest` or 0 for cases of no site."""
        values = np.zeros(len(self.cases), np.int64) if rest is None else rest.copy()
        values[self.rows] = self.table[column]
        return values

    # -- how different the sites are -----------------------------------------------------------------------------

    def counts(self, split: str | None = None) -> pd.DataFrame:
        """Count the cases of each class at each site.

        Parameters
        ----------
        split : {"train", "val", "test"}, optional
            All splits by default.

        Returns
        -------
        pandas.DataFrame
            Sites x classes. In a multi-label task a case counts for each of its findings.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> int(fedlab.partition(cases, sites=2).counts().to_numpy().sum())
        120
        """
        return assignment.class_counts(self.cases, self.table, self.sites, split, self.rows)

    def describe(self, split: str | None = None, columns: Sequence[str] | None = None) -> description.SiteTable:
        """Describe the cases and patients of each site, as the first table of a paper does.

        A case counts for its class, a patient once for each covariate, with the first value that is known at the site.

        Parameters
        ----------
        split : {"train", "val", "test"}, optional
            All splits by default.
        columns : list of str, optional
            Covariates: columns of the cases' table. By default all but those that identify cases.

        Returns
        -------
        SiteTable
            A tidy DataFrame that prints as characteristics x sites; so do `wide()`, `to_html()` and `to_latex()`,
            which escape names. Columns: characteristic, level, site ("all sites" for all), known and missing (cases or
            patients with and without a value), value (a count, or the median of a number), share (of those known), low
            and high (quartiles), smd.
            smd: the largest standardised difference of two sites. Numbers: |m1 - m2| / sqrt((s1^2 + s2^2) / 2) of means
            and sample variances; levels: sqrt((p - q)' S^-1 (p - q)) of their shares, S the mean of the two
            multinomial covariances.

        References
        ----------
        .. [1] D. Yang, J. E. Dalton, SAS Global Forum 335, 2012; P. C. Austin, Stat Med 28:3083, 2009.

        Examples
        --------
        >>> import fedlab
        >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=2)
        >>> table = part.describe(columns=["age", "sex"])
        >>> table.query("characteristic == 'cases'")[["site", "value"]].to_dict("list")
        {'site': ['Site A', 'Site B', 'all sites'], 'value': [61.0, 59.0, 120.0]}
        >>> table.wide().index.tolist()[2:]
        ['class: normal, n (%)', 'class: nodule, n (%)', 'age, median [IQR]', 'sex: F, n (%)', 'sex: M, n (%)']
        """
        return description.describe(self, split, columns)

    def flow(self) -> pd.DataFrame:
        """Count where the cases of the dataset went: to a split of a site, or left out, and why.

        Returns
        -------
        pandas.DataFrame
            Columns site ("" for cases of no site), published (the split that the dataset gives), split ("left out" for
            cases at no site), reason (why they are left out), cases and patients. Every case is in exactly one row.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> part = fedlab.Partition.from_sites(cases, ["north"] * 70 + ["south"] * 40 + [None] * 10)
        >>> part.flow().groupby(["site", "reason"])["cases"].sum().to_dict()
        {('', 'no site'): 10, ('north', ''): 70, ('south', ''): 40}
        """
        return case_flow.flow(self.cases, self.table, self.rows, self.spec, self.unseen)

    @cached_property
    def levels(self) -> dict[str, Levels]:
        """Levels of the presentation and population axes, over all cases; an axis without levels is absent."""
        return observe.levels(self.cases, self.spec, len(self.sites))

    def standardised(self) -> pd.DataFrame:
        """Class shares of each site, crude and standardised to the population of all sites together.

        Direct standardisation: shares within a level of the population (such as an age group), weighted by how frequent
        that level is in the pool.

        Returns
        -------
        pandas.DataFrame
            Sites x classes under the headings crude and standardised; shares from 0 to 1.

        Raises
        ------
        ValueError
            If the dataset has no age, sex or other covariate.
        """
        if "population" not in self.levels:
            raise ValueError(f"{self.cases.name} has no age, sex or other covariate to standardise by")
        return observe.standardised(self.cases, self.table, self.rows, self.levels["population"], self.sites)

    def shift(self, split: str | None = "train", *, brief: bool = False) -> pd.DataFrame:
        """Measure the realised heterogeneity of each axis and compare it with its permutation null.

        Images are described as the sites' scanners show them. The null is the range of the measure when the same cases
        are assigned at random, with the other axes in use left as they are.

        Parameters
        ----------
        split : {"train", "val", "test"} or None, default "train"
            The cases to measure; None takes all. Methods learn from the training cases; held-out sites have none and
            are compared in the other splits.
        brief : bool, default False
            Only the headline measure of each axis, from fewer images and permutations.

        Returns
        -------
        pandas.DataFrame
            A row for each axis and measure, with columns axis, measure, value and the interval and null of the value.

        Examples
        --------
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=300, size=16)")
        >>> part = fedlab.partition(cases, sites=2, prevalence=0.8)
        >>> found = part.shift(brief=True).set_index("axis").loc["prevalence"]
        >>> bool(found["value"] > found["null_high"])
        True
        """
        use = np.flatnonzero(self.table["split"] == check_split(split)) if split else np.arange(len(self.table))
        if not len(use):
            raise ValueError(f"there is no {split} case to measure: choose one of {sorted(set(self.table['split']))}")
        rows, table = self.rows[use], self.table.iloc[use]
        present = set(table["site"].unique())
        seen = observe.observed(
            self.cases,
            table,
            rows,
            spec=self.spec,
            sites=[site for site in self.sites if site in present or site not in self.unseen],
            regions=self.regions,
            levels=self.levels,
            annotated=self.annotated_labels(rows) if "annotated" in self.table else None,
        )
        changed = self.scanners or (self.covariate is not None and self.covariate.visible)
        show = self._scanned if changed else None
        features = observe.image_features(self.cases, rows, table["site"].to_numpy(object), show)
        drawn = observe.mask_pairs(self.cases, rows, table["site"].to_numpy(object), self.annotators)
        return realised(seen, features, brief=brief, masks=drawn)

    # -- files ---------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the cases, the table, the scanners and readers of sites, and the held-out sites."""
        digest = hashlib.blake2b(self.cases.fingerprint.encode(), digest_size=16)
        digest.update(json.dumps(self._sites_as_json(), sort_keys=True).encode())
        for column in sorted(self.table.columns):
            digest.update(column.encode() + "\x1f".join(self.table[column].astype(str)).encode())
        return digest.hexdigest()

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the dataset, pixels, scanners and readers alone, to say in what two partitions differ."""
        sites = self._sites_as_json()
        parts = {
            "pixels": b"".join(self.cases.pixel_hashes),
            "scanners": json.dumps([sites["scanners"], sites["covariate"]], sort_keys=True).encode(),
            "readers": json.dumps(sites["annotators"], sort_keys=True).encode(),
        }
        hashes = {name: hashlib.blake2b(part, digest_size=16).hexdigest() for name, part in parts.items()}
        return {"dataset": self.cases.fingerprint, **hashes}

    def _sites_as_json(self) -> dict[str, Any]:
        return {
            "scanners": {site: asdict(scanner) for site, scanner in self.scanners.items()},
            "annotators": {site: asdict(reader) for site, reader in self.annotators.items()},
            "regions": self.regions,
            "unseen": list(self.unseen),
            "covariate": None if self.covariate is None else asdict(self.covariate),
        }

    def save(self, folder: str | Path) -> Path:
        """Write partition.parquet and partition.json.

        Parameters
        ----------
        folder : str or Path
            Made where it is missing.

        Returns
        -------
        Path
            The folder.

        Examples
        --------
        >>> import tempfile
        >>> import fedlab
        >>> cases = fedlab.load("phantoms(cases=120, size=16)")
        >>> part = fedlab.partition(cases, sites=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = fedlab.Partition.load(part.save(folder), cases)
        >>> again.fingerprint == part.fingerprint
        True
        """
        root = files.resolve(folder)
        root.mkdir(parents=True, exist_ok=True)
        written = {"spec": self.spec, **self._sites_as_json(), "fingerprint": self.fingerprint}
        self.table.to_parquet(root / "partition.parquet.writing", index=False)
        files.write_json(root / "partition.json", written | {"checksum": _checksum(json.loads(json.dumps(written)))})
        (root / "partition.parquet.writing").replace(root / "partition.parquet")
        return root

    @classmethod
    def load(cls, folder: str | Path, cases: Cases) -> "Partition":
        """Read the partition that `save` wrote.

        Parameters
        ----------
        folder : str or Path
        cases : Cases
            The same dataset.

        Returns
        -------
        Partition

        Raises
        ------
        ValueError
            If the cases differ or the files were changed.
        """
        root = files.resolve(folder)
        for name in ("partition.parquet", "partition.json"):
            if not (root / name).is_file():
                raise FileNotFoundError(f"{root} has no {name}: give a folder that `Partition.save` wrote")
        written = files.read_json(root / "partition.json")
        path = root / "partition.json"
        try:
            if written.get("checksum", _checksum(written)) != _checksum(written):
                raise ValueError("it was changed after it was written")
            site_facts = (
                written["spec"],
                {site: Scanner.read(s) for site, s in written["scanners"].items()},
                {site: Annotator(**reader) for site, reader in written.get("annotators", {}).items()},
                written.get("regions", {}),
                tuple(written.get("unseen", ())),
                Covariate(**written["covariate"]) if written.get("covariate") else None,
            )
            path = root / "partition.parquet"
            part = cls(cases, pd.read_parquet(path), *site_facts)
            _ = part.fingerprint
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise files.DamagedError(f"{path} is damaged ({reason}): make the partition again and save it") from error
        if part.fingerprint != written["fingerprint"]:
            raise ValueError(
                f"{root} does not belong to these cases ({cases.name}) or was changed: make the partition again"
            )
        return part


def _checksum(written: dict[str, Any]) -> str:
    """Hash of what partition.json holds, but for the hash itself."""
    text = json.dumps({name: value for name, value in written.items() if name != "checksum"}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
