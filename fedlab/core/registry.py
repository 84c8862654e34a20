"""Registries of names that a user may write, what they mean, and the nearest name when one is misspelt.

Methods, models, datasets and schemes are written as they are read: `"fedprox(mu=0.01)"` is parameter, legend, folder
name and sweep axis in one.
"""

import ast
import difflib
import inspect
import marshal
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error message: the names that `word` may have meant, or all that exist."""
    known = sorted(words)
    close = difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"choose one of {', '.join(known)}"


def choose(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value of an argument that is not among the choices."""
    if isinstance(value, bool) != isinstance(choices[0], bool) or value not in choices:
        raise ValueError(f"{argument}={value!r}: choose one of {', '.join(map(repr, choices))}")


class Registry(Mapping[str, str]):
    """Names of functions and their one-line meanings: a read-only mapping.

    Parameters
    ----------
    kind : str
        What is registered, for error messages, such as "method".

    Examples
    --------
    >>> from fedlab.core.registry import Registry
    >>> rules = Registry("rule")
    >>> @rules.add
    ... def trimmed(models, share: float = 0.1):
    ...     "Mean without the largest and smallest values."
    >>> rules
    trimmed  Mean without the largest and smallest values.
    >>> function, values, named = rules.parse("trimmed(share=0.2)", given=1)
    >>> named
    {'share': 0.2}
    >>> rules.parse("trimmed(shar=0.2)", given=1)
    Traceback (most recent call last):
    ValueError: rule 'trimmed' has no argument 'shar': did you mean 'share'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._functions: dict[str, Callable[..., Any]] = {}
        self._meanings: dict[str, str] = {}
        self._sources: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._meanings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._meanings)

    def __len__(self) -> int:
        return len(self._meanings)

    def __repr__(self) -> str:
        width = max((len(name) for name in self), default=0)
        return "\n".join(f"{name:{width}}  {meaning}" for name, meaning in self.items())

    def add(self, function: F, name: str = "", meaning: str = "", source: str = "") -> F:
        """Register a function, by default under its own name and with the first line of its docstring.

        source: the fingerprint that the function has in the process that defined it, if that is another process.
        """
        key = name or function.__name__
        self._functions[key] = function
        self._meanings[key] = meaning or (inspect.getdoc(function) or "").split("\n")[0]
        self._sources[key] = source
        return function

    def remove(self, name: str) -> None:
        """Remove a name, such as that of a method in a cell that is run again."""
        for entries in (self._functions, self._meanings, self._sources):
            entries.pop(name)

    def explain(self, text: str) -> str:
        """The whole docstring of a name, or of a call such as "fedprox(mu=0.01)"."""
        name = split_call(text, self.kind)[0]
        return f"{name}: {inspect.getdoc(self.function(name)) or self[name]}"

    def fingerprint(self, name: str) -> str:
        """The source of a user-defined function, which identifies its version; empty for a function of fedlab.

        Raises ValueError for a function that is not written in Python.
        """
        if self._sources.get(name):
            return self._sources[name]
        try:
            return _source(self.function(name))
        except TypeError:
            raise ValueError(
                f"{self.kind} {name!r} is not written in Python, so versions of it could not be distinguished: wrap it"
                " in a function of your own"
            ) from None

    def function(self, name: str) -> Callable[..., Any]:
        """The function registered under a bare name; ValueError with the nearest names if there is none."""
        if name not in self._functions:
            raise ValueError(f"unknown {self.kind} {name!r}: {nearest(name, self)}")
        return self._functions[name]

    def parse(self, text: str, given: int = 0) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        """`"fedprox(mu=0.01)"` -> (fedprox, [], {"mu": 0.01}); a user cannot set the first `given` parameters."""
        name, values, named = split_call(text, self.kind)
        function = self.function(name)
        self._check_arguments(name, function, values, named, given)
        return function, values, named

    def _check_arguments(
        self, name: str, function: Callable[..., Any], values: list[Any], named: dict[str, Any], given: int
    ) -> None:
        """Refuse arguments that the function does not have, has not so many of, or gets twice."""
        parameters = list(inspect.signature(function).parameters.values())[given:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return
        known = [p.name for p in parameters]
        for argument in named:
            if argument not in known:
                hint = nearest(argument, known) if known else "it has none"
                raise ValueError(f"{self.kind} {name!r} has no argument {argument!r}: {hint}")
        if len(values) > len(known):
            raise ValueError(f"{self.kind} {name!r} takes at most {len(known)} values, found {len(values)}: {values}")
        if twice := [argument for argument in named if argument in known[: len(values)]]:
            raise ValueError(
                f"{self.kind} {name!r} is given {twice[0]!r} twice: pass it by name or by position, not both"
            )


def split_call(text: str, kind: str = "name") -> tuple[str, list[Any], dict[str, Any]]:
    """Split `"dirichlet(0.3)"` into ("dirichlet", [0.3], {}); values are Python literals, nothing is evaluated."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise SyntaxError
        if len({k.arg for k in tree.keywords}) < len(tree.keywords):
            raise SyntaxError
        named = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords if k.arg}
        return tree.func.id, [ast.literal_eval(a) for a in tree.args], named
    except (SyntaxError, ValueError):
        raise ValueError(f"cannot read {kind} {text!r}: write it as name or name(argument=value)") from None


def _source(function: Any) -> str:
    """The source of a function or class; of an object or partial also what it holds; empty for those of fedlab.

    Raises TypeError where there is no Python code. A user's partial of a public function of fedlab counts as the
    user's; partials of private functions are fedlab's.
    """
    if isinstance(function, partial):
        inner = _source(function.func)
        if not inner and function.func.__name__.startswith("_"):
            return ""
        return inner + repr((function.func.__name__, function.args, function.keywords))
    if not hasattr(function, "__name__"):  # a callable object
        inner = _source(type(function))
        return inner and inner + repr(vars(function))
    if str(function.__module__).startswith("fedlab."):
        return ""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, or in `python -c`
        return _compiled(function)


def _compiled(function: Any) -> str:
    """The compiled code of a function or class, as text that is the same in every process."""
    members = vars(function).values() if inspect.isclass(function) else [function]
    functions = [member for member in members if inspect.isfunction(member)]
    if not functions:
        raise TypeError(f"{function!r} is not written in Python")
    return "".join(f"{marshal.dumps(f.__code__, 2).hex()}{(f.__defaults__, f.__kwdefaults__)!r}" for f in functions)
