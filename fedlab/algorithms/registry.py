"""Registry of methods, and the decorator that makes a generator a method."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fedlab.core.registry import Registry, nearest
from fedlab.federation import Federation, Round

METHODS = Registry("method")
Algorithm = Callable[..., Iterator[Round]]
_REVEALED: dict[Algorithm, tuple[str, dict[str, Any]]] = {}  # method -> what it sees of each site, with which arguments


def algorithm(function: Algorithm | None = None, *, reveals: str = "", version: Any = "", **only: Any) -> Any:
    """Register a method: a generator over a federation that yields its models after each round.

    Parameters
    ----------
    function : callable
        `function(fed, **arguments)`. The name of the function is that of the method, the first line of its docstring
        its meaning in `fedlab.METHODS`. Its state between rounds is in `fed.memory`.
    reveals : str, optional
        What the method must see of single sites, such as "the loss of each", so that it refuses a secure sum.
    version : str, optional
        Version of what no fingerprint of the code sees, such as files whose names the method computes. Change it by
        hand, so that finished runs of the version before are not returned.
    **only
        Values of arguments with which it reveals that; by default it always does.

    Returns
    -------
    callable
        The function.

    Examples
    --------
    >>> import fedlab
    >>> from fedlab.algorithms import METHODS, algorithm
    >>> from fedlab.federation import Federation, Round
    >>> @algorithm
    ... def halfway(fed: Federation, share: float = 0.5):
    ...     '''The server goes a share of the way to the mean.'''
    ...     state = fed.memory(w=fed.start)
    ...     for round in fed.rounds(state):
    ...         mean = fed.average(fed.broadcast(state.w), round)
    ...         step = mean.parameters - state.w.parameters
    ...         state.w = mean.with_parameters(state.w.parameters + share * step)
    ...         yield Round({"global": state.w})
    >>> fedlab.Experiment(method="halfway(share=0.2)").method
    'halfway(share=0.2)'
    >>> METHODS.remove("halfway")
    """
    if function is None:
        return lambda found: algorithm(found, reveals=reveals, version=version, **only)
    for name in only:
        if not reveals or name not in (known := inspect.signature(function).parameters):
            hint = "say what it reveals, reveals='...'" if not reveals else nearest(name, known)
            raise ValueError(f"algorithm was given {name!r}, no argument of {function.__name__!r}: {hint}")
    if reveals:
        _REVEALED[function] = reveals, only
    return METHODS.add(function, version=version)


def check_secure(text: str) -> None:
    """Refuse a method that needs what a secure sum hides."""
    function, args, named = METHODS.parse(text, given=1)
    arguments = _bound(function, None, args, named)
    revealed, only = _REVEALED.get(function, ("", {}))
    if revealed and all(arguments[name] == value for name, value in only.items()):
        raise ValueError(
            f"secure_sum=True hides what single sites send, of which {text!r} must see {revealed}: choose one of them"
        )


def start(text: str, fed: Federation) -> Iterator[Round]:
    """The rounds of a method such as "fedprox(mu=0.01)", each checked to be finite; raises DivergedError."""
    if fed.settings.secure_sum:
        check_secure(text)
    function, args, named = METHODS.parse(text, given=1)
    fed.server.weighting = _bound(function, fed, args, named).get("weighting", "cases")
    fed.site_weights(fed.server.weighting)  # refuses an unknown weighting before any training
    return _checked(function(fed, *args, **named), fed)


def _checked(rounds: Iterator[Round], fed: Federation) -> Iterator[Round]:
    """The rounds, after their numbers have been read and found finite."""
    for outcome in rounds:
        fed.round_log.check_finite()
        yield outcome


def _bound(function: Algorithm, fed: Federation | None, args: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name, with defaults."""
    bound = inspect.signature(function).bind(fed, *args, **named)
    bound.apply_defaults()
    return bound.arguments
