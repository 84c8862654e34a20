"""Fingerprints of own code: what a function uses changes them, and nothing else does."""

import functools
import importlib
import itertools
import linecache
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.core.own_code import fingerprint
from fedlab.core.registry import Registry

CELLS = itertools.count()


def cell(source: str, names: dict) -> None:
    """Run a cell of a notebook, whose names are those of all cells before."""
    name = f"/tmp/ipykernel_1/{next(CELLS)}.py"
    source = textwrap.dedent(source)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), names)


def notebook(*cells: str, **names) -> dict:
    """The names that a notebook of these cells has defined."""
    known = {"__name__": "__main__", **names}
    for source in cells:
        cell(source, known)
    return known


def of(*cells: str, **names) -> str:
    """The fingerprint of `mine` in a notebook of these cells."""
    return fingerprint(notebook(*cells, **names)["mine"])[0]


MINE = "def mine(x):\n    return {}"
EDITS = {  # cells whose {} is 1 or 2
    "body": [MINE],
    "function": ["def helper(): return {}", MINE.format("helper()")],
    "function of a function": ["def deep(): return {}", "def helper(): return deep()", MINE.format("helper()")],
    "functions that call each other": [
        "def odd(n): return even(n - 1)\ndef even(n): return odd(n - {})",
        MINE.format("odd(x)"),
    ],
    "class": ["class Net:\n    def __init__(self): self.width = {}", MINE.format("Net()")],
    "method": ["class Net:\n    def go(self): return {}", MINE.format("Net().go()")],
    "static method": ["class Net:\n    @staticmethod\n    def go(): return {}", MINE.format("Net.go()")],
    "property": ["class Net:\n    @property\n    def go(self): return {}", MINE.format("Net().go")],
    "class attribute": ["class Net:\n    width = {}", MINE.format("Net()")],
    "base class": ["class Base:\n    width = {}", "class Net(Base): pass", MINE.format("Net()")],
    "metaclass": [
        "class Meta(type):\n    def go(cls): return {}", "class Net(metaclass=Meta): pass", MINE.format("Net"),
    ],
    "data class": ["import dataclasses\n@dataclasses.dataclass\nclass Net:\n    width: int = {}", MINE.format("Net()")],
    "constant": ["WIDTH = {}", MINE.format("WIDTH")],
    "constant in a nested function": ["WIDTH = {}", "def mine(x):\n    def inner(): return WIDTH\n    return inner()"],
    "constant in a list": ["WIDTHS = [0, {{'a': ({},)}}]", MINE.format("WIDTHS")],
    "set": ["NAMES = {{'a', 'b', '{}'}}", MINE.format("NAMES")],
    "default": ["WIDTH = {}", "def mine(x, width=WIDTH):\n    return width"],
    "keyword default": ["WIDTH = {}", "def mine(x, *, width=WIDTH):\n    return width"],
    "closure": ["def make(width):\n    def mine(x): return width\n    return mine", "mine = make({})"],
    "function in a closure": ["def make(f):\n    def mine(x): return f()\n    return mine", "mine = make(lambda: {})"],
    "decorator": [
        "def outer(f):\n    def wrapped(*a): return f(*a), {}\n    return wrapped",
        "@outer\ndef mine(x): return x",
    ],
    "decorator that keeps the name": [
        "import functools\ndef outer(f):\n    @functools.wraps(f)\n    def w(*a): return f(*a), {}\n    return w",
        "@outer\ndef mine(x): return x",
    ],
    "decorator of a package": ["import torch", "@torch.no_grad()\ndef mine(x): return {}"],
    "what a decorator of a package calls": [
        "import torch\ndef h(): return {}", "@torch.no_grad()\ndef mine(x): return h()",
    ],
    "cached function": ["import functools\n@functools.cache\ndef h(): return {}", MINE.format("h()")],
    "partial": ["import functools\ndef h(a): return a", "part = functools.partial(h, {})", MINE.format("part()")],
    "lambda": ["f = lambda: {}", MINE.format("f()")],
    "which lambda of a line": ["f, g = lambda: 1, lambda: 2\nh = [f, g][{} - 1]", MINE.format("h()")],
    "object": ["class Rule:\n    pass\nrule = Rule()\nrule.setting = {}", MINE.format("rule")],
    "bound method": ["class Rule:\n    def __init__(self, n): self.n = n\n    def go(self): pass", "go = Rule({}).go",
                     MINE.format("go()")],
    "array": ["import numpy as np\nW = np.full(3, {})", MINE.format("W")],
    "array of text": ["import numpy as np\nW = np.array(['{}', None], object)", MINE.format("W")],
    "tensor": ["import torch\nW = torch.full((2,), {}.0, dtype=torch.bfloat16)", MINE.format("W")],
    "table": ["import pandas as pd\nW = pd.DataFrame({{'a': [0, {}], 'b': ['x', None]}})", MINE.format("W")],
    "generator of random numbers": ["import numpy as np\nrng = np.random.default_rng({})", MINE.format("rng.random()")],
    "dictionary of functions": ["def a(): return {}\nPARTS = {{'a': a}}", MINE.format("PARTS['a']()")],
    "enumeration": ["import enum\nclass Kind(enum.Enum):\n    A = {}", MINE.format("Kind.A")],
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_of_what_a_function_uses_changes_its_fingerprint(what):
    before, again, after = (of(*(source.format(value) for source in EDITS[what])) for value in (1, 1, 2))
    assert before == again != after


def test_a_network_with_weights_counts_by_its_weights():
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(of(MINE.format("net(x)"), net=torch.nn.Linear(2, 2)))
    assert found[0] == found[1] != found[2]


def test_unused_names_comments_and_order_change_nothing():
    first = of("def a(): return 1", "def b(): return 2", "shape = 3", "def mine(x): return a(), b(), x.shape")
    other = of("# another\ndef b(): return 2", "shape = 4\nunused = 5", "\n\n\ndef a(): return 1  ", "import os",
               "def unrelated(): return 7", "def mine(x): return a(), b(), x.shape")  # fmt: skip
    assert first == other


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(6)), st.integers(0, 5), st.randoms(use_true_random=False))
def test_any_order_of_cells_gives_one_fingerprint_and_any_edit_another(order, edited, random):
    """Each of six functions calls a random one that is defined anywhere; `mine` reaches some of them."""
    calls = [random.randrange(6) for _ in range(6)]
    cells = [f"def f{k}(n=0): return f{calls[k]}, {{{k}: [n]}}" for k in range(6)]
    last = "def mine(x): return f0()"
    reached, at = set(), 0
    while at not in reached:
        reached.add(at)
        at = calls[at]
    first = of(*cells, last)
    assert of(last, *(cells[k] for k in order)) == first
    cells[edited] = cells[edited].replace("n=0", "n=1")
    assert (of(*cells, last) != first) == (edited in reached)


