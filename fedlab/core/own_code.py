"""Fingerprints of functions of the user's own: their code, all that they call, and the constants and files they read.

Functions and classes of the user's own are followed wherever a function names them: as globals, in closures, as
default values, in containers and objects, as attributes of modules of the user's own. Installed packages, Python and
fedlab count by name. A text that names a file stands for the content of the file. Comments count within a followed
function only; file names, line numbers, addresses and the order of definitions do not count.
"""

import contextlib
import dis
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from fedlab.core.files import checksum

PLAIN = (type(None), bool, int, float, complex, bytes, type(...))
NOT_CODE = (  # of a class
    "__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__",
    "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl",
    "__parameters__", "__orig_bases__", "__slotnames__",
)  # fmt: skip
READERS = {  # names of calls that read what no fingerprint sees, unless a file is named in the code
    "open", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "read_csv", "read_parquet", "read_excel",
    "read_json", "read_pickle", "read_table", "read_text", "read_bytes", "imread", "load_file", "safe_open",
    "from_pretrained", "load_state_dict_from_url", "urlopen", "getenv", "environ",
}  # fmt: skip
DYNAMIC = {"eval", "exec", "globals", "import_module", "__import__"}


def is_own(function: Any) -> bool:
    """Whether a registered function is the user's; a partial of a public function of fedlab is, too."""
    if isinstance(function, partial):
        return is_own(function.func) or not function.func.__name__.startswith("_")
    named = function if hasattr(function, "__name__") else type(function)
    return not str(named.__module__).startswith("fedlab.")


def fingerprint(function: Any) -> tuple[str, list[str]]:
    """Text that identifies a function and all that it uses, and what it uses that could not be followed.

    Raises TypeError for a function that is not written in Python.

    Examples
    --------
    >>> import re
    >>> from fedlab.core.own_code import fingerprint
    >>> def scaled(x, by=2):
    ...     return by * x
    >>> before, _ = fingerprint(scaled)
    >>> scaled.__defaults__ = (3,)
    >>> fingerprint(scaled)[0] == before
    False
    """
    reader = _Reader()
    reader.follow(function)
    return "\n".join(reader.parts), reader.unread


