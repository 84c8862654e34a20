"""Every notebook runs from start to end, refuses misspelt parameters, and keeps the form that readers rely on."""

import ast
import json
import re
import shutil
from functools import partial
from pathlib import Path

import nbformat
import papermill.cli
import pytest
import yaml
from click.testing import CliRunner, Result
from widget_state import errors
from worlds import CNN

import fedlab

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRESETS = sorted((ROOT / "notebooks" / "presets").glob("*.yaml"))
NAMES = [path.stem for path in NOTEBOOKS]
READS = "51-global-versus-local"  # trains nothing: it reads the runs of the notebooks before it
READ = ("local", "centralized", "fedavg", "swarm")  # methods of those that it reads here
HANDFUL = 9  # parameters that a notebook may show
# Fewer cases and rounds and a smaller model than by default (`make notebooks` runs all as they are).
FEWER = ("-p", "dataset", "phantoms(cases=240, size=16)")
PRESET = ("-f", str(ROOT / "notebooks" / "presets" / "quick.yaml"))
QUICK = (*PRESET, *FEWER, "-p", "model", CNN, "-p", "rounds", "2")
UNTRAINED = ("10",)  # trains nothing, so it has no rounds and no model
STUDY = "50"  # its parameters are lists of doses
SEGMENTS = "61"  # its images have masks, and its runs a folder of their own
MASKS = ("-p", "dataset", "phantoms(60, 16, 2, 0, 'segmentation')", "-p", "model", "unet(width=2, residual_units=0)")
OPTIONS = {  # fewer doses, seeds and methods
    "10": ("-p", "seeds", "1"),
    "31": ("-y", "{variants: [fedavg, scaffold]}"),
    SEGMENTS: MASKS,
    STUDY: ("-y", "{prevalence: [0.0, 1.0], acquisition: [0.0, 1.0], annotation: 0.0, seed: [0, 1]}"),
}
ABOUT = {  # what these vary from the series
    "11": {"acquisition": 0.0, "annotation": 0.0},
    "32": {"acquisition": 0.0},
    "60": {"dataset": "blood_cells"},
}


def execute(kernel: str, notebook: Path, target: Path, *options: str) -> Result:
    """`papermill` with these options, in this process: to start one takes as long as many a notebook."""
    command = ["--no-progress-bar", "--start-timeout", "300", "--kernel", kernel, str(notebook), str(target), *options]
    return CliRunner(env={"OMP_NUM_THREADS": "1"}).invoke(papermill.cli.papermill, command)


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
def test_notebook_runs(path, shared, kernel):
    if path.stem[:2] == SEGMENTS:
        shared = shared / SEGMENTS
        shared.mkdir()
    if path.stem == READS:
        shared = with_some_runs(shared, shared / READS)
    before = trained(shared)
    options = (*(FEWER if path.stem[:2] in UNTRAINED else QUICK), *OPTIONS.get(path.stem[:2], ()))
    done = execute(kernel, path, shared / path.name, "-p", "out", str(shared), *options)
    assert done.exit_code == 0, str(done.exception)[-3000:]
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


def with_some_runs(folder: Path, to: Path) -> Path:
    """A folder with the runs of a few methods, since each takes a second of a report."""
    for path in (folder / "runs").glob("*/experiment.json"):
        if json.loads(path.read_text(encoding="utf-8"))["experiment"]["method"] in READ:
            shutil.copytree(path.parent, to / "runs" / path.parent.name)
    return to


def trained(folder: Path) -> set[str]:
    """The names of the run folders there; each trained the model that was set by its name."""
    stored = list((folder / "runs").glob("*/experiment.json"))
    assert {json.loads(path.read_text(encoding="utf-8"))["experiment"]["model"] for path in stored} <= {CNN}
    return {path.parent.name for path in stored}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_misspelt_parameter_stops_a_notebook_before_any_work_and_names_the_nearest(path, monkeypatch):
    first, second = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"][:2]
    values: dict = {}
    exec(first, values)
    typed = {**values, "In": [first, "# Parameters\nprevalance = 0.9"]}  # as papermill passes them
    monkeypatch.setattr(fedlab, "parameters", partial(fedlab.parameters, typed))
    with pytest.raises(ValueError, match="unknown parameter 'prevalance': did you mean 'prevalence'"):
        exec(second, values)


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
    assert any(cell.source.startswith("## What we saw") for cell in notebook.cells[-3:])
    assert ".ipynb)" in notebook.cells[-1].source
    assert path.stem == READS or "fedlab.conclusions(" in code[-1].source, "its end is computed from its runs"


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
    for path in [path for path in NOTEBOOKS if path.stem[:2] not in (STUDY, SEGMENTS)]:
        for name, value in re.findall(r"^(\w+): \w+ = (.+?)  #", parameters_cell(path), re.M):
            if name not in ABOUT.get(path.stem[:2], ()):
                assert defaults.setdefault(name, value) == value, f"{path.stem}: {name}"


def test_notebooks_without_a_parameter_in_their_cell_use_that_of_the_others():
    others = ("10", "60", STUDY, SEGMENTS)  # these have other sites
    series = [path for path in NOTEBOOKS if path.stem[:2] not in others]
    first = experiment(series[0])
    for path in series:
        own = ABOUT.get(path.stem[:2], {})
        assert experiment(path).with_(**own) == first.with_(**own), path.stem


def test_notebooks_are_json_with_stable_ids():
    for path in NOTEBOOKS:
        ids = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]+", name) for name in ids)
