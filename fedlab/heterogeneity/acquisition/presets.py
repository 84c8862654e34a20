"""Values of the acquisition axis: a dose, a modality, a shortcut marker, or named presets of real scanners."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedlab.core.arguments import shown
from fedlab.core.registry import LONGEST, Registry, nearest, split_call
from fedlab.heterogeneity.acquisition.modalities import ABOUT, ARTEFACTS, MODALITIES, TRANSFORMS, transforms_of
from fedlab.heterogeneity.site_effects import dose as as_dose

Acquisition = float | str | Sequence[str]

_PRESETS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))
PRESETS: Mapping[str, str] = {name: f"{preset['modality']}: {preset['about']}" for name, preset in _PRESETS.items()}


@dataclass(frozen=True)
class Requested:
    """A value of the axis, parsed.

    modality: empty for that of the cases. jitter: standard deviation of settings between cases. only: transforms that
    differ, empty for all. presets: names, which take turns over the sites (turns) or are given one per site.
    """

    dose: float = 0.0
    modality: str = ""
    jitter: float = 0.0
    only: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    turns: bool = False


def read(value: object) -> Requested:
    """Parse a value of the axis; raise ValueError with the nearest known name."""
    if isinstance(value, str):
        return _presets_in_turn(value) if value.split("(")[0].strip() == "styles" else _scheme(value)
    if isinstance(value, Sequence):
        return Requested(presets=_known_presets(value))
    return Requested(as_dose(value, "acquisition"))


def _scheme(text: str) -> Requested:
    """Read a modality or marker with its arguments."""
    name = split_call(text, "acquisition")[0]
    function, args, arguments = (MODALITIES if name in MODALITIES and name not in SCHEMES else SCHEMES).parse(text)
    found = function(*args, **arguments)
    if not isinstance(found, Requested):
        raise ValueError(
            f"acquisition scheme {text!r} gives {found!r}: return Requested(dose, modality), with the transforms that"
            " differ in `only`"
        )
    return found


def _modality(modality: str, dose: float = 0.5, jitter: float = 0.0, only: str | Sequence[str] = ()) -> Requested:
    """Scanners of one modality, with all transforms of its imaging chain.

    Setting of transform j at site k: ``h u[k, j]`` if signed, else ``h (1 + u[k, j]) / 2``; 0 changes nothing.

    Parameters
    ----------
    dose : float, default 0.5
        Strength h, 0 to 1.
    jitter : float, default 0.0
        Standard deviation of settings between the cases of a site, 0 to 1.
    only : str or sequence of str, optional
        Names of the transforms that differ; by default all of the imaging chain, without the artefacts of `artefacts`.

    Returns
    -------
    Requested
        The parsed value.
    """
    names = (only,) if isinstance(only, str) else tuple(only)
    known = transforms_of(modality)
    for name in names:
        if name not in known:
            raise ValueError(f"{modality} scanners have no transform {name!r}: {nearest(str(name), known)}")
    return Requested(as_dose(dose, f"acquisition {modality!r}"), modality, _jitter(jitter), names)


def marker(dose: float = 0.5) -> Requested:
    """A burned-in marker, correlated with the disease at some sites and with its absence at others (a shortcut).

    A case at site k has the marker with probability ``1/2 + h u[k] (y - 1/2)`` for a binary label y. A dose of 0 burns
    in no marker; images are otherwise unchanged.

    Parameters
    ----------
    dose : float, default 0.5
        Strength h, 0 to 1: correlation of marker and disease at the extreme sites.

    Returns
    -------
    Requested
        The parsed value.

    References
    ----------
    Zech et al. 2018, doi:10.1371/journal.pmed.1002683.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=3, acquisition="marker(0.8)")
    >>> sorted(scanner.settings["marker"] for scanner in part.scanners.values())
    [-0.8, 0.0, 0.8]
    """
    return Requested(as_dose(dose, "acquisition 'marker'"), "generic", only=("marker",))


def artefacts(dose: float = 0.5, jitter: float = 0.0, only: str | Sequence[str] = ARTEFACTS["mri"]) -> Requested:
    """Artefacts of MRI: patients who move, ghosts along the phase-encoding axis (the height), spikes in k-space.

    Sites differ in how strong they are; `mri` has what differs between scanners that work well. Setting of artefact j
    at site k: ``h (1 + u[k, j]) / 2``. At the extreme site and h = 1, patients move by up to 2 pixels of 28, each ghost
    has 0.2 of the brightness of the object, and a spike has 0.2 of the height of the centre of k-space. Movements and
    spikes differ between cases; the distance of ghosts is that of the site. Masks and labels stay as they are.

    Parameters
    ----------
    dose : float, default 0.5
        Strength h, 0 to 1. A dose of 0 leaves images identical.
    jitter : float, default 0.0
        Standard deviation of settings between the cases of a site, 0 to 1.
    only : str or sequence of str, default ("motion", "ghosting", "spikes")
        Names of the transforms of MRI that differ.

    Returns
    -------
    Requested
        The parsed value, for images of MRI or of unknown modality.

    References
    ----------
    Shaw et al. 2020, doi:10.1109/TMI.2020.2972547 (motion). Wood and Henkelman 1985, doi:10.1118/1.595782; Buonocore
    and Gao 1997, doi:10.1002/mrm.1910380114 (ghosts). Stadler et al. 2007, doi:10.1007/s00330-006-0470-4 (spikes).

    Examples
    --------
    >>> from dataclasses import replace
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=60, size=16)")
    >>> cases = replace(cases, card=cases.card | {"modality": "mri"})
    >>> part = fedlab.partition(cases, sites=3, acquisition="artefacts(0.8, only='ghosting')")
    >>> sorted(round(scanner.parameters["ghosting"], 2) for scanner in part.scanners.values())
    [0.0, 0.08, 0.16]
    """
    return replace(_modality("mri", dose, jitter, only or ARTEFACTS["mri"]), modality="")


def _jitter(jitter: object) -> float:
    """Return a jitter in [0, 1]; raise ValueError otherwise."""
    try:
        return as_dose(jitter, "jitter")
    except ValueError:
        raise ValueError(f"jitter is {jitter!r}: give a standard deviation of settings between 0 and 1") from None


def _registered() -> Registry:
    """Register the modalities and the marker."""
    schemes = Registry("acquisition")
    for name, about in ABOUT.items():
        function: Callable[..., Requested] = partial(_modality, name)
        function.__doc__ = f"{about}\n\n    {_modality.__doc__}"
        MODALITIES.add(function, name, about)
        schemes.add(function, name, about)
    schemes.add(marker)
    schemes.add(artefacts)
    return schemes


SCHEMES = _registered()


def _presets_in_turn(text: str) -> Requested:
    """Read "styles(ct_soft, ct_sharp, jitter=0.1)"; names with or without quotes."""
    try:
        call = ast.parse(text.strip()[:LONGEST], mode="eval").body
        if not isinstance(call, ast.Call) or [word.arg for word in call.keywords] not in ([], ["jitter"]):
            raise SyntaxError
        names = [arg.id if isinstance(arg, ast.Name) else ast.literal_eval(arg) for arg in call.args]
        jitter = ast.literal_eval(call.keywords[0].value) if call.keywords else 0.0
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"cannot read acquisition {shown(text)}: write it as styles(ct_soft, ct_sharp)") from None
    return Requested(presets=_known_presets(names), turns=True, jitter=_jitter(jitter))


def _known_presets(names: Sequence[object]) -> tuple[str, ...]:
    """Return the names of presets; raise ValueError for an unknown one."""
    if not names:
        raise ValueError("acquisition names no scanner preset: name one per site, or give a dose between 0 and 1")
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"unknown scanner preset {name!r}: {nearest(str(name), PRESETS)}")
    return tuple(str(name) for name in names)


def settings_of(preset: str) -> dict[str, float]:
    """Return transform -> setting, in the order of TRANSFORMS."""
    given = _PRESETS[preset]["settings"]
    return {name: float(given[name]) for name in TRANSFORMS if name in given}


def check_suits(preset: str, modality: str) -> None:
    """Raise ValueError if a preset is of another modality; cases of unknown modality accept any preset."""
    own = _PRESETS[preset]["modality"]
    if own in ("any", modality) or modality == "generic":
        return
    fitting = ", ".join(name for name, other in _PRESETS.items() if other["modality"] == modality)
    raise ValueError(f"scanner preset {preset!r} is for {own}, but the images are {modality}: choose from {fitting}")
