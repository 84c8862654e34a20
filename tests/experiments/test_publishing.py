"""A run is published whole, whenever its process is killed; only then is removed what the training needed."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from interruptions import PowerCut
from safetensors.torch import load_file

import fedlab
from fedlab.core.files import read_json
from fedlab.experiments import run_folder
from fedlab.experiments.recorder import Recorder

WRITES = [(pd.DataFrame, "to_parquet"), (run_folder, "save_file"), (Path, "write_text"), (Path, "write_bytes")]
MOVES = [(Path, "replace"), (Path, "unlink")]


@pytest.fixture(scope="module")
def trained(one, part, tmp_path_factory) -> Path:
    """A folder of runs with an unfinished one, whose rounds are all trained."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(run_folder, "finish", lambda *_: (_ for _ in ()).throw(PowerCut))
        fedlab.run(one, part, folder=folder)
    return folder


@pytest.fixture(scope="module")
def whole(one, part, trained, tmp_path_factory) -> dict[str, object]:
    """The files of the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    shutil.copytree(trained, folder)
    return contents(fedlab.run(one, part, folder=folder).folder)


def contents(folder: Path) -> dict[str, object]:
    """The bytes of all files; of weights the tensors, since safetensors writes its header in any order."""
    run_folder.read(folder).check()
    weights = load_file(folder / "weights.safetensors")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["weights.safetensors"] = b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))
    return files | {"checksums.json": sorted(read_json(folder / "checksums.json"))}


def cut_off(patch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Kill the process at its `at`-th operation on files, in the middle of what it writes; lists the operations."""
    done: list[str] = []

    def counted(owner, name, writes):
        real = getattr(owner, name)

        def operation(*given, **named):
            done.append(name)
            if len(done) == at and not writes:
                raise PowerCut
            found = real(*given, **named)
            if len(done) == at:
                path = next(Path(each) for each in given if isinstance(each, str | Path) and Path(each).is_file())
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size // 2)
                raise PowerCut
            return found

        patch.setattr(owner, name, operation)

    for owner, name in WRITES + MOVES:
        counted(owner, name, (owner, name) in WRITES)
    return done


def test_killed_at_any_operation_on_files_a_trained_run_is_finished_not_trained_again(
    one, part, trained, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(Recorder, "add", lambda *_: pytest.fail("trained again"))
    killed = 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        shutil.copytree(trained, folder)
        with pytest.MonkeyPatch.context() as patch:
            operations = cut_off(patch, at)
            try:
                fedlab.run(one, part, folder=folder)
            except PowerCut:
                killed += 1
        again = fedlab.run(one, part, folder=folder)
        assert contents(again.folder) == whole, operations[-1]
        assert {path.name for path in folder.iterdir()} == {".locks", again.folder.name}
        if killed < at:
            break
    assert killed > len(run_folder.FILES) and "replace" in operations and "unlink" in operations


def test_a_folder_that_only_lacks_its_name_is_published_only_if_it_is_whole(one, part, trained, whole, tmp_path):
    for name in ("rounds.parquet", "checksums.json"):
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(run_folder, "publish", lambda *_: (_ for _ in ()).throw(PowerCut))
            fedlab.run(one, part, folder=folder)
        (left,) = folder.glob("*.unfinished")
        (left / name).write_bytes(b"{}")
        assert contents(fedlab.run(one, part, folder=folder).folder) == whole


def test_a_finished_run_holds_no_scratch_of_a_process_that_was_killed_after_its_last_step(
    one, part, trained, whole, tmp_path
):
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(run_folder, "_remove_scratch", lambda *_: (_ for _ in ()).throw(PowerCut))
        fedlab.run(one, part, folder=folder)
    (run,) = run_folder.find(folder)
    assert (run.folder / "checkpoint.pt").is_file() and run.predictions is not None
    assert contents(fedlab.run(one, part, folder=folder).folder) == whole
