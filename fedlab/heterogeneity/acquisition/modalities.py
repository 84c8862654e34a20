"""The imaging chain of each modality: its image transforms, in physical order, and their strengths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedlab.core.registry import Registry
from fedlab.data.cases import Cases
from fedlab.heterogeneity.acquisition import colour, kspace, mri, optics
from fedlab.heterogeneity.acquisition.optics import Pixels, ScanContext

TransformFunction = Callable[[Pixels, float, ScanContext], Pixels]


@dataclass(frozen=True)
class ImageTransform:
    """One property in which scanners differ.

    function: the image transform. value: maps a setting of the scanner, from -1 to 1 if signed, else from 0 to 1, where
    0 changes nothing, to the physical value that the function takes. unit: of the physical value. age: 1 if the setting
    is higher for old scanners, -1 if for new ones, 0 if independent. colour: whether it needs three colours.
    """

    function: TransformFunction
    value: Callable[[float], float]
    unit: str
    signed: bool = False
    age: int = 0
    colour: bool = False

    @property
    def lowest(self) -> float:
        """The lowest setting."""
        return -1.0 if self.signed else 0.0


def _signed(
    function: TransformFunction, value: Callable[[float], float], unit: str, colour: bool = False
) -> ImageTransform:
    """Describe a transform with settings from -1 to 1."""
    return ImageTransform(function, value, unit, signed=True, colour=colour)


def _aged(function: TransformFunction, value: Callable[[float], float], unit: str) -> ImageTransform:
    """Describe a transform that is stronger in old scanners."""
    return ImageTransform(function, value, unit, age=1)


TRANSFORMS: Mapping[str, ImageTransform] = {
    "haematoxylin": _signed(colour.haematoxylin, lambda s: 0.2 * s, "share of the stain added", colour=True),
    "eosin": _signed(colour.eosin, lambda s: 0.2 * s, "share of the stain added", colour=True),
    "residual": _signed(colour.residual, lambda s: 0.2 * s, "share of the stain added", colour=True),
    "vignette": ImageTransform(colour.vignette, lambda s: 0.5 * s, "light lost in the corners"),
    "temperature": _signed(colour.temperature, lambda s: 0.26 * s, "log gain of red, and loss of blue", colour=True),
    "blur": _aged(optics.blur, lambda s: s, "standard deviation in pixels of 28"),
    "motion": ImageTransform(kspace.motion, lambda s: 2 * s, "largest movement in pixels of 28"),
    "bias": _signed(mri.bias, lambda s: 0.3 * s, "largest coefficient of the log field"),
    "voxels": _aged(mri.voxels, lambda s: 2.0**s, "pixels a voxel is wide"),
    "ghosting": _aged(kspace.ghosting, lambda s: 0.2 * s, "brightness of each ghost, relative to the object"),
    "undersampling": ImageTransform(mri.undersampling, lambda s: 1 + 3 * s, "acceleration factor"),
    "gibbs": ImageTransform(mri.gibbs, lambda s: 0.5 * s, "share of the k-space radius cut off"),
    "spikes": _aged(kspace.spikes, lambda s: 0.2 * s, "ratio of the spike to the centre of k-space"),
    "photons": _aged(optics.photons, lambda s: 10.0 ** (4 - 3 * s), "photons at full scale"),
    "rician": _aged(optics.rician, lambda s: 0.1 * s, "standard deviation of either channel"),
    "speckle": _aged(optics.speckle, lambda s: 0.2 * s, "standard deviation of the gain"),
    "noise": _aged(optics.noise, lambda s: 0.1 * s, "standard deviation"),
    "kernel": _signed(optics.kernel, lambda s: s, "weight of sharpening, or minus the blur in pixels of 28"),
    "edges": ImageTransform(optics.kernel, lambda s: s, "weight of sharpening", age=-1),
    "depth": _signed(optics.depth, lambda s: 0.35 * s, "log gain at the bottom, and loss at the top"),
    "window": _signed(optics.window, lambda s: 2.0**s, "times as wide"),
    "level": _signed(optics.level, lambda s: 50 * s, "Hounsfield units"),
    "gain": _signed(optics.gain, lambda s: 1.4**s, "times as bright"),
    "lamp": _signed(optics.gain, lambda s: 1.2**s, "times as bright"),
    "offset": _signed(optics.offset, lambda s: 0.05 * s, "added"),
    "gamma": _signed(optics.gamma, lambda s: 2.0**s, "exponent"),
    "saturation": _signed(colour.saturation, lambda s: 1.25**s, "times as colourful", colour=True),
    "marker": _signed(colour.marker, lambda s: s, "correlation of the marker with the disease"),
    "jpeg": ImageTransform(colour.jpeg, lambda s: 95 - 65 * s, "quality"),
}

CAMERA = ("temperature", "blur", "noise", "lamp", "gamma", "saturation", "jpeg")
CHAINS: Mapping[str, tuple[str, ...]] = {
    "xray": ("blur", "photons", "edges", "gain", "offset", "gamma"),
    "ct": ("voxels", "photons", "kernel", "window", "level", "gamma"),
    "mri": ("bias", "voxels", "undersampling", "gibbs", "rician", "gamma"),
    "ultrasound": ("blur", "speckle", "depth", "gain", "gamma", "jpeg"),
    "fundus": ("vignette", *CAMERA),
    "dermatoscopy": ("vignette", *CAMERA),
    "histology": ("haematoxylin", "eosin", "residual", "blur", "noise", "lamp", "gamma", "jpeg"),
    "blood_smear": ("haematoxylin", "eosin", "temperature", "blur", "noise", "lamp", "gamma", "jpeg"),
    "generic": ("blur", "noise", "gain", "offset", "gamma"),
}
ARTEFACTS: Mapping[str, tuple[str, ...]] = {"mri": ("motion", "ghosting", "spikes")}  # only where named
ABOUT = {
    "xray": "radiographs: focal blur, quantum noise, edge enhancement, exposure, scatter, display curve",
    "ct": "computed tomography: thick slices, quantum noise, reconstruction kernel, window and level, display curve",
    "mri": "magnetic resonance: coil field, voxel size, fast k-space sampling, Gibbs ringing, Rician noise, contrast",
    "ultrasound": "ultrasound: beam width, speckle, time gain, overall gain, compression curve, screen captures",
    "fundus": "photographs of the retina: vignetting, white balance, defocus, sensor noise, exposure, colour, JPEG",
    "dermatoscopy": "dermatoscopes: vignetting, white balance, defocus, sensor noise, exposure, colour, JPEG",
    "histology": "slides stained with H&E: stain, defocus, sensor noise, lamp, display curve, JPEG",
    "blood_smear": "blood smears: azure and eosin stain, white balance, defocus, noise, lamp, display curve, JPEG",
    "generic": "any other modality: blur, noise, exposure, black level, display curve",
}
MODALITIES = Registry("modality")

KNOWN_DATASETS = {
    "xray": ("phantoms", "pneumoniamnist", "chestmnist", "covidchestxray", "chestxray14", "chexpert", "cxr"),
    "ct": (
        *("organamnist", "organcmnist", "organsmnist", "organmnist3d"),
        *("nodulemnist3d", "adrenalmnist3d", "fracturemnist3d", "lidc", "lidcidri", "kits19"),
    ),
    "mri": ("hippocampus", "task04hippocampus", "vesselmnist3d", "ixi", "fedixi", "fets2022", "brats2021"),
    "ultrasound": ("breastmnist", "busi"),
    "fundus": ("retinamnist", "retinalvessels", "chasedb1", "hrf", "refuge", "riga", "messidor"),
    "dermatoscopy": ("dermamnist", "ham10000", "isic2019", "fedisic2019"),
    "histology": ("pathmnist", "camelyon16", "camelyon17", "fedcamelyon16"),
    "blood_smear": ("bloodmnist", "bloodcells", "whitebloodcells", "pbcdatasetnormaldib", "segmentationwbc"),
}


def transforms_of(modality: str) -> tuple[str, ...]:
    """Return the transforms of the imaging chain and, after them, the artefacts that differ only where named."""
    return (*CHAINS[modality], *ARTEFACTS.get(modality, ()))


def modality_of(cases: Cases | None) -> str:
    """Return the modality given in the card, else that of a known dataset, else generic."""
    if cases is None:
        return "generic"
    named = _letters(str(cases.card.get("modality", "")))
    for modality in CHAINS:
        if named == _letters(modality):
            return modality
    name = _letters(cases.name)
    return next((modality for modality, names in KNOWN_DATASETS.items() if name in names), "generic")


def _letters(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def check_colour(modality: str, names: tuple[str, ...], cases: Cases | None) -> None:
    """Raise ValueError if a transform needs three colours and the images have fewer."""
    coloured = [name for name in names if TRANSFORMS[name].colour]
    if cases is None or not coloured or cases.shape[0] == 3:
        return
    grey = ", ".join(name for name, chain in CHAINS.items() if not any(TRANSFORMS[each].colour for each in chain))
    raise ValueError(
        f"{modality} scanners change {' and '.join(coloured)}, which needs three colours, but {cases.name} images have"
        f" {cases.shape[0]} channel{'s' * (cases.shape[0] > 1)}: choose one of {grey}"
    )


def check_kspace(names: tuple[str, ...], cases: Cases | None) -> None:
    """Raise ValueError if artefacts of MRI are requested for images known to be of another modality."""
    modality = modality_of(cases)
    wrong = [name for name in names if name in ARTEFACTS["mri"]]
    if cases is None or not wrong or modality in ("mri", "generic"):
        return
    raise ValueError(
        f"{', '.join(wrong)} arise{'s' * (len(wrong) == 1)} in the k-space of MRI, but {cases.name} images are"
        f" {modality}: choose {modality}(0.5), or, to try artefacts on any images, mri(0.5, only={wrong[0]!r})"
    )
