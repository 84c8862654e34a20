"""Names that a user may write, what they mean, and the nearest one when a name is misspelt.

Methods, models, datasets and schemes are written as they are read: `"fedprox(mu=0.01)"` is parameter, legend, folder
name and sweep axis in one.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import CodeType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error message: the names that `word` may have meant, or all that exist."""
    known = sorted(words)
    close = difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"choose one of {', '.join(known)}"


def choose(knob: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is none of the choices."""
    if isinstance(value, bool) != isinstance(choices[0], bool) or value not in choices:
        raise ValueError(f"{knob}={value!r}: choose one of {', '.join(map(repr, choices))}")


class Registry(Mapping[str, str]):
    """Name -> one-line meaning; `parse` turns what a user wrote into a function and its arguments."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._functions: dict[str, Callable[..., Any]] = {}
        self._meanings: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._meanings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._meanings)

    def __len__(self) -> int:
        return len(self._meanings)

    def __repr__(self) -> str:
        width = max((len(name) for name in self), default=0)
        return "\n".join(f"{name:{width}}  {meaning}" for name, meaning in self.items())

    def add(self, function: F, name: str = "", meaning: str = "") -> F:
        """Register a function under its name, explained by the first line of its docstring."""
        key = name or function.__name__
        self._functions[key] = function
        self._meanings[key] = meaning or (inspect.getdoc(function) or "").split("\n")[0]
        return function

    def remove(self, name: str) -> None:
        """Forget a name, such as that of a method in a cell that is run again."""
        self._functions.pop(name), self._meanings.pop(name)

    def explain(self, text: str) -> str:
        """What a user wants to know of a name, or of a call such as "fedprox(mu=0.01)": its whole docstring."""
        name = split_call(text, self.kind)[0]
        return f"{name}: {inspect.getdoc(self.function(name)) or self[name]}"

    def fingerprint(self, name: str) -> str:
        """What tells one version of a user's own function from the next, such as one in a notebook cell; else empty."""
        return _version(self.function(name))

    def function(self, name: str) -> Callable[..., Any]:
        """The function behind a bare name; ValueError with the nearest names if there is none."""
        if name not in self._functions:
            raise ValueError(f"unknown {self.kind} {name!r}: {nearest(name, self)}")
        return self._functions[name]

    def parse(self, text: str, given: int = 0) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        """`"fedprox(mu=0.01)"` -> (fedprox, [], {"mu": 0.01}); the first `given` parameters are no knobs."""
        name, args, knobs = split_call(text, self.kind)
        function = self.function(name)
        self._check_knobs(name, function, args, knobs, given)
        return function, args, knobs

    def _check_knobs(
        self, name: str, function: Callable[..., Any], args: list[Any], knobs: dict[str, Any], given: int
    ) -> None:
        parameters = list(inspect.signature(function).parameters.values())[given:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return
        known = [p.name for p in parameters]
        for knob in knobs:
            if knob not in known:
                hint = nearest(knob, known) if known else "it has none"
                raise ValueError(f"{self.kind} {name!r} has no knob {knob!r}: {hint}")
        if len(args) > len(known):
            raise ValueError(f"{self.kind} {name!r} takes at most {len(known)} values, found {len(args)}: {args}")
        if twice := [knob for knob in knobs if knob in known[: len(args)]]:
            raise ValueError(f"{self.kind} {name!r} is given {twice[0]!r} twice: name it or count on its place")


def split_call(text: str, kind: str = "name") -> tuple[str, list[Any], dict[str, Any]]:
    """`"dirichlet(0.3)"` -> ("dirichlet", [0.3], {}); values are Python literals, nothing is evaluated."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise SyntaxError
        if len({k.arg for k in tree.keywords}) < len(tree.keywords):
            raise SyntaxError
        knobs = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords if k.arg}
        return tree.func.id, [ast.literal_eval(a) for a in tree.args], knobs
    except (SyntaxError, ValueError):
        raise ValueError(f"cannot read {kind} {text!r}: write it as name or name(knob=value)") from None


def _version(function: Any) -> str:
    """The text of a function, of a class, of a callable object and what it holds, or of a partial; empty if fedlab's.

    A private function of fedlab is held by none but fedlab's own partials.
    """
    if isinstance(function, partial):
        inner = _version(function.func)
        own = inner or not function.func.__name__.startswith("_")
        return inner + repr((function.func.__name__, function.args, function.keywords)) if own else ""
    if not hasattr(function, "__name__"):
        inner = _version(type(function))
        return inner and inner + repr(vars(function))
    if str(function.__module__).startswith("fedlab."):
        return ""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        methods = vars(function).values() if inspect.isclass(function) else [function]
        found = [each for each in methods if inspect.isfunction(each)]
        return "".join(_compiled(each.__code__) + repr((each.__defaults__, each.__kwdefaults__)) for each in found)


def _compiled(code: CodeType) -> str:
    """Code of which there is no source, with the functions inside it; the same in every process."""
    values = [_compiled(value) if isinstance(value, CodeType) else value for value in code.co_consts]
    return repr((code.co_code, values, code.co_names))