USING = ["import helpers", "NAMES = {'a', 'b', 'c'}", "class Net:\n    width = 3",
         "def mine(x): return helpers.scale(x), NAMES, Net, {1, 2}"]  # fmt: skip
LATER = """
import sys
sys.path[:0] = [{folder!r}, {tests!r}]
from test_own_code import USING, of
print(of(*USING))
"""


def test_other_processes_give_the_same_fingerprint(tmp_path, monkeypatch):
    """In another order of sets, and in cells of other numbers."""
    (tmp_path / "helpers.py").write_text("def scale(x):\n    return 2 * x\n", encoding="utf-8")
    code = LATER.format(folder=str(tmp_path), tests=__file__.rpartition("/")[0])
    command, other = [sys.executable, "-c", code], {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=other, check=True, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    next(CELLS)
    try:
        here = of(*USING)
    finally:
        sys.modules.pop("helpers", None)
    assert done.stdout == f"{here}\n" and "return 2 * x" in here and "0x" not in here


@pytest.fixture
def helpers(tmp_path, monkeypatch):
    """A function that rewrites the module `helpers` of the user's own and imports it again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"helpers_{next(CELLS)}"

    def write(text: str, reload: bool = True):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        if reload:
            sys.modules.pop(name, None)
        return importlib.import_module(name)

    yield write
    sys.modules.pop(name, None)


USES = {
    "module": "import {m} as h\ndef mine(x): return h.scale(x)",
    "function": "from {m} import scale\ndef mine(x): return scale(x)",
    "import in the function": "def mine(x):\n    import {m} as h\n    return h.scale(x)",
    "from import in the function": "def mine(x):\n    from {m} import scale\n    return scale(x)",
}


@pytest.mark.parametrize("use", USES)
def test_modules_of_ones_own_are_followed(use, helpers):
    found = []
    for by, unused in ((2, 0), (2, 1), (3, 1)):
        module = helpers(f"UNUSED = {unused}\ndef other(x): return {unused}\n\ndef scale(x):\n    return {by} * x\n")
        found.append(of(USES[use].format(m=module.__name__)))
    assert found[0] == found[1] != found[2]


def test_a_module_edited_but_not_loaded_again_is_what_runs(helpers):
    module = helpers("def scale(x):\n    return 2 * x\n")
    before = of(MINE.format("scale(x)"), scale=module.scale)
    same = helpers("# moved down\n\ndef scale(x):\n    return 3 * x\n", reload=False)
    assert same is module and module.scale(1) == 2
    stale = of(MINE.format("scale(x)"), scale=module.scale)
    loaded = of(MINE.format("scale(x)"), scale=helpers("def scale(x):\n    return 3 * x\n").scale)
    assert stale != loaded != before


@pytest.mark.parametrize(
    "source",
    [
        "def mine(x, file={file!r}): return open(file)",
        "FILE = {file!r}\ndef mine(x): return open(FILE)",
        "def mine(x): return open({file!r})",
        "from pathlib import Path\nFILE = Path({file!r})\ndef mine(x): return FILE.read_text()",
        "FILES = {{'weights': [{file!r}]}}\ndef mine(x): return open(FILES['weights'][0])",
    ],
)
def test_files_count_by_content(source, tmp_path):
    file, found = tmp_path / "w.pt", []
    for content in ("1", "1", "2"):
        file.write_text(content, encoding="utf-8")
        found.append(fingerprint(notebook(source.format(file=str(file)))["mine"]))
    assert found[0] == found[1] and found[1][0] != found[2][0]
    assert found[0][1] == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import os\ndef mine(x): return open(os.sep.join(x))", "what 'open' reads"),
        ("import torch\ndef mine(x): return torch.load(x)", "what 'load' reads"),
        ("import os\ndef mine(x): return os.environ['HOME']", "what 'environ' reads"),
        ("def mine(x): return eval(x)", "what 'eval' calls"),
        ("import threading\nlock = threading.Lock()\ndef mine(x): return lock", "an object of lock"),
        ("def mine(x):\n    import no_such_module_of_mine", "the module 'no_such_module_of_mine'"),
    ],
)
def test_what_cannot_be_followed_is_told_once_unless_there_is_a_version(source, told):
    rules, names = Registry("rule"), notebook(source)
    rules.add(names["mine"])
    with pytest.warns(UserWarning, match="rule 'mine' depends on .*which fedlab does not watch.*version='2'") as caught:
        first = rules.fingerprint("mine")
        assert rules.fingerprint("mine") == first
    assert len(caught) == 1 and told in str(caught[0].message)
    found = []
    for version in ("1", "2", 2):
        rules.add(names["mine"], version=version)
        found.append(rules.fingerprint("mine"))
    assert first != found[0] != found[1] == found[2]


@pytest.mark.filterwarnings("error")
def test_ordinary_code_is_followed_without_a_word():
    for what in EDITS:
        assert fingerprint(notebook(*(source.format(1) for source in EDITS[what]))["mine"])[1] == [], what


def test_decorators_take_a_version():
    rules = Registry("rule")

    @rules.add(version="3")
    def mine(x):
        """Mine."""
        return x

    assert rules["mine"] == "Mine." and mine(1) == 1 and rules.fingerprint("mine").endswith("version 3")
    rules.add(abs, "abs", version="1")
    assert rules.fingerprint("abs") == "abs\nversion 1"


def test_another_registered_function_that_is_named_in_the_code_is_followed():
    rules, found = Registry("rule"), []
    for value in (1, 1, 2):
        names = notebook(f"def base(x): return {value}", "def mine(x): return RULES.function('base')(x)", RULES=rules)
        rules.add(names["base"])
        rules.add(names["mine"])
        found.append(rules.fingerprint("mine"))
    assert found[0] == found[1] != found[2]


def test_objects_that_hold_themselves_have_a_fingerprint():
    ring: list = [1]
    ring.append(ring)
    assert of(MINE.format("ring"), ring=ring) == of(MINE.format("ring"), ring=ring)


def test_equal_values_count_as_equal_whether_or_not_they_are_one_object():
    one = (1000, "a" * 3)
    assert of(MINE.format("W"), W=[one, one]) == of(MINE.format("W"), W=[one, (int("1000"), "".join("aaa"))])


def test_packages_count_by_name_only():
    text = of(MINE.format("(torch.relu(x), np.exp(x), functools.reduce)"), torch=torch, np=np, functools=functools)
    assert len(text) < 300
