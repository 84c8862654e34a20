"""Types and bounds that a function declares for its arguments, checked before anything is computed.

A signature says what an argument may be: `mu: NotNegative = 0.01`, `match: Literal["unit", "steps"] = "unit"`, or
`topology: Annotated[str, check] = "ring"`, where `check` raises ValueError. A bool is no number; a number is finite.
"""

import inspect
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

LARGEST = 3.4e38  # number that float32 holds
MOST = 2**63 - 1  # whole number that a file holds
LISTS = (list, tuple, Sequence)
SHOWN = 60  # characters of a value in an error


@dataclass(frozen=True)
class Bounds:
    """The least and the largest number that an argument may be. above, below: whether the bound itself is left out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def hold(self, value: float) -> bool:
        """Whether a number lies within the bounds."""
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return "" if self.low == -math.inf else f" {'above' if self.above else 'of at least'} {_spelt(self.low)}"
        return f" {'above' if self.above else 'from'} {_spelt(self.low)} to {'below ' * self.below}{_spelt(self.high)}"


NotNegative = Annotated[float, Bounds(0)]
Positive = Annotated[float, Bounds(0, above=True)]
Share = Annotated[float, Bounds(0, 1)]
Fraction = Annotated[float, Bounds(0, 1, below=True)]  # 0 to below 1
Count = Annotated[int, Bounds(0)]
Whole = Annotated[int, Bounds(1)]


def check(argument: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of an argument's declared type, or out of its bounds."""
    if fits(value, hint):
        if get_origin(hint) is Annotated:
            for further in filter(callable, hint.__metadata__):
                further(value)
        return
    if _is_real(value) and LARGEST < abs(value) < math.inf:
        raise ValueError(
            f"{argument}={shown(value)}: give a number up to {LARGEST:g} in size, the largest that float32 holds"
        )
    if _is_whole(value) and abs(value) > MOST:
        raise ValueError(f"{argument}={shown(value)}: give a whole number up to {MOST:,} in size")
    if isinstance(value, str) and fits(number(value), hint):
        raise ValueError(f"{argument}={shown(value)}: {argument} is the text {shown(value)}, give the number")
    raise ValueError(f"{argument}={shown(value)}: {wanted(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type and within its bounds; unknown types hold any finite value."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, inner[0]) and all(one.hold(value) for one in inner[1:] if isinstance(one, Bounds))
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin in LISTS:
        return isinstance(value, list | tuple) and all(fits(one, inner[0]) for one in value)
    kinds: dict[Any, Callable[[Any], bool]] = {
        float: _is_number,
        int: lambda value: _is_whole(value) and abs(value) <= MOST,
        bool: lambda value: isinstance(value, bool),
        str: lambda value: isinstance(value, str),
        None: lambda value: value is None,
        type(None): lambda value: value is None,
    }
    return kinds[hint](value) if hint in kinds else not _is_real(value) or _is_number(value)


def wanted(hint: Any) -> str:
    """What to give for an argument of this type: "give a number of at least 0"."""
    kinds = _alternatives(hint)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if not choices:
        return f"give {_words(hint)}"
    several = ", or several of them in a list" if any(get_origin(kind) in LISTS for kind in kinds) else ""
    return f"choose one of {', '.join(map(repr, choices))}{several}"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; the type itself if it is none."""
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _words(hint: Any, bounds: str = "") -> str:
    """A declared type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(inner[0], "".join(str(one) for one in inner[1:] if isinstance(one, Bounds)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin in LISTS:
        many = {float: "numbers", int: "whole numbers", str: "names"}
        return f"a list of {many[inner[0]]}" if inner[0] in many else f"a list, each {_words(inner[0])}"
    names = {float: "a number", int: "a whole number", bool: "True or False", str: "text", type(None): "None"}
    return names.get(hint, "another value") + bounds


def shown(value: Any) -> str:
    """A value as it is written, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 15]}... ({len(text):,} characters)"


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, with annotations as objects where they can be evaluated."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that is known only to a type checker
        return inspect.signature(function)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that float32 holds, and not a bool."""
    return _is_real(value) and -LARGEST <= value <= LARGEST


def _spelt(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def number(text: str) -> Any:
    """The number that a text spells, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