class _Reader:
    """Describes values as text. parts: of each function, class and object once, where it was first met."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.missed: dict[str, None] = {}
        self.files = 0
        self._readers: set[str] = set()
        self._met: dict[int, tuple[int, Any]] = {}  # id -> number, and the object, so that no other gets its id
        self._open: set[int] = set()

    @property
    def unread(self) -> list[str]:
        """What could not be followed, in words."""
        calls = [] if self.files else sorted(self._readers & READERS)
        hidden = [f"what {name!r} reads" for name in calls] + [
            f"what {name!r} calls" for name in sorted(self._readers & DYNAMIC)
        ]
        return [*self.missed, *hidden]

    def follow(self, function: Any) -> None:
        """Describe the registered function, wherever it comes from."""
        if isinstance(function, FunctionType) and (_of_user(function) or not self._wrapped(function)):
            self._function(function)
        elif inspect.isclass(function):
            self._class(function)
        elif isinstance(function, BuiltinFunctionType) or not callable(function):
            raise TypeError(f"{function!r} is not written in Python")
        else:
            self.parts.append(self._described(function))

    def _described(self, value: Any, names: Iterable[str] = ()) -> str:
        """A value as text. names: the attributes that are used of it, if it is a module."""
        if type(value) in PLAIN:
            return repr(value)
        if isinstance(value, str | PurePath):
            return repr(str(value)) + self.content(value)
        if isinstance(value, ModuleType):
            return self._module(value, names)
        if isinstance(value, FunctionType):
            return self._function(value) if _of_user(value) else self._name(value) + self._wrapped(value)
        if inspect.isclass(value):
            return self._class(value) if _of_user(value) else self._name(value)
        if inspect.isroutine(value) and not isinstance(value, MethodType) and not hasattr(value, "__wrapped__"):
            owner = getattr(value, "__self__", None)
            held = "" if owner is None or isinstance(owner, ModuleType | type) else f" of {self._described(owner)}"
            return self._name(value) + held
        if inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value):
            return self._name(value)
        if isinstance(value, np.ndarray | torch.Tensor):
            return self._array(value)
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._held(value)
        finally:
            self._open.discard(id(value))

    def _held(self, value: Any) -> str:
        """A container or an object as text, with all that it holds."""
        if type(value) in (list, tuple):
            return f"{type(value).__name__}({', '.join(map(self._described, value))})"
        if isinstance(value, set | frozenset):
            return f"set({', '.join(sorted(map(self._described, sorted(value, key=self._name))))})"
        if type(value) in (dict, MappingProxyType):
            return f"dict({', '.join(f'{self._described(k)}: {self._described(v)}' for k, v in value.items())})"
        if isinstance(value, MethodType):
            return f"{self._described(value.__func__)} of {self._described(value.__self__)}"
        if isinstance(value, staticmethod | classmethod):
            return f"{type(value).__name__} {self._described(value.__func__)}"
        if isinstance(getattr(value, "__wrapped__", None), FunctionType):
            return f"{self._name(type(value))} {self._described(value.__wrapped__)}"  # functools.lru_cache
        if isinstance(value, property):
            return f"property {self._described((value.fget, value.fset, value.fdel))}"
        if isinstance(value, cached_property):
            return f"property {self._described(value.func)}"
        return self._object(value)

    def _object(self, value: Any) -> str:
        """An object as its class and what pickle would store of it."""
        number = self._number(value)
        if number < len(self.parts):
            return f"#{number}"
        self.parts.append("")
        kind = self._described(type(value))
        try:
            stored = value.__reduce_ex__(4)
        except Exception:
            self.missed[f"an object of {type(value).__qualname__}"] = None
            stored = ""
        if not isinstance(stored, str):
            stored = [list(one) if isinstance(one, Iterator) else one for one in stored]
        self.parts[number] = f"{kind}: {self._described(stored)}"
        return f"#{number}"

    def _function(self, function: FunctionType) -> str:
        """A function of the user's own, with all that it names."""
        number = self._number(function)
        if number < len(self.parts):
            return f"#{number}"
        self.parts.append("")
        codes = list(_codes(function.__code__))
        steps = [step for code in codes for step in dis.get_instructions(code)]
        called = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        attributes = {step.argval for step in steps if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")}
        texts = [one for code in codes for one in code.co_consts if isinstance(one, str) and one != function.__doc__]
        self._readers |= {str(name) for name in called | attributes}
        lines = [_source(function)]
        if function.__defaults__ or function.__kwdefaults__:
            lines.append(f"defaults: {self._described((function.__defaults__, function.__kwdefaults__))}")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # an empty cell
                lines.append(f"{name}: {self._described(cell.cell_contents, attributes)}")
        for name in sorted(called & function.__globals__.keys()):
            lines.append(f"{name}: {self._global(function.__globals__[name], attributes, texts)}")
        lines += [f"import {module.__name__}: {self._module(module, attributes)}" for module in self._imports(function)]
        lines += [f"{text!r}{content}" for text in texts if (content := self.content(text))]
        self.parts[number] = "\n".join(lines)
        return f"#{number}"

    def _global(self, value: Any, attributes: set[str], texts: list[str]) -> str:
        """A value that a function finds in its module. texts: in its code, which may name registered functions."""
        if isinstance(value, Mapping) and type(value).__module__ == "fedlab.core.registry":
            registered: Any = value
            return self._described([registered.function(name) for name in texts if name in registered])
        return self._described(value, attributes)

    def _class(self, kind: type) -> str:
        """A class of the user's own: its bases, methods and attributes."""
        number = self._number(kind)
        if number < len(self.parts):
            return f"#{number}"
        self.parts.append("")
        members = {name: member for name, member in vars(kind).items() if name not in NOT_CODE}
        lines = [f"class {kind.__qualname__}: {self._described((type(kind), *kind.__bases__))}"]
        lines += [f"{name}: {self._described(members[name])}" for name in sorted(members)]
        self.parts[number] = "\n".join(lines)
        return f"#{number}"

    def _module(self, module: ModuleType, names: Iterable[str]) -> str:
        """A module, by name; of one of the user's own also what is used of it."""
        if not _of_user(module) or id(module) in self._open:
            return f"module {module.__name__}"
        self._open.add(id(module))
        try:
            held = vars(module)
            used = [f"{name}: {self._described(held[name], names)}" for name in sorted(set(names) & held.keys())]
        finally:
            self._open.discard(id(module))
        return f"module {module.__name__} ({', '.join(used)})"

    def _imports(self, function: FunctionType) -> list[ModuleType]:
        """The modules of the user's own that a function imports when it is called."""
        found: dict[str, ModuleType] = {}
        for code in _codes(function.__code__):
            steps = list(dis.get_instructions(code))
            for i, step in enumerate(steps):
                if step.opname == "IMPORT_NAME":
                    name = "." * int(steps[i - 2].argval or 0) + step.argval
                    try:
                        if not name.startswith(".") and _known_package(name.partition(".")[0]):
                            continue
                        module = importlib.import_module(name, function.__globals__.get("__package__"))
                    except Exception:
                        self.missed[f"the module {name!r}"] = None
                        continue
                    top = sys.modules.get(module.__name__.partition(".")[0], module)
                    found |= {one.__name__: one for one in (top, module) if _of_user(one)}
        return [found[name] for name in sorted(found)]

    def content(self, text: Any) -> str:
        """The checksum of the file that a text names, if it names one."""
        try:
            path = Path(text).expanduser()
            if path.is_file():
                self.files += 1
                return f" = {checksum(path)}"
            if path.is_dir() and (isinstance(text, PurePath) or len(path.parts) > 1):
                self.missed[f"the folder {str(text)!r}"] = None
        except (OSError, ValueError, RuntimeError):  # no path
            pass
        return ""

    def _array(self, value: Any) -> str:
        """An array or tensor, by content."""
        try:
            bits = value
            if isinstance(value, torch.Tensor):
                bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            if bits.dtype.hasobject:
                return f"array {self._described(bits.tolist())}"
            digest = hashlib.blake2b(np.ascontiguousarray(bits).reshape(-1).view(np.uint8).data, digest_size=16)
        except Exception:
            self.missed[f"an object of {type(value).__qualname__}"] = None
            return type(value).__qualname__
        return f"array {value.dtype} {tuple(value.shape)} {digest.hexdigest()}"

    def _wrapped(self, function: FunctionType) -> str:
        """What a function of a package holds of the user's own: a decorated function."""
        held = []
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                held.append(cell.cell_contents)
        own = [self._described(one) for one in held if isinstance(one, FunctionType | type) and _of_user(one)]
        return f" of {', '.join(own)}" if own else ""

    def _number(self, value: Any) -> int:
        """The number under which a value is described, that of the next part if it was not met before."""
        return self._met.setdefault(id(value), (len(self.parts), value))[0]

    @staticmethod
    def _name(value: Any) -> str:
        """What something is called, else its text: the same in every process for what has a name or is plain."""
        name = getattr(value, "__qualname__", None)
        if name is not None:
            return f"{getattr(value, '__module__', '')}.{name}"
        return repr(value) if type(value) in (*PLAIN, str, tuple) else type(value).__qualname__


def content(text: str) -> str:
    """The checksum of the file that a text names, empty if it names none."""
    return _Reader().content(text)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code object and those inside it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def _of_user(value: Any) -> bool:
    """Whether a function, class or module is the user's, neither fedlab's nor Python's nor an installed package's."""
    if isinstance(value, FunctionType) and _installed(value.__code__.co_filename):
        return False
    holder = value.__globals__.get("__name__") if isinstance(value, FunctionType) else getattr(value, "__module__", "")
    name = value.__name__ if isinstance(value, ModuleType) else str(holder)
    if name in ("__main__", "None"):
        return True
    if name.partition(".")[0] in ("fedlab", "builtins"):
        return False
    module = sys.modules.get(name)
    if module is None:
        return True
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return file is not None and not _installed(file)


def _known_package(name: str) -> bool:
    """Whether a top module is fedlab, Python's or an installed package, without an import."""
    if name in sys.modules:
        return not _of_user(sys.modules[name])
    spec = importlib.util.find_spec(name)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(_installed(place) for place in places if place)


@lru_cache(maxsize=4096)
def _installed(file: str) -> bool:
    """Whether a file belongs to fedlab, to Python or to an installed package."""
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts) or file.startswith("<frozen"):
        return True
    places = [str(Path(__file__).parents[1]), *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))]
    return any(path.is_relative_to(place) for place in places)


