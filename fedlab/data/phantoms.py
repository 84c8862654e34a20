"""The embedded dataset: small synthetic chest radiographs in which every effect is known.

A cohort is drawn first (`phantom_table`), then its images (`phantom_images`). Change a column of the table and draw the
images again: the anatomy and the noise stay, only the effect of that column changes. The effects, with the numbers in
`TRUTH`, which is on the card:

age -> disease, a wider mediastinum and heart, fainter ribs;  sex -> disease, a broader body (M), breast shadows (F)
disease -> one nodule in a lung field;  severity -> its radius and contrast;  subtype -> its profile
disease, severity, subtype -> the site that a patient is referred to

Age, sex, disease, severity, subtype and anatomy belong to the patient; an image adds position, exposure and noise.
Lengths are in half-images (an image spans -1..1), intensities in full scales (0..1). Coordinates run y (down),
x (to the image's right, the patient's left) and z (to the back). A 2D image is a frontal view, a volume a coarse body.
"""

from copy import deepcopy
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.core.arguments import Bounds, Count
from fedlab.core.rng import stream
from fedlab.data.cases import Cases

Array = NDArray[np.floating[Any]]
Columns = dict[str, Array]  # values of cases, shape (n, 1, 1, 1): they broadcast against (n, height, width, depth)

TRUTH: dict[str, Any] = {
    "disease": {"intercept": -0.65, "age_per_decade": 0.3, "male": 0.4},
    "age": {
        "mediastinum_width": {"at_55": 0.13, "per_decade": 0.02},
        "rib_contrast": {"at_55": 0.10, "per_decade": -0.02},
    },
    "sex": {"body_width": {"F": 0.82, "M": 0.90}, "breast_shadow": {"F": 0.07, "M": 0.0}},
    "severity": {"radius": {"at_0": 0.12, "per_unit": 0.06}, "contrast": {"at_0": 0.15, "per_unit": 0.21}},
    "subtype": {"round": 0.5, "ring": 0.25, "spiculated": 0.25},
    "site": {"intercept": -0.8, "disease": 0.2, "severity": 1.6, "spiculated": 1.0},
    "images_a_patient": {"1": 0.7, "2": 0.2, "3": 0.1},
    "split": {"train": 0.7, "val": 0.1, "test": 0.2},
}
COLUMNS = {
    "label": "1 if a nodule is drawn; log-odds = intercept + age_per_decade * (age - 55) / 10 + male * [sex = M]",
    "patient": "one to three images of one anatomy; they share all columns but `case`, and differ in view and noise",
    "split": "drawn by patient",
    "age": "years, 20 + 70 * Beta(2.2, 2.2): widens mediastinum and heart, fades the ribs",
    "sex": "F or M, evenly: body width and breast shadow",
    "severity": "uniform in (0, 1] with a nodule, else 0: radius and contrast; independent of age and sex",
    "subtype": "round (even), ring (dark centre), spiculated (spikes), or none; drawn independently",
    "site": "County or University, where ill patients are referred; log-odds of University = intercept + disease *"
    " label + severity * severity + spiculated * [subtype = spiculated]; does not act on the image",
}
LUNG, DENSITY, HAZE = 0.24, 0.04, 0.04  # intensity of the lungs, its spread between patients and within one
VESSELS, NOISE = 0.20, 0.046  # intensity of vessels at the hilum; standard deviation of the acquisition noise
CORE = 0.6  # of a nodule's reach: where its core ends
NODES = {"vessels": 11, "haze": 5}  # control points along each axis of these random fields
MOST_PIXELS = 10**11
BLOCK = 2**17  # pixels drawn at a time, to stay in the CPU's cache; each block has its own noise stream


