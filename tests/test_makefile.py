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
import yaml

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


# -- the environment -----------------------------------------------------------------------------------------------

INDEX = "https://download.pytorch.org/whl/"
PIP = """#!{python}
import json, os, shutil, sys
given = sys.argv[1:]
open("calls", "a").write(json.dumps(given) + chr(10))
if "venv" in given:
    os.makedirs(".venv/bin", exist_ok=True)
    shutil.copy(sys.argv[0], ".venv/bin/python")
elif "pip" in given:
    print("Collecting numpy>=1.26 (from fedlab)", "Installing collected packages: numpy, six", sep=chr(10))
sys.exit(1 if "--index-url" in given and os.environ.get("UNREACHABLE") else 0)
"""


def tool(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def environment(checkout, monkeypatch, *arguments, gpu=False, reachable=True):
    """`make env` with a Python and a driver that only write down how they are called: (its lines, calls of pip)."""
    shutil.rmtree(checkout / ".venv")
    python = tool(checkout / "bin" / "python", PIP.format(python=sys.executable))
    tool(checkout / "bin" / "nvidia-smi", f"#!/bin/sh\nexit {0 if gpu else 9}\n")
    tool(checkout / "bin" / "uname", "#!/bin/sh\necho Linux\n")
    monkeypatch.setenv("PATH", f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if not reachable:
        monkeypatch.setenv("UNREACHABLE", "1")
    done = make("env", f"PYTHON='{python}'", *arguments, cwd=checkout)
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in (checkout / "calls").read_text(encoding="utf-8").splitlines()]
    return done.stdout.splitlines(), [call for call in calls if "pip" in call]


@needs_make
@pytest.mark.parametrize(
    ("gpu", "arguments", "index"),
    [(False, (), "cpu"), (True, (), None), (False, ("TORCH=cuda",), None), (True, ("TORCH=cpu",), "cpu"),
     (True, ("TORCH=cu126",), "cu126")],
)  # fmt: skip
def test_without_a_gpu_pytorch_is_the_cpu_build_unless_another_is_named(gpu, arguments, index, checkout, monkeypatch):
    lines, calls = environment(checkout, monkeypatch, *arguments, gpu=gpu)
    indices = [call[call.index("--index-url") + 1] for call in calls if "--index-url" in call]
    assert indices == ([] if index is None else [INDEX + index])
    assert ".[notebooks,dev,docs]" in calls[-1] and all("requirements.lock" in call for call in calls)
    assert ("PyTorch for CPU" in lines[1]) is (index == "cpu") and "GB of disk" in lines[1]


@needs_make
def test_an_index_that_cannot_be_reached_is_one_sentence_and_pip_goes_to_its_own(checkout, monkeypatch):
    lines, calls = environment(checkout, monkeypatch, "EXTRAS=notebooks", reachable=False)
    assert len(calls) == 2 and "--index-url" not in calls[1] and ".[notebooks]" in calls[1]
    assert sum("pip's usual index is used" in line for line in lines) == 1
    assert (checkout / ".venv" / "ready").exists()


@needs_make
def test_the_environment_is_announced_before_anything_is_run_and_packages_are_counted(checkout, monkeypatch):
    lines, _ = environment(checkout, monkeypatch)
    assert lines[0].startswith("fedlab's environment") and "minutes" in lines[0]
    assert "    1 numpy" in lines and any("installing 2 packages" in line for line in lines)


@needs_make
def test_the_lab_opens_copies_that_keep_what_a_reader_changed(checkout):
    tool(checkout / ".venv" / "bin" / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (checkout / "fedlab" / "notebook").mkdir(parents=True)
    shutil.copy(ROOT / "fedlab" / "notebook" / "copies.py", checkout / "fedlab" / "notebook")
    original, mine = checkout / "notebooks" / "00-start-here.ipynb", checkout / "my out" / "lab" / "00-start-here.ipynb"
    assert make("lab", "OUT=my out", cwd=checkout).returncode == 0
    assert json.loads((checkout / "calls").read_text(encoding="utf-8")) == ["lab", "my out/lab"]
    original.write_text("a newer one", encoding="utf-8")
    make("lab", "OUT=my out", cwd=checkout)
    assert mine.read_text(encoding="utf-8") == "a newer one"  # nobody changed the copy, so it follows
    mine.write_text("my results", encoding="utf-8")
    original.write_text("the newest", encoding="utf-8")
    done = make("lab", "OUT=my out", cwd=checkout)
    assert mine.read_text(encoding="utf-8") == "my results" and "1 that you changed or ran are kept" in done.stdout
    make("lab", "OUT=my out", "FRESH=1", cwd=checkout)
    assert mine.read_text(encoding="utf-8") == "the newest" and original.read_text(encoding="utf-8") == "the newest"
    (kept,) = mine.parent.glob("earlier/*/00-start-here.ipynb")
    assert kept.read_text(encoding="utf-8") == "my results"


def test_both_environments_of_conda_use_the_locked_versions_and_one_has_no_development_tools():
    found = {}
    for name in ("environment.yml", "environment-notebooks.yml"):
        *plain, packages = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["dependencies"]
        found[name] = plain
        assert packages["pip"][0] == "--constraint requirements.lock" and packages["pip"][1].startswith(
            "-e .[notebooks"
        )
        assert ("dev" in packages["pip"][1]) is (name == "environment.yml")
    assert found["environment.yml"] == found["environment-notebooks.yml"]


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
