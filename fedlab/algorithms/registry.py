"""The register of methods, and what makes a generator a method."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fedlab.core.registry import Registry
from fedlab.federation import Federation, Round

METHODS = Registry("method")
Algorithm = Callable[..., Iterator[Round]]
_IN_CLEAR: dict[Algorithm, tuple[str, dict[str, Any]]] = {}  # method -> what it needs of each site, with which knobs


def algorithm(function: Algorithm | None = None, *, reveals: str = "", **only: Any) -> Any:
    """Register a method: a generator over a federation that yields its models after each round.

    Its knobs are keyword arguments, its state lives in `fed.memory`. The first line of the docstring is its meaning.
    reveals: what it must see of single sites, so that it refuses a secure sum; only: the knobs with which it does.
    """
    if function is None:
        return lambda found: algorithm(found, reveals=reveals, **only)
    if reveals:
        _IN_CLEAR[function] = reveals, only
    return METHODS.add(function)


def check_secure(text: str) -> None:
    """Refuse a method that a secure sum would hide too much from."""
    function, args, knobs = METHODS.parse(text, given=1)
    called = _bound(function, None, args, knobs)
    seen, only = _IN_CLEAR.get(function, ("", {}))
    if seen and all(called[knob] == value for knob, value in only.items()):
        raise ValueError(
            f"secure_sum=True hides what single sites send, of which {text!r} must see {seen}: choose one of them"
        )


def start(text: str, fed: Federation) -> Iterator[Round]:
    """The rounds of the method that `text` names, such as "fedprox(mu=0.01)"; raises DivergedError."""
    if fed.settings.secure_sum:
        check_secure(text)
    function, args, knobs = METHODS.parse(text, given=1)
    fed.weighting = _bound(function, fed, args, knobs).get("weighting", "cases")
    fed.site_weights(fed.weighting)  # a misspelt one is refused before any training
    return _settled(function(fed, *args, **knobs), fed)


def _settled(rounds: Iterator[Round], fed: Federation) -> Iterator[Round]:
    """The rounds, each once its numbers have been read and found finite."""
    for outcome in rounds:
        fed.settle()
        yield outcome


def _bound(function: Algorithm, fed: Federation | None, args: list[Any], knobs: dict[str, Any]) -> dict[str, Any]:
    """All knobs of a call by their names, with their defaults."""
    called = inspect.signature(function).bind(fed, *args, **knobs)
    called.apply_defaults()
    return called.arguments