def _source(function: FunctionType) -> str:
    """The text of a function if it still is what was compiled, else its instructions; for a lambda both.

    Text has the same form in every version of Python. A module that was edited but not loaded again holds other text
    than what runs, and lambdas of one line share theirs.
    """
    code = function.__code__
    try:
        lines, first = inspect.findsource(code)
        if any(found == code for found in _compiled("".join(lines))):
            text = "".join(inspect.getblock(lines[first:])).rstrip()
            return text + _instructions(code) if code.co_name == "<lambda>" else text
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):  # typed at a prompt, or in `python -c`
        pass
    return _instructions(code)


@lru_cache(maxsize=64)
def _compiled(text: str) -> list[CodeType]:
    """All code objects of a text."""
    return list(_codes(compile(text, "", "exec", flags=0x2000, dont_inherit=True)))  # await at the top, as in notebooks


def _instructions(code: CodeType) -> str:
    """A code object as text, without file names, line numbers and addresses."""
    constants = [_constant(one) for one in code.co_consts]
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    table = getattr(code, "co_exceptiontable", b"").hex()
    return repr((code.co_name, arguments, code.co_code.hex(), constants, names, table))


def _constant(value: Any) -> str:
    """A constant of a code object as text."""
    if isinstance(value, CodeType):
        return _instructions(value)
    if isinstance(value, tuple | frozenset):
        found: Callable[[Iterable[str]], Iterable[str]] = sorted if isinstance(value, frozenset) else list
        return f"{type(value).__name__}({', '.join(found(map(_constant, value)))})"
    return repr(value)
