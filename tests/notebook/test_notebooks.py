"""Every notebook runs from start to end, refuses misspelt parameters, and keeps the form that readers rely on."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from widget_state import errors

import fedlab

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRESETS = sorted((ROOT / "notebooks" / "presets").glob("*.yaml"))
NAMES = [path.stem for path in NOTEBOOKS]
READS = "51-global-versus-local"  # trains nothing: it reads the runs of the notebooks before it
HANDFUL = 9  # parameters that a notebook may show
# Fewer cases and rounds than by default (`make notebooks` runs all as they are).
FEWER = ("-p", "dataset", "phantoms(cases=700)")
QUICK = ("-f", str(ROOT / "notebooks" / "presets" / "quick.yaml"), *FEWER)
UNTRAINED = ("10",)  # trains nothing, so it has no rounds
ABOUT = {"11": {"acquisition": 0.0, "annotation": 0.0}, "32": {"acquisition": 0.0}}  # what these vary from the series


def papermill(notebook: Path, target: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--kernel", "python3"]
    return subprocess.run(
        [*command, str(notebook), str(target), *options],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def parameters_cell(path: Path) -> str:
    cells = nbformat.read(path, 4).cells
    (found,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return found.source


def given(path: Path) -> dict:
    """Keyword arguments that a notebook passes to `fedlab.parameters`."""
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    calls = [node for node in ast.walk(ast.parse(code[1].source)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "fedlab.parameters"]
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def experiment(path: Path) -> fedlab.Experiment:
    """The experiment that a notebook runs by default."""
    values: dict = {}
    exec(parameters_cell(path), values)
    return fedlab.Experiment(**fedlab.parameters({**values, "In": [parameters_cell(path)]}, **given(path)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """One output folder for all notebooks: what one trained, the next finds."""
    return tmp_path_factory.mktemp("out")


@pytest.mark.notebook
@pytest.mark.xdist_group("notebooks")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_runs(path, shared):
    before = trained(shared)
    done = papermill(
        path, shared / path.name, "-p", "out", str(shared), *(FEWER if path.stem[:2] in UNTRAINED else QUICK)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert path.stem != READS or before == trained(shared) != set()
    executed = nbformat.read(shared / path.name, 4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert errors(executed) == []  # an exception in a control's callback leaves papermill content
    assert any("image/png" in output.get("data", {}) for output in outputs)
    pictures = list(shared.glob(f"{path.stem[:2]}-*.png"))
    assert pictures
    for picture in pictures:
        assert picture.with_suffix(".svg").stat().st_size > 1000 and picture.stat().st_size > 5000


def trained(folder: Path) -> set[str]:
    """The names of the run folders there."""
    return {run.name for run in (folder / "runs").glob("*")}


@pytest.mark.notebook
def test_a_misspelt_parameter_fails_the_run_and_names_the_nearest(tmp_path):
    done = papermill(NOTEBOOKS[1], tmp_path / "x.ipynb", "-p", "prevalance", "0.9", "-p", "out", str(tmp_path))
    assert done.returncode != 0
    assert "unknown parameter 'prevalance': did you mean 'prevalence'" in done.stderr


@pytest.mark.notebook
def test_every_field_of_an_experiment_can_be_set_by_name(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[0], 4)
    notebook.cells = [*notebook.cells[:4], nbformat.v4.new_code_cell("print(base.momentum, base.rounds, base.sites)")]
    nbformat.write(notebook, tmp_path / "short.ipynb")
    done = papermill(tmp_path / "short.ipynb", tmp_path / "x.ipynb", "-p", "momentum", "0.5", "-p", "rounds", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert nbformat.read(tmp_path / "x.ipynb", 4).cells[-1].outputs[0].text == "0.5 2 4\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_keeps_its_form(path):
    notebook = nbformat.read(path, 4)
    first, code = notebook.cells[0].source, [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert re.match(r"# .+\n\n\*\*.+\*\*", first), "a title, then the one message in bold"
    assert not any(cell.outputs or cell.execution_count for cell in code), "outputs are not committed"
    assert "fedlab.parameters(" in code[1].source, "the cell after the parameters refuses misspelt ones"
    source = "\n".join(cell.source for cell in code)
    assert not re.search(r"^\s*[!%]|sys\.path", source, re.M)
    for function in [
        node for cell in code for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.FunctionDef)
    ]:
        a_method = any(getattr(each, "id", "") == "algorithm" for each in function.decorator_list)
        assert function.end_lineno - function.lineno < (20 if a_method else 5), function.name
    assert "## What we saw" in notebook.cells[-1].source and ".ipynb)" in notebook.cells[-1].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_handful_of_parameters_is_shown_typed_and_explained(path):
    lines = parameters_cell(path).splitlines()
    assert len(lines) <= HANDFUL
    for line in lines:
        assert re.fullmatch(r"\w+: \w+ = [^=]+  # [^=]+", line), f"papermill cannot read {line}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_links_lead_to_notebooks(path):
    text = path.read_text(encoding="utf-8")
    linked = re.findall(r"\(([\w-]+\.ipynb)\)", text)
    assert linked and all((path.parent / name).is_file() for name in linked)


@pytest.mark.parametrize("preset", PRESETS, ids=[path.stem for path in PRESETS])
def test_presets_are_fields_of_an_experiment(preset):
    chosen = yaml.safe_load(preset.read_text(encoding="utf-8"))
    assert chosen and fedlab.Experiment(**chosen) and "method" not in chosen


def test_defaults_of_notebooks_agree():
    """One experiment runs through the series, so that a run of one notebook is found by the next."""
    defaults: dict = {}
    for path in NOTEBOOKS:
        for name, value in re.findall(r"^(\w+): \w+ = (.+?)  #", parameters_cell(path), re.M):
            if name not in ABOUT.get(path.stem[:2], ()):
                assert defaults.setdefault(name, value) == value, f"{path.stem}: {name}"


def test_notebooks_without_a_parameter_in_their_cell_use_that_of_the_others():
    series = [path for path in NOTEBOOKS if path.stem[:2] not in ("10", "60")]  # these have other sites
    first = experiment(series[0])
    for path in series:
        own = ABOUT.get(path.stem[:2], {})
        assert experiment(path).with_(**own) == first.with_(**own), path.stem


def test_notebooks_are_json_with_stable_ids():
    for path in NOTEBOOKS:
        ids = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]+", name) for name in ids)
