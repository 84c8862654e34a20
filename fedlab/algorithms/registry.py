"""The register of methods, and what makes a generator a method."""

import inspect
from collections.abc import Callable, Iterator

from fedlab.federation import Federation, Round
from fedlab.registry import Registry

METHODS = Registry("method")
Algorithm = Callable[..., Iterator[Round]]


def algorithm(function: Algorithm) -> Algorithm:
    """Register a method: a generator over a federation that yields its models after each round.

    Its knobs are keyword arguments, its state lives in `fed.memory`. The first line of the docstring is its meaning.
    """
    return METHODS.add(function)


def start(text: str, fed: Federation) -> Iterator[Round]:
    """The rounds of the method that `text` names, such as "fedprox(mu=0.01)"."""
    function, args, knobs = METHODS.parse(text, given=1)
    called = inspect.signature(function).bind(fed, *args, **knobs)
    called.apply_defaults()
    fed.weighting = called.arguments.get("weighting", "cases")
    fed.site_weights(fed.weighting)  # a misspelt one is refused before any training
    return function(fed, *args, **knobs)