def phantoms(
    cases: Annotated[int, Bounds(10, 10_000_000)] = 3000,
    size: Annotated[int, Bounds(16, 4096)] = 28,
    dimensions: Literal[2, 3] = 2,
    seed: Count = 0,
    task: Literal["binary", "segmentation"] = "binary",
    overlap: bool = False,
) -> Cases:
    """Synthetic chest radiographs, or volumes, labelled by whether a lung has a nodule.

    The same arguments give the same bytes (on one machine: the last bit of an exponential differs between processors).
    Fewer cases are not the first ones of more cases.

    Parameters
    ----------
    cases : int
        Number of images, at least 10.
    size : int
        Edge length in pixels, at least 16.
    dimensions : int
        2 for images, 3 for volumes.
    seed : int
        Seed of cohort and images.
    task : {"binary", "segmentation"}
        Whether models find the images with a nodule, or the pixels of nodules; images and masks are the same.
    overlap : bool
        Whether masks have two structures that overlap, the nodule and the core inside it; for segmentation.

    Returns
    -------
    Cases
        Images (cases, 1, size, size[, size]) uint8, with nodule masks; the truth behind them is on the card.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.data.phantoms import phantoms
    >>> cases = phantoms(cases=100)
    >>> cases.images.shape, int(cases.labels.sum())
    ((100, 1, 28, 28), 34)
    >>> cases = phantoms(cases=20, task="segmentation", overlap=True)
    >>> cases.structures, np.unique(cases.masks).tolist()  # background, nodule, nodule and core
    (['background', 'nodule', 'core'], [0, 1, 3])
    """
    if overlap and task != "segmentation":
        raise ValueError(f"phantoms(task={task!r}, overlap=True): labels do not overlap, choose task='segmentation'")
    pixels = cases * size**dimensions
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"phantoms(cases={cases}, size={size}, dimensions={dimensions}) has {pixels:,} pixels, at most"
            f" {MOST_PIXELS:,} are drawn: choose fewer or smaller images"
        )
    table = phantom_table(cases, seed)
    images, masks = phantom_images(table, size, dimensions, seed, overlap)
    return Cases(images, table, phantom_card(task, overlap), masks)


def phantom_card(task: str = "binary", overlap: bool = False) -> dict[str, Any]:
    """The card: licence, source, columns, and the truth behind the images."""
    structures: dict[str, Any] = {"structures": ["background", "nodule"]} if task == "segmentation" else {}
    structures |= {"structures": ["background", "nodule", "core"], "overlap": True} if overlap else {}
    return structures | {
        "name": "phantoms",
        "title": "Chest radiograph phantoms with known heterogeneity",
        "task": task,
        "classes": ["normal", "nodule"],
        "licence": "CC0-1.0",
        "source": "drawn by fedlab.data.phantoms",
        "citation": "fedlab phantoms: synthetic radiographs drawn by program; they show no real patient",
        "columns": dict(COLUMNS),
        "truth": deepcopy(TRUTH),
    }


def phantom_table(cases: int, seed: int = 0) -> pd.DataFrame:
    """Draw the cohort: independent patients with one to three images each.

    Parameters
    ----------
    cases : int
        Number of images, at least 10.
    seed : int
        Seed of the cohort.

    Returns
    -------
    DataFrame
        Columns `case`, `label`, `patient`, `split`, `age` (years), `sex`, `severity` (0 to 1, 0 without a nodule),
        `subtype` and `site`; one row for each image, those of a patient in consecutive rows.

    Examples
    --------
    >>> from fedlab.data.phantoms import phantom_table
    >>> phantom_table(100).groupby("site")["label"].mean().round(2).to_dict()
    {'County': 0.27, 'University': 0.44}
    """
    if not isinstance(cases, int) or cases < 10:
        raise ValueError(f"cases is {cases!r}: draw at least 10, so that every split has a patient")
    shares = TRUTH["images_a_patient"]
    counts = stream(seed, "images").choice([int(count) for count in shares], size=cases, p=list(shares.values()))
    patient = np.repeat(np.arange(cases), counts)[:cases]
    table = _patients(int(patient[-1]) + 1, seed).iloc[patient].reset_index(drop=True)
    table.insert(0, "case", [f"phantom-{i:05d}" for i in range(cases)])
    return table


def _patients(n: int, seed: int) -> pd.DataFrame:
    """Draw n patients, one row for each."""
    rng, kinds, effect = stream(seed, "patients"), TRUTH["subtype"], TRUTH["disease"]
    age = np.rint(20 + 70 * rng.beta(2.2, 2.2, n))
    male = rng.random(n) < 0.5
    log_odds = effect["intercept"] + effect["age_per_decade"] * (age - 55) / 10 + effect["male"] * male
    disease = rng.random(n) < 1 / (1 + np.exp(-log_odds))
    columns = {
        "label": disease.astype(np.int64),
        "patient": [f"patient-{i:05d}" for i in range(n)],
        "split": _splits(n, seed),
        "age": age.astype(np.int64),
        "sex": np.where(male, "M", "F"),
        "severity": np.where(disease, 1 - rng.random(n), 0.0),
        "subtype": np.where(disease, rng.choice(list(kinds), size=n, p=list(kinds.values())), "none"),
    }
    return pd.DataFrame(columns | {"site": _referred(columns, seed)})


