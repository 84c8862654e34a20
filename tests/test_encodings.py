"""Text is read, written and piped as UTF-8, whatever the locale of the machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fedlab", "data_prep", "benchmarks", "docs", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TEXT_FILES = {"read_text": 0, "write_text": 1}  # method of a path -> position of its argument `encoding`
PROCESSES = ("run", "Popen", "check_output", "call", "check_call")
NO_FILES = ("Image", "tarfile", "zipfile", "gzip", "os", "zipped", "self")  # whose `open` opens no text file


def without_encoding(source: str) -> list[int]:
    """The lines on which text goes to a file or comes from a process in the encoding of the locale."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _lacks(node)]


def _lacks(call: ast.Call) -> bool:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
    if "encoding" in named or None in named:
        return False
    if name in TEXT_FILES and isinstance(call.func, ast.Attribute):
        return len(call.args) <= TEXT_FILES[name]
    if name in PROCESSES and (owner == "subprocess" or not owner):
        return any(
            isinstance(named.get(key), ast.Constant) and named[key].value for key in ("text", "universal_newlines")
        )
    opens = name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile") and owner not in NO_FILES
    return opens and _is_text(call, named, name)


def _is_text(call: ast.Call, named: dict, name: str) -> bool:
    """Whether the mode of an opened file is one of text."""
    of_path = name == "open" and isinstance(call.func, ast.Attribute)
    place = 1 if name in ("open", "fdopen") and not of_path else 0
    mode = named.get("mode", call.args[place] if len(call.args) > place else None)
    if mode is None:
        return not name.endswith("TemporaryFile")
    return not any(isinstance(each, ast.Starred) or "b" in str(getattr(each, "value", "")) for each in ast.walk(mode))


def test_the_search_sees_text_without_an_encoding_and_nothing_else():
    found = without_encoding(
        "path.read_text()\npath.write_text(x)\nopen(p)\npath.open('a')\nsubprocess.run(c, text=True)\n"
        "path.read_text(encoding='utf-8')\npath.write_text(x, 'utf-8')\nopen(p, 'rb')\npath.open('ab')\n"
        "subprocess.run(c)\nTemporaryFile(dir=x)\nImage.open(f)\n(a / 'b').read_text()"
    )
    assert found == [1, 2, 3, 4, 5, 13]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_file_and_pipe_has_an_encoding(folder):
    found = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if path.is_relative_to(ROOT / folder) and (lines := without_encoding(path.read_text(encoding="utf-8")))
    }
    assert not found, "give encoding='utf-8'"
