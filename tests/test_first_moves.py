"""Likely wrong first moves are answered: with the call that was meant, before anything is trained."""

import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fedlab
from fedlab.data.cases import Cases
from fedlab.evaluation import report_metrics
from fedlab.evaluation.metric_names import INSTEAD, NAMES

SMALL = {"dataset": "phantoms(cases=120, size=16)", "sites": 2, "model": "logistic", "rounds": 1, "device": "cpu"}
MASKS = "phantoms(cases=60, size=16, task='segmentation')"


def made(shape: tuple[int, ...], dtype=np.uint8) -> Cases:
    table = pd.DataFrame({"case": [f"c{i}" for i in range(shape[0])], "label": np.arange(shape[0]) % 2})
    return Cases(np.zeros(shape, dtype), table, {"name": "mine", "task": "binary", "classes": ["ill", "well"]})


@pytest.mark.parametrize("shape", [(4, 64, 64, 3), (4, 32, 48, 1), (4, 20, 24, 28, 1), (4, 9, 7, 4)])
def test_channels_last_are_refused_and_the_advice_works(shape):
    images = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match="channels come first") as refused:
        made(shape)
    advice = str(refused.value).rpartition("give ")[2]
    assert made(eval(advice, {"np": np, "images": images}).shape).shape == (shape[-1], *shape[1:-1])


@pytest.mark.parametrize(
    "shape", [(4, 3, 64, 64), (4, 1, 4, 4), (4, 8, 4, 4), (4, 5, 32, 32, 4), (4, 16, 24, 24, 3), (4, 4, 4, 3)]
)
def test_channels_first_are_taken_however_few_pixels_there_are(shape):
    assert made(shape).shape == shape[1:]


def test_images_without_a_channel_axis_get_the_way_to_add_one():
    with pytest.raises(ValueError, match=r"wanted \(4, channels, .*images\[:, None\]"):
        made((4, 16, 16))


@pytest.mark.parametrize("written", ["{}", "./{}"])
def test_tables_pictures_and_folders_of_pictures_are_answered_with_the_import(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "data"))
    (tmp_path / "scans" / "ill").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "scans" / "ill" / "one.png")
    (tmp_path / "labels.csv").write_text("image,label\none.png,0\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"is a table, .*import_images\('FOLDER OF IMAGES', 'labels.csv', name='mine'\)"
    ):
        fedlab.load(written.format("labels.csv"))
    with pytest.raises(
        FileNotFoundError, match=r"holds images, such as one.png, .*import_images\('scans', name='mine'\)"
    ):
        fedlab.load(written.format("scans"))
    with pytest.raises(ValueError, match=r"one.png is a file: give the folder"):
        fedlab.load(written.format("scans/ill/one.png"))


@pytest.mark.parametrize(
    "changes, advice", [({"model": "unet"}, "model='small_cnn'"), ({"dataset": MASKS}, "model='unet'")]
)
def test_a_model_of_the_wrong_kind_is_refused_with_one_of_the_right_kind(changes, advice, tmp_path):
    with pytest.raises(ValueError, match=f"choose a model that .* {advice}"):
        fedlab.grid(fedlab.Experiment(**SMALL | changes), folder=tmp_path, seed=[0, 1])
    assert not list(tmp_path.glob("*-*"))


@pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")
def test_one_site_is_warned_of_unless_the_method_trains_alone(tmp_path):
    base = fedlab.Experiment(**SMALL | {"sites": 1})
    with pytest.warns(UserWarning, match=r"'fedprox' has one site, 'Site A', .*nothing is merged: give two or more"):
        fedlab.run(base.with_(method="fedprox(mu=0.1)"), folder=tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fedlab.grid(base, folder=tmp_path, method=["local", "centralized"])
        fedlab.run(fedlab.Experiment(**SMALL), folder=tmp_path)
    assert not [one for one in said if "one site" in str(one.message)]


def answer(name: str, task: str) -> str:
    with pytest.raises(ValueError) as refused:
        report_metrics.check(name, task)
    return str(refused.value)


def test_names_of_metrics_in_other_libraries_lead_to_those_here():
    masks = set(report_metrics.MASK_METRICS)
    numbers = set(report_metrics.REGRESSION_METRICS)

    def task_of(names: set[str]) -> str:
        return "segmentation" if names & masks else "regression" if names & numbers else "binary"

    for ours, others in NAMES.items():
        for name in others.split():
            task = task_of({ours})
            assert answer(name, task) == f"unknown metric {name!r}: did you mean {ours!r}?"
            report_metrics.check(ours, task)
    for others, instead in INSTEAD.items():
        task = task_of(set(instead))
        for name in set(others.split()) - {
            other for each in NAMES.values() for other in each.split() if task != "binary"
        }:
            assert answer(name, task).endswith(f"the nearest are '{instead[0]}' and '{instead[1]}'")
    for name, ours in {
        "roc_auc": "auroc",
        "AUROC": "auroc",
        "Cohen's kappa": "kappa",
        "F1-score": "sensitivity",
    }.items():
        assert repr(ours) in answer(name, "binary")
    assert answer("dice_score", "segmentation") == "unknown metric 'dice_score': did you mean 'dice'?"
    assert answer("f1", "segmentation") == "unknown metric 'f1': did you mean 'dice'?"


def test_a_number_that_is_given_as_text_is_that_number_and_others_are_named():
    assert fedlab.Experiment(lr="0.1") == fedlab.Experiment(lr=0.1)
    for text in ("0,1", "fast", "1e", ""):
        with pytest.raises(ValueError, match=f"lr='{text}': give a number of at least 0"):
            fedlab.Experiment(lr=text)
    with pytest.raises(ValueError, match=r"mu is the text '0\.1', give the number"):
        fedlab.Experiment(method="fedprox(mu='0.1')")
