"""What the pages say works."""

import re
from pathlib import Path

import pytest
from worlds import federation, last, same

import fedlab
from fedlab.algorithms import METHODS

ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_the_algorithm_of_the_contributing_page_runs_and_keeps_its_word():
    (block,) = python_blocks("CONTRIBUTING.md")
    exec(compile(block, "CONTRIBUTING.md", "exec"), {})
    try:
        assert same(last("half_step(keep=0.0)", federation()), last("fedavg", federation()))
        assert not same(last("half_step", federation()), last("fedavg", federation()))
    finally:
        METHODS.remove("half_step")


def test_the_six_calls_of_the_readme_exist(tmp_path, monkeypatch):
    """The block itself, with fewer cases and rounds."""
    (block,) = python_blocks("README.md")
    assert len(re.findall(r"^\s*(?:\w+ = )?(?:fedlab|part)\.", block, re.M)) == 7  # six calls and one experiment
    monkeypatch.chdir(tmp_path)
    quick = block.replace('"phantoms"', '"phantoms(cases=300)"').replace("rounds=15", "rounds=1")
    quick = quick.replace("Experiment(", 'Experiment(dataset="phantoms(cases=300)", ').replace(
        "live=True", "live=False"
    )
    with pytest.warns(UserWarning):  # so few cases leave sites without a class
        exec(compile(quick, "README.md", "exec"), {})
    assert len(fedlab.runs.find(tmp_path / "out" / "runs")) == 4


def test_links_of_the_pages_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / link).exists(), f"{page}: {link}"


def test_the_readme_lists_every_notebook():
    listed = set(re.findall(r"\((notebooks/[\w-]+\.ipynb)\)", (ROOT / "README.md").read_text()))
    assert listed == {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
