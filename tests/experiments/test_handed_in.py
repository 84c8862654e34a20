"""A partition that is handed in says what a run is about: in its experiment, folder, card and repr."""

import dataclasses
import json

import pytest
from worlds import cases, partition

import fedlab
from fedlab.experiments.run_folder import FORMAT

LABELLED = cases(4)

SMALL = {"model": "logistic", "rounds": 1, "local_steps": 1, "device": "cpu"}
DESCRIBED = {"dataset": "phantoms(cases=60, size=16)", "sites": 3, "prevalence": 0.4, "acquisition": "xray(0.3)",
             "unseen": 1, "partition_seed": 2}  # fmt: skip


def test_a_run_of_ones_own_sites_names_its_data_and_not_the_defaults(tmp_path):
    part = partition(data=cases(152))
    run = fedlab.run(fedlab.Experiment(**SMALL), part, folder=tmp_path)
    again = fedlab.runs.read(run.folder)
    for one in (run, again):
        assert (one.experiment.dataset, one.experiment.sites) == ("world", 4)
        assert "world" in repr(one) and "phantoms" not in repr(one)
    assert run.folder.name.startswith("world-fedavg-")
    card = (run.folder / "card.md").read_text(encoding="utf-8")
    assert "phantoms" not in card and "| dataset | world |" in card and "prevalence" not in card
    assert fedlab.run(fedlab.Experiment(**SMALL), part, folder=tmp_path).folder == run.folder
    (found,) = fedlab.grid(fedlab.Experiment(**SMALL), partition=part, folder=tmp_path, seed=[0])
    assert found.folder == run.folder


def test_a_run_is_the_same_whether_its_partition_is_made_or_handed_in(tmp_path):
    described = fedlab.Experiment(**SMALL, **DESCRIBED)
    part = described.make_partition()
    made, given = (fedlab.run(described, one, folder=tmp_path) for one in (None, part))
    assert made.folder == given.folder
    shorter = fedlab.run(fedlab.Experiment(**SMALL), part, folder=tmp_path)
    assert shorter.experiment == made.experiment == described


@pytest.mark.parametrize(
    "changed",
    [{"prevalence": 0.5}, {"sites": 2}, {"sites": "site"}, {"quantity": [1, 2, 3, 4]}, {"unseen": 1},
     {"splits": "site"}, {"partition_seed": 1}, {"leakage": "drop"}, {"acquisition": 0.2},
     {"geography": "regions(0.5)"}],
)  # fmt: skip
def test_fields_that_a_partition_contradicts_are_warned_of_and_not_recorded(changed, tmp_path):
    ((name, _),) = changed.items()
    plain = fedlab.run(fedlab.Experiment(**SMALL), partition(), folder=tmp_path)
    for call in (
        lambda one: fedlab.run(one, partition(), folder=tmp_path),
        lambda one: fedlab.grid(one, partition=partition(), folder=tmp_path, seed=[0])[0],
    ):
        with pytest.warns(UserWarning, match=f"{name}=.* has no effect: the partition that was passed has {name}="):
            found = call(fedlab.Experiment(**SMALL, **changed))
        assert getattr(found.experiment, name) == getattr(plain.experiment, name)


def test_another_dataset_than_that_of_the_partition_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"dataset='phantoms\(cases=60\)' has no effect: .* cases of 'world'"):
        fedlab.run(fedlab.Experiment(dataset="phantoms(cases=60)", **SMALL), partition(), folder=tmp_path)
    with pytest.raises(ValueError, match=r"partition is 'Site A': give what fedlab\.partition"):
        fedlab.run(fedlab.Experiment(**SMALL), "Site A", folder=tmp_path)


def test_held_out_sites_of_a_partition_are_those_of_the_run(tmp_path):
    part = dataclasses.replace(partition(), unseen=("Site B",))
    run = fedlab.run(fedlab.Experiment(**SMALL), part, folder=tmp_path)
    assert run.experiment.unseen == ["Site B"] and run.unseen == ("Site B",)


def test_runs_of_earlier_versions_are_found_under_their_former_names(tmp_path):
    """Earlier versions named the folder after the dataset of the experiment, and stored its fields as they were."""
    asked, part = fedlab.Experiment(**SMALL), partition(data=cases(152))
    run = fedlab.run(asked, part, folder=tmp_path)
    about = json.loads((run.folder / "experiment.json").read_text(encoding="utf-8"))
    (run.folder / "experiment.json").write_text(
        json.dumps(about | {"experiment": asked.model_dump()}), encoding="utf-8"
    )
    (run.folder / "checksums.json").unlink()
    former = run.folder.rename(tmp_path / f"phantoms-fedavg-{run.folder.name.rpartition('-')[2]}")
    assert fedlab.run(asked, part, folder=tmp_path).folder == former


IDENTITIES = {  # as fedlab computed them before own code was followed
    "plain": ({}, "4479987c1839"),
    "many": ({"method": "fedprox(mu=0.1)", "aggregate": "trimmed(0.2)", "augment": "flip + rotate(10)", "lr": 0.1,
              "prevalence": [0.1, 0.2, 0.3, 0.4], "batch_size": None}, "4e87c0eb193a"),
}  # fmt: skip


@pytest.mark.parametrize("name", IDENTITIES)
def test_experiments_without_own_code_keep_their_identity(name):
    changes, identity = IDENTITIES[name]

    @dataclasses.dataclass
    class Known:
        fingerprint: str = "0123456789abcdef"
        cases = LABELLED

    assert fedlab.Experiment(**changes).identity(Known(), FORMAT) == identity  # type: ignore[arg-type]
