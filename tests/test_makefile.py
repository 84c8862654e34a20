"""The Makefile passes every name on in one piece; `make test-lowest` installs the bounds of pyproject.toml."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import lowest
import pytest

ROOT = Path(__file__).parents[1]
NAMES = ["my out", "it's", 'a "b" c', "semi;colon & more", "käse (1)", "*", "#1"]
needs_make = pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs GNU make and bash")


def make(*arguments, cwd=ROOT):
    given = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, capture_output=True, text=True, env=given, timeout=60, encoding="utf-8"
    )


@pytest.fixture
def checkout(tmp_path):
    """The Makefile with notebooks and tools that write down how they are called."""
    folder = tmp_path / "a checkout"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "00-start-here.ipynb").write_text("{}", encoding="utf-8")
    shutil.copy(ROOT / "Makefile", folder)
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("papermill", "jupyter"):
        code = f"#!{sys.executable}\nimport json, sys\nopen('calls', 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        (tools / tool).write_text(code, encoding="utf-8")
        (tools / tool).chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock"):
        (folder / name).touch()
    (folder / ".venv" / "ready").touch()
    return folder


@needs_make
@pytest.mark.parametrize("name", NAMES)
def test_an_output_folder_may_have_any_name(name, checkout):
    if not name.isascii() and sys.getfilesystemencoding() == "ascii":
        pytest.skip("no process can be given such an argument in this locale")
    done = make("demo", f"OUT={name}", cwd=checkout)
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in (checkout / "calls").read_text(encoding="utf-8").splitlines()]
    assert calls[0][:1] == ["--log-level"] and f"{name}/demo/00-start-here.ipynb" in calls[0]
    place = calls[0].index("-r")
    assert calls[0][place : place + 3] == ["-r", "out", f"{name}/demo"]
    assert calls[1][-1] == f"{name}/demo/00-start-here.ipynb"
    assert (checkout / name / "demo").is_dir()
    assert f"open {name}/demo/00-start-here.html" in done.stdout
    expected = {"a checkout", ".venv", "Makefile", "calls", "notebooks", "pyproject.toml", "requirements.lock", name}
    assert {path.name for path in checkout.iterdir()} <= expected


@needs_make
def test_cleaning_removes_the_output_folder_and_no_other(checkout):
    for name in ("my out", "my", "out"):
        (checkout / name).mkdir()
    assert make("clean", "OUT=my out", cwd=checkout).returncode == 0
    assert sorted(path.name for path in checkout.iterdir() if path.is_dir()) == ["my", "notebooks", "out"]


@needs_make
def test_help_lists_every_target_that_is_explained():
    shown = make("help").stdout
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split(":")[0] for line in text.splitlines() if "  ## " in line and not line.startswith("\t")]
    assert len(targets) > 15 and all(f"make {target} " in shown for target in targets)


def test_every_dependency_has_a_lowest_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {name for name, _ in lowest.lowest(project["dependencies"])} == {
        requirement.split(">=")[0].lower() for requirement in project["dependencies"]
    }
    assert list(lowest.lowest(["Torch[x] >= 2.6,<3; python_version > '3'", "tqdm"])) == [("torch", "2.6")]
    assert set(lowest.constraints(["torch"])) - set(lowest.constraints()) == {
        line
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if line.startswith("torch==")
    }
