"""A mirror gets every round once and every finished run once, however it was trained; its errors end no training."""

import warnings

import pytest

import fedlab
from fedlab.experiments import tracking
from fedlab.experiments.tracking import Tracking

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BASE = fedlab.Experiment(dataset="phantoms(cases=60, size=16)", sites=2, model="logistic", rounds=2)


class Mirror:
    """What is mirrored, in lists that all mirrors share."""

    def __init__(self, steps, kept):
        self.steps, self.kept = steps, kept

    def log(self, values, step):
        self.steps.append((step, values))

    def keep(self, run):
        self.kept.append(run.folder.name)


def mirrored(**how):
    steps, kept = [], []
    return Tracking(lambda title: Mirror(steps, kept), lambda name: name in kept, live=False, **how), steps, kept


def test_each_round_has_the_mean_over_sites_and_each_site_and_loaded_runs_are_not_mirrored_again(tmp_path):
    observer, steps, kept = mirrored()
    for _ in range(2):
        run = fedlab.run(BASE, folder=tmp_path, live=observer)
    assert [step for step, _ in steps] == [1, 2] and kept == [run.folder.name]
    names = set(steps[0][1])  # MLflow keeps each in a file of this path
    assert not any(other.startswith(f"{name}/") for name in names for other in names)
    rows = run.rounds[run.rounds["metric"].eq("accuracy") & run.rounds["split"].eq("val") & run.rounds["round"].eq(2)]
    assert steps[1][1]["val/accuracy/global/mean of sites"] == pytest.approx(rows["value"].mean())
    for row in rows.itertuples():
        assert steps[1][1][f"val/accuracy/global/{row.site}"] == row.value


def test_runs_that_trained_in_lockstep_or_before_are_mirrored_whole(tmp_path):
    observer, steps, kept = mirrored()
    study = fedlab.Study(BASE, folder=tmp_path, prevalence=[0.0, 0.5])
    runs = study.run()
    study.run(live=observer)
    assert sorted(kept) == sorted(run.folder.name for run in runs) and [step for step, _ in steps] == [1, 2, 1, 2]


def test_a_mirror_that_fails_is_one_warning_and_the_run_is_finished(tmp_path):
    def broken(title):
        raise ConnectionError("no server")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fedlab.run(BASE, folder=tmp_path, live=Tracking(broken, live=False))
    assert run.folder.is_dir()
    assert [str(each.message) for each in caught if "tracking" in str(each.message)] == [
        "tracking stopped (ConnectionError: no server); training continues"
    ]


def test_mlflow_has_the_rounds_the_fields_and_the_run_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions prefer a database
    uri = (tmp_path / "mlflow").as_uri()
    for _ in range(2):
        run = fedlab.run(BASE, folder=tmp_path / "runs", live=tracking.mlflow("mine", uri, live=False))
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert found.data.params["method"] == "fedavg" and found.data.tags["fedlab.run"] == run.folder.name
    assert [one.step for one in client.get_metric_history(found.info.run_id, "val/auroc/global/mean of sites")] == [
        1,
        2,
    ]
    assert "predictions.parquet" in {one.path for one in client.list_artifacts(found.info.run_id)}


def test_tensorboard_has_the_rounds_and_the_card(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        fedlab.run(BASE, folder=tmp_path / "runs", live=tracking.tensorboard(tmp_path / "board", live=False))
    (folder,) = (tmp_path / "board").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [one.step for one in events.Scalars("val/auroc/global/mean of sites")] == [1, 2]
    assert any("card" in name for name in events.Tags()["tensors"])


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_what_is_missing_is_named_with_the_way_to_install_it(name, monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, {"mlflow": "mlflow", "tensorboard": "torch.utils.tensorboard"}[name], None
    )
    with pytest.raises(ModuleNotFoundError, match=r"fedlab-workbench\[tracking\]"):
        getattr(tracking, name)()
