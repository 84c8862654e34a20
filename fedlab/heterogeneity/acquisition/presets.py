"""What a user may write for the acquisition axis: a dose, a modality, a shortcut, or named styles of real scanners."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedlab.core.registry import Registry, nearest
from fedlab.heterogeneity.acquisition.modalities import ABOUT, CHAINS, EFFECTS, MODALITIES
from fedlab.heterogeneity.site_coordinates import dose as as_dose

Acquisition = float | str | Sequence[str]

_STYLES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))
STYLES: Mapping[str, str] = {name: f"{style['modality']}: {style['about']}" for name, style in _STYLES.items()}


@dataclass(frozen=True)
class Requested:
    """A value of the axis, read. modality: empty for the cases' own. only: the effects alone that differ, empty for
    all. styles: names of them, that take turns over the sites or stand for one site each."""

    dose: float = 0.0
    modality: str = ""
    jitter: float = 0.0
    only: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    turns: bool = False


def read(value: object) -> Requested:
    """What the value asks for; ValueError with the nearest that exists."""
    if isinstance(value, str):
        return _styles(value) if value.split("(")[0].strip() == "styles" else _scheme(value)
    if isinstance(value, Sequence):
        return Requested(styles=_known(value))
    return Requested(as_dose(value, "acquisition"))


def _scheme(text: str) -> Requested:
    function, args, knobs = SCHEMES.parse(text)
    return function(*args, **knobs)  # type: ignore[no-any-return]


def _modality(modality: str, dose: float = 0.5, jitter: float = 0.0, only: str | Sequence[str] = ()) -> Requested:
    """Scanners of one modality."""
    names = (only,) if isinstance(only, str) else tuple(only)
    for name in names:
        if name not in CHAINS[modality]:
            raise ValueError(f"{modality} scanners have no effect {name!r}: {nearest(str(name), CHAINS[modality])}")
    return Requested(as_dose(dose, f"acquisition {modality!r}"), modality, _jitter(jitter), names)


def marker(dose: float = 0.5) -> Requested:
    """a burned-in token that tells the disease at some sites and its absence at others: a shortcut, nothing else"""
    return Requested(as_dose(dose, "acquisition 'marker'"), "generic", only=("marker",))


def _jitter(jitter: object) -> float:
    try:
        return as_dose(jitter, "jitter")
    except ValueError:
        raise ValueError(f"jitter is {jitter!r}: give a standard deviation of settings between 0 and 1") from None


def _registered() -> Registry:
    schemes = Registry("acquisition")
    for name, about in ABOUT.items():
        function: Callable[..., Requested] = partial(_modality, name)
        MODALITIES.add(function, name, about)
        schemes.add(function, name, about)
    schemes.add(marker)
    return schemes


SCHEMES = _registered()


def _styles(text: str) -> Requested:
    """ "styles(ct_soft, ct_sharp, jitter=0.1)"; names with or without quotes."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or any(word.arg != "jitter" for word in call.keywords):
            raise SyntaxError
        names = [arg.id if isinstance(arg, ast.Name) else ast.literal_eval(arg) for arg in call.args]
        jitter = ast.literal_eval(call.keywords[0].value) if call.keywords else 0.0
    except (SyntaxError, ValueError):
        raise ValueError(f"cannot read acquisition {text!r}: write it as styles(ct_soft, ct_sharp)") from None
    return Requested(styles=_known(names), turns=True, jitter=_jitter(jitter))


def _known(names: Sequence[object]) -> tuple[str, ...]:
    if not names:
        raise ValueError("acquisition names no style: name one a site, or give a dose between 0 and 1")
    for name in names:
        if name not in STYLES:
            raise ValueError(f"unknown style {name!r}: {nearest(str(name), STYLES)}")
    return tuple(str(name) for name in names)


def settings_of(style: str) -> dict[str, float]:
    """effect -> setting, in the order of EFFECTS."""
    given = _STYLES[style]["settings"]
    return {name: float(given[name]) for name in EFFECTS if name in given}


def check_suits(style: str, modality: str) -> None:
    """ValueError if a style is made for another modality; cases of unknown modality take any."""
    own = _STYLES[style]["modality"]
    if own in ("any", modality) or modality == "generic":
        return
    fitting = ", ".join(name for name, other in _STYLES.items() if other["modality"] == modality)
    raise ValueError(f"style {style!r} is one of {own}, but the images are {modality}: choose from {fitting}")
