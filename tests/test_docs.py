"""What the pages say works."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from worlds import federation, last, same

import fedlab
from fedlab.algorithms import METHODS

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text(page), re.S)


def test_the_algorithm_of_the_contributing_page_runs_and_keeps_its_word():
    (block,) = python_blocks("CONTRIBUTING.md")
    exec(compile(block, "CONTRIBUTING.md", "exec"), {})
    try:
        assert same(last("half_step(keep=0.0)", federation()), last("fedavg", federation()))
        assert not same(last("half_step", federation()), last("fedavg", federation()))
    finally:
        METHODS.remove("half_step")


def test_the_six_calls_exist(tmp_path, monkeypatch):
    """The block of both pages itself, with fewer cases and rounds."""
    page = "README.md"
    (block,) = [block for block in python_blocks(page) if "fedlab.grid(" in block]
    assert [block.replace(", live=True", "")] == python_blocks("docs/index.md")
    assert len(re.findall(r"^\s*(?:\w+ = )?(?:fedlab|part)\.", block, re.M)) == 7  # six calls and one experiment
    monkeypatch.chdir(tmp_path)
    quick = block.replace('"phantoms"', '"phantoms(cases=300)"').replace("rounds=15", "rounds=1")
    quick = quick.replace("Experiment(", 'Experiment(dataset="phantoms(cases=300)", ').replace(
        "live=True", "live=False"
    )
    with pytest.warns(UserWarning):  # so few cases leave sites without a class
        exec(compile(quick, page, "exec"), {})
    assert len(fedlab.runs.find(tmp_path / "out" / "runs")) == 4


@pytest.mark.filterwarnings("ignore::UserWarning")  # so few cases leave sites without a class
@pytest.mark.parametrize("page", [page for page in DOCS if page != "docs/index.md" and python_blocks(page)])
def test_the_python_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, scope = set(METHODS), {}
    try:
        for block in python_blocks(page):
            exec(compile(block, page, "exec"), scope)
    finally:
        for name in set(METHODS) - before:
            METHODS.remove(name)


def test_links_of_the_pages_lead_somewhere():
    for page in [*PAGES, "CHANGELOG.md"]:
        for link in re.findall(r"(?<!!)\[[^\]]*\]\((?!http)([^)#\s]+)\)", text(page)):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_files_that_pages_name_exist():
    """Paths such as `fedlab/plots/style.py`; `mydata` and `myaxis` are the reader's own."""
    for page in PAGES:
        for path in re.findall(r"`((?:fedlab|data_prep|tests|docs|notebooks|benchmarks)/[\w./-]*)`", text(page)):
            assert "/my" in path or (ROOT / path).exists(), f"{page}: {path}"


def test_make_targets_that_files_name_exist():
    known = set(re.findall(r"^(\w+):", text("Makefile"), re.M))
    workflows = [path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.yml")]
    for page in [*PAGES, *workflows, ".ci/run", ".pre-commit-config.yaml", ".github/pull_request_template.md"]:
        commands = re.findall(r"(?:`|run: |entry: |^)make (?:--silent )?([a-z]+)", text(page), re.M)
        assert set(commands) <= known, f"{page}: {set(commands) - known}"


def test_the_readme_lists_every_method_and_axis():
    listed = set(re.findall(r"`(\w+)`", text("README.md")))
    assert set(METHODS) | set(fedlab.AXES) <= listed


def test_the_contributing_page_lists_every_wing():
    wings = {path.parent.name for path in (ROOT / "fedlab").glob("*/__init__.py")}
    assert wings == set(re.findall(r"^\| `(\w+)` \|", text("CONTRIBUTING.md").split("## Add")[0], re.M))


def test_every_page_is_in_the_navigation():
    navigation = text("mkdocs.yml").split("\nnav:")[1]
    assert not [page for page in DOCS if page.removeprefix("docs/") not in navigation and "notebooks/" not in page]


def test_the_version_is_written_once():
    assert PROJECT["version"] == version(PROJECT["name"]) == yaml.safe_load(text("CITATION.cff"))["version"]
    assert PROJECT["version"] in text("CHANGELOG.md")


# No part of the environment: timm needs torchvision, of which PyPI has none for CPU; programs that track runs are large
UNPINNED = {"timm", "mlflow-skinny", "tensorboard"}


def test_everything_that_is_required_is_pinned():
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in text("requirements.lock").splitlines()}
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in wanted}
    assert names - {PROJECT["name"]} - pinned == UNPINNED