def _referred(patients: dict[str, Any], seed: int) -> NDArray[np.str_]:
    """The hospital of each patient: the more severe the disease, the more likely the university hospital."""
    line = TRUTH["site"]
    log_odds = line["intercept"] + line["disease"] * patients["label"] + line["severity"] * patients["severity"]
    log_odds = log_odds + line["spiculated"] * (patients["subtype"] == "spiculated")
    drawn = stream(seed, "site").random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))
    return np.where(drawn, "University", "County")


def _splits(n: int, seed: int) -> NDArray[np.str_]:
    """Split of each patient; no split is empty."""
    val, test = (max(1, round(TRUTH["split"][name] * n)) for name in ("val", "test"))
    return stream(seed, "splits").permutation(np.repeat(["train", "val", "test"], [n - val - test, val, test]))


def phantom_images(
    table: pd.DataFrame, size: int = 28, dimensions: int = 2, seed: int = 0, core: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw the images of a cohort.

    The random numbers depend only on seed, size and the order of rows and patients: change another column, and only its
    effect on the images changes.

    Parameters
    ----------
    table : DataFrame
        A cohort of `phantom_table`, possibly changed.
    size : int
        Edge length in pixels, at least 16.
    dimensions : int
        2 for images, 3 for volumes.
    seed : int
        Seed of anatomy, position, exposure and noise.
    core : bool
        Whether masks say where the core of a nodule is, the part within 0.6 of its reach.

    Returns
    -------
    images : ndarray of uint8, shape (n, 1, size, size[, size])
        The images.
    masks : ndarray of uint8, shape (n, size, size[, size])
        1 inside a nodule, 3 inside its core if that is requested, else 0.

    Examples
    --------
    >>> from fedlab.data.phantoms import phantom_images, phantom_table
    >>> table = phantom_table(20)
    >>> older = phantom_images(table.assign(age=90))[0]
    >>> bool((older == phantom_images(table)[0]).all())
    False
    """
    if size < 16:
        raise ValueError(f"size is {size}: the smallest nodule needs 16 pixels a side, choose 16 or more")
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions is {dimensions}: choose 2 for images or 3 for volumes")
    shape = (len(table), size, size, size if dimensions == 3 else 1)
    images, masks = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    patient = pd.factorize(table["patient"])[0]
    columns = _effects(table) | _anatomy(patient, dimensions, seed) | _views(len(table), seed)
    nodes = {name: _nodes(name, int(patient.max()) + 1, dimensions, seed) for name in NODES}
    step = max(1, BLOCK // int(np.prod(shape[1:])))
    for rows in (slice(start, start + step) for start in range(0, len(table), step)):
        block = {name: column[rows] for name, column in columns.items()}
        y, x, z = _coordinates(block, shape)
        fields = {name: _field(points[patient[rows]], y, x, z) for name, points in nodes.items()}
        profile, distance = _nodule(block, y, x, z)
        clear = block["exposure"] * (_thorax(block, fields, y, x, z) + block["contrast"] * profile)
        noise = NOISE * stream(seed, "noise", rows.start).standard_normal(clear.shape, dtype=np.float32)
        images[rows] = np.rint(255 * (clear + noise).clip(0, 1))
        drawn = block["contrast"] > 0
        masks[rows] = (distance < 1) & drawn
        if core:
            masks[rows] |= ((distance < CORE) & drawn).astype(np.uint8) << np.uint8(1)
    cut = shape[1 : dimensions + 1]
    return images.reshape(-1, 1, *cut), masks.reshape(-1, *cut)


def _column(values: ArrayLike) -> Array:
    """Values of shape (n, 1, 1, 1)."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1, 1)


def _effects(table: pd.DataFrame) -> Columns:
    """The effects of age, sex, label, severity and subtype on the image, from `TRUTH`."""
    decades, severity, sex = (table["age"] - 55) / 10, table["severity"], table["sex"]
    by_age = {name: line["at_55"] + line["per_decade"] * decades for name, line in TRUTH["age"].items()}
    by_severity = {name: line["at_0"] + line["per_unit"] * severity for name, line in TRUTH["severity"].items()}
    by_sex = {name: sex.map(values) for name, values in TRUTH["sex"].items()}
    by_subtype = {kind: table["subtype"] == kind for kind in TRUTH["subtype"]}
    by_severity["contrast"] *= table["label"]
    return {name: _column(values) for name, values in (by_age | by_severity | by_sex | by_subtype).items()}


def _anatomy(patient: NDArray[np.int64], dimensions: int, seed: int) -> Columns:
    """A patient's build, and the nodule's side, position in the unit disc or ball, spikes and their rotation."""
    n, rng = int(patient.max()) + 1, stream(seed, "anatomy")
    spread = {"build": 0.035, "lung_height": 0.05, "diaphragm": 0.05, "heart": 0.03, "tilt": 0.05, "rib_phase": 1.5}
    spread |= {"density": DENSITY, "bubble": 0.5}
    anatomy = {name: sd * rng.standard_normal(n) for name, sd in spread.items()}
    point = rng.standard_normal((dimensions, n))
    point *= rng.random(n) ** (1 / dimensions) / np.linalg.norm(point, axis=0)
    anatomy |= dict(zip(("nodule_y", "nodule_x", "nodule_z"), [*point, np.zeros(n)], strict=False))
    anatomy |= {
        "side": rng.choice([-1.0, 1.0], n),
        "spikes": rng.choice([5.0, 6.0, 7.0], n),
        "turn": 2 * np.pi * rng.random(n),
    }
    return {name: _column(values[patient]) for name, values in anatomy.items()}


def _views(n: int, seed: int) -> Columns:
    """Position and exposure, which differ between two images of one patient."""
    rng = stream(seed, "views")
    columns = {f"shift_{axis}": _column(rng.uniform(-0.07, 0.07, n)) for axis in "yxz"}
    return columns | {"zoom": _column(rng.uniform(0.93, 1.07, n)), "exposure": _column(rng.uniform(0.88, 1.12, n))}


def _nodes(name: str, n: int, dimensions: int, seed: int) -> Array:
    """Control points of a random field for each patient, shape (n, nodes, nodes, nodes or 1)."""
    nodes = NODES[name]
    shape = (n, nodes, nodes, nodes if dimensions == 3 else 1)
    return stream(seed, name).standard_normal(shape, dtype=np.float32)


def _field(nodes: Array, y: Array, x: Array, z: Array) -> Array:
    """A smooth random field through control points, shape (n, height, width, depth)."""
    line = np.linspace(-1.1, 1.1, nodes.shape[1], dtype=np.float32)
    places = [(y, line), (x, line), (z, line if nodes.shape[3] > 1 else 0 * line[:1])]
    near = [np.exp(-(((a.reshape(len(a), -1, 1) - b) / (line[1] - line[0])) ** 2)) for a, b in places]
    field = np.einsum("nyj,njkl->nykl", near[0], nodes)
    field = np.einsum("nxk,nykl->nyxl", near[1], field)
    return np.einsum("nzl,nyxl->nyxz", near[2], field)


def _coordinates(block: Columns, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Positions of pixels in the patient, shapes (n, height, 1, 1), (n, 1, width, 1) and (n, 1, 1, depth).

    In a frontal view z is 0: everything is in one plane.
    """
    line = ((2 * np.arange(shape[1]) + 1) / shape[1] - 1).astype(np.float32)
    y = (line[:, None, None] - block["shift_y"]) / block["zoom"]
    x = (line[:, None] - block["shift_x"]) / block["zoom"]
    z = (line - block["shift_z"]) / block["zoom"] if shape[3] > 1 else np.zeros_like(block["zoom"])
    return y, x, z


def _edge(distance: Array, softness: float) -> Array:
    """1 where distance is positive, 0 where it is negative, with a soft edge."""
    return 0.5 + 0.5 * np.tanh(distance / (2 * softness))


def _depth(z: Array, centre: float, half: float) -> Array:
    """Squared distance along z, in half-depths of an organ; zero in a frontal view, which projects along z."""
    return ((z - centre) / half) ** 2 if z.shape[3] > 1 else z


def _thorax(block: Columns, fields: Columns, y: Array, x: Array, z: Array) -> Array:
    """The noiseless image without nodule: soft tissue and the organs in it; air is dark, bone is bright."""
    trunk, width = _outline(block, y, x, z)
    middle, heart = _middle(block, y, x, z), _heart(block, y, x, z)
    air = _lungs(block, y, x, z, width) * (1 - 0.9 * np.maximum(heart, middle))
    lung = LUNG + block["density"] + HAZE * fields["haze"] + VESSELS * _vessels(fields["vessels"], y, x)
    bones = block["rib_contrast"] * (1 - heart) * _ribs(block, y, x, z, width)
    tissue = 0.60 + 0.02 * fields["haze"] + 0.13 * middle + 0.05 * heart - 0.2 * _hollows(block, y, x, z)
    return 0.04 + trunk * (tissue + air * (lung - 0.60) + bones + block["breast_shadow"] * _breasts(y, x, z))


def _outline(block: Columns, y: Array, x: Array, z: Array) -> tuple[Array, Array]:
    """Trunk and neck against the surrounding air, and the trunk's half-width."""
    width = block["body_width"] + block["build"]
    trunk = _edge(1 - (x / width) ** 4 - ((y - 1.1) / 1.88) ** 4 - _depth(z, 0, 0.7) ** 2, 0.12)
    neck = _edge(0.30 - np.abs(x), 0.03) * _edge(-0.4 - y, 0.05) * _edge(0.3 - np.abs(z), 0.03)
    return np.maximum(trunk, neck), width


def _lungs(block: Columns, y: Array, x: Array, z: Array, width: Array) -> Array:
    """The two lung fields above the domes of the diaphragm, the image's left one higher."""
    height, centre = 0.70 + block["lung_height"], 0.47 * width + 0.05 * y
    across = (np.abs(x) - centre) / (0.37 * width)
    field = _edge(1 - across**2 - ((y + 0.06) / height) ** 2 - _depth(z, 0, 0.5), 0.10)
    dome = 0.44 + block["diaphragm"] + 0.05 * np.sign(x) + 0.09 * across**2
    return field * _edge(dome - y, 0.03)


def _vessels(field: Array, y: Array, x: Array) -> Array:
    """Branching lines, thickest at the hila, where a smooth random field crosses zero."""
    hilum = np.exp(-(((np.abs(x) - 0.2) / 0.4) ** 2) - ((y - 0.05) / 0.5) ** 2)
    return hilum * np.exp(-((field / 0.35) ** 2))


def _heart(block: Columns, y: Array, x: Array, z: Array) -> Array:
    """The heart, wider with age."""
    width = 0.23 + 0.5 * block["mediastinum_width"] + block["heart"]
    return _edge(1 - ((x - 0.12) / width) ** 2 - ((y - 0.32) / 0.28) ** 2 - _depth(z, -0.1, 0.3), 0.15)


def _middle(block: Columns, y: Array, x: Array, z: Array) -> Array:
    """Mediastinum and spine."""
    return _edge(block["mediastinum_width"] - np.abs(x - 0.02), 0.04) * _edge(0.3 - np.abs(z), 0.05)


def _hollows(block: Columns, y: Array, x: Array, z: Array) -> Array:
    """Air outside the lungs: the windpipe, and a bubble in the stomach."""
    windpipe = np.exp(-((x / 0.06) ** 2) - _depth(z, 0, 0.1)) * _edge(-0.15 - y, 0.05)
    below = y - 0.66 - block["diaphragm"]
    bubble = _edge(1 - ((x - 0.42) / 0.16) ** 2 - (below / 0.09) ** 2 - _depth(z, -0.2, 0.16), 0.2)
    return windpipe + np.abs(block["bubble"]) * bubble


def _ribs(block: Columns, y: Array, x: Array, z: Array, width: Array) -> Array:
    """Arched bands, over the whole cage in a frontal view, around it in a volume; and the collarbones."""
    bands = np.cos(2 * np.pi * (y - block["tilt"] * x - 0.45 * x**2) / 0.27 + block["rib_phase"])
    radius = (x / (0.86 * width)) ** 2 + _depth(z, 0, 0.55)
    cage = _edge(1 - radius, 0.05) if z.shape[3] == 1 else np.exp(-(((radius - 1) / 0.3) ** 2))
    collar = np.exp(-(((y + 0.56 + 0.3 * np.abs(x)) / 0.05) ** 2)) * _edge(0.62 - np.abs(x), 0.03) * (np.abs(x) > 0.12)
    return cage * (bands.clip(0) * _edge(0.55 - y, 0.05) * _edge(y + 0.75, 0.05) + collar)


def _breasts(y: Array, x: Array, z: Array) -> Array:
    """Breast shadows over the lower lung fields."""
    return _edge(1 - ((np.abs(x) - 0.45) / 0.34) ** 2 - ((y - 0.36) / 0.26) ** 2 - _depth(z, -0.6, 0.3), 0.2)


def _nodule(block: Columns, y: Array, x: Array, z: Array) -> tuple[Array, Array]:
    """Profile (0..1) of a nodule and distance from its middle (1 at its border), also for patients who have none."""
    width = block["body_width"] + block["build"]
    dy = y + 0.10 - 0.48 * block["nodule_y"]
    dx = x - block["side"] * width * (0.48 + 0.22 * block["nodule_x"])
    dz = z - 0.3 * block["nodule_z"]
    spikes = np.cos(block["spikes"] * np.arctan2(dy, dx) + block["turn"]).clip(0)
    reach = block["radius"] * (1 + 0.6 * block["spiculated"] * spikes)
    distance = np.sqrt(dy**2 + dx**2 + dz**2) / reach
    profile = _edge(1 - distance, 0.15) * (1 - block["ring"] * np.exp(-((distance / 0.5) ** 2)))
    return profile, distance
