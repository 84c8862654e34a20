"""Registries of names that a user may write, what they mean, and the nearest name when one is misspelt.

Methods, models, datasets and schemes are written as they are read: `"fedprox(mu=0.01)"` is parameter, legend, folder
name and sweep axis in one.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from fedlab.core import arguments, own_code
from fedlab.core.warnings import warn

F = TypeVar("F", bound=Callable[..., Any])
LONGEST = 10_000  # characters of a name with its arguments


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
        self._versions: dict[str, str] = {}
        self._told: set[str] = set()

    def __getitem__(self, name: str) -> str:
        return self._meanings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._meanings)

    def __len__(self) -> int:
        return len(self._meanings)

    def __repr__(self) -> str:
        width = max((len(name) for name in self), default=0)
        return "\n".join(f"{name:{width}}  {meaning}" for name, meaning in self.items())

    def add(
        self, function: F | None = None, name: str = "", meaning: str = "", source: str = "", *, version: Any = ""
    ) -> Any:
        """Register a function, by default under its own name and with the first line of its docstring.

        source: the fingerprint that the function has in the process that defined it, if that is another process.
        version: of what no fingerprint sees, such as files whose names the function computes; change it by hand, as in
        `@MODELS.add(version="2")`.
        """
        if function is None:
            return partial(self.add, name=name, meaning=meaning, source=source, version=version)
        key = name or getattr(function, "__name__", type(function).__name__)
        self._functions[key] = function
        self._meanings[key] = meaning or (inspect.getdoc(function) or "").split("\n")[0]
        self._sources[key] = source
        self._versions[key] = str(version)
        return function

    def remove(self, name: str) -> None:
        """Remove a name, such as that of a method in a cell that is run again."""
        for entries in (self._functions, self._meanings, self._sources, self._versions):
            entries.pop(name, None)

    def explain(self, text: str) -> str:
        """The whole docstring of a name, or of a call such as "fedprox(mu=0.01)"."""
        name = split_call(text, self.kind)[0]
        return f"{name}: {inspect.getdoc(self.function(name)) or self[name]}"

    def is_own(self, name: str) -> bool:
        """Whether a function is the user's and not one of fedlab."""
        return bool(self._sources.get(name)) or own_code.is_own(self.function(name))

    def fingerprint(self, name: str) -> str:
        """What identifies a version of a user's function, its code and all that it calls; empty for those of fedlab.

        Raises ValueError for a function that is not written in Python and has no version.
        """
        if self._sources.get(name) or not self.is_own(name):
            return self._sources.get(name, "")
        version = self._versions.get(name, "")
        try:
            text, unread = own_code.fingerprint(self.function(name))
        except TypeError:
            if not version:
                raise ValueError(
                    f"{self.kind} {name!r} is not written in Python, so versions of it could not be distinguished: wrap"
                    " it in a function of your own, or register it with a version, as in add(function, version='1')"
                ) from None
            text, unread = name, []
        if unread and not version:
            self._tell(f"{self.kind} {name!r} depends on {', '.join(unread)}")
        return f"{text}\nversion {version}" if version else text

    def _tell(self, what: str) -> None:
        """Warn once of what the fingerprint of a function does not see."""
        if what not in self._told:
            self._told.add(what)
            warn(
                f"{what}, which fedlab does not watch: a finished run is returned although that changed, unless you"
                " register the function with a version and change it by hand, as in add(function, version='2')"
            )

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
        return function, [_held(value) for value in values], {key: _held(value) for key, value in named.items()}

    def _check_arguments(
        self, name: str, function: Callable[..., Any], values: list[Any], named: dict[str, Any], given: int
    ) -> None:
        """Refuse arguments that the function lacks or gets twice, and values that it does not declare."""
        try:
            signature = arguments.signature(function)
        except (TypeError, ValueError):  # not written in Python
            return
        parameters = list(signature.parameters.values())[given:]
        known = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            for argument in named:
                if argument not in known:
                    hint = nearest(argument, known) if known else "it has none"
                    raise ValueError(f"{self.kind} {name!r} has no argument {argument!r}: {hint}")
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(values) > len(places) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise ValueError(f"{self.kind} {name!r} takes at most {len(places)} values, found {len(values)}: {values}")
        if twice := [p.name for p in places[: len(values)] if p.name in named]:
            raise ValueError(
                f"{self.kind} {name!r} is given {twice[0]!r} twice: pass it by name or by position, not both"
            )
        try:
            signature.bind_partial(*[None] * given)
        except TypeError:
            raise ValueError(
                f"{self.kind} {name!r} takes {signature}, but is called with {given} values before those of the user:"
                f" write it like {next(iter(self))!r}, see help({next(iter(self._functions.values())).__name__})"
            ) from None
        try:
            signature.bind(*[None] * given, *values, **named)
        except TypeError as error:
            raise ValueError(f"{self.kind} {name!r}: {error}; print its arguments with explain({name!r})") from None
        by_name = {p.name: value for p, value in zip(places, values, strict=False)} | named
        for parameter in parameters:
            if parameter.name in by_name:
                try:
                    arguments.check(parameter.name, by_name[parameter.name], parameter.annotation)
                except ValueError as error:
                    raise ValueError(f"{self.kind} {name!r}: {error}") from None


def _held(value: Any) -> Any:
    """The value; a whole number that no file or tensor holds as a float."""
    return float(value) if isinstance(value, int) and abs(value) > arguments.MOST else value


def split_call(text: str, kind: str = "name") -> tuple[str, list[Any], dict[str, Any]]:
    """Split `"dirichlet(0.3)"` into ("dirichlet", [0.3], {}); values are Python literals, nothing is evaluated."""
    if len(text) > LONGEST:
        raise ValueError(f"cannot read {kind} {arguments.shown(text)}: give at most {LONGEST:,} characters")
    how = "write it as name or name(argument=value)"
    if not isinstance(arguments.number(text), str):
        how = f"it is the text {text!r}, give the number"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise SyntaxError
        names = [keyword.arg for keyword in tree.keywords]
        if None in names or any(isinstance(each, ast.Starred) for each in tree.args):
            how = "write each argument as name=value, without * and **"
            raise SyntaxError
        if len(set(names)) < len(names):
            raise SyntaxError
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
        return tree.func.id, [ast.literal_eval(a) for a in tree.args], named
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"cannot read {kind} {arguments.shown(text)}: {how}") from None
