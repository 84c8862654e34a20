"""What a user sees of cases: the rows that match a condition, identical images, and a summary instead of arrays."""

import html
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fedlab
from fedlab.data.cases import Cases
from fedlab.data.filters import matching, selected
from fedlab.data.thumbnails import outlines, thumbnail

HOSTILE = ["$x$", "<script>alert(1)</script>", "Department of Radiology, " + "x" * 60, "a\nb"]


def made(n: int = 12, shape: tuple[int, ...] = (1, 4, 4), **changes) -> Cases:
    table = pd.DataFrame(
        {
            "case": [f"c{i:02}" for i in range(n)],
            "label": np.arange(n) % 3,
            "age": [None if i == 3 else 20 + 5 * i for i in range(n)],
            "sex": ["F", "M", None] * (n // 3),
            "day": pd.date_range("2024-01-01", periods=n),
            "smokes": np.arange(n) % 2 == 0,
            "my column": np.arange(n),
            "site": [HOSTILE[i % 4] for i in range(n)],
        }
    )
    images = (np.arange(n) * 3)[(slice(None),) + (None,) * len(shape)] + np.zeros(shape, int)
    card = {"name": "<b>mine</b>", "task": "multiclass", "classes": ["healthy", "<i>ill</i>", "$worse$"]}
    return Cases(images.astype(np.uint8), table.assign(**changes), card)


CASES = made()
TABLE = CASES.table
CONDITIONS = {
    "age > 60 and sex == 'F'": (TABLE["age"] > 60) & (TABLE["sex"] == "F"),
    "30 < age <= 60 or smokes": ((TABLE["age"] > 30) & (TABLE["age"] <= 60)) | TABLE["smokes"],
    "60 < age": TABLE["age"] > 60,
    "not sex == 'F'": TABLE["sex"] != "F",
    "sex != 'F'": TABLE["sex"] == "M",  # a missing value satisfies no comparison
    "sex not in ['F']": TABLE["sex"] == "M",
    "age is None": TABLE["age"].isna(),
    "sex is not None": TABLE["sex"].notna(),
    "label == '<i>ill</i>'": TABLE["label"] == 1,
    "label in ['healthy', '$worse$']": TABLE["label"] != 1,
    "label != 2 and label != 'healthy'": TABLE["label"] == 1,
    "`my column` in [1, 4]": TABLE["my column"].isin([1, 4]),
    "day >= '2024-01-05'": TABLE["day"] >= "2024-01-05",
    "(smokes) & (age > 60)": TABLE["smokes"] & (TABLE["age"] > 60),
    f"site == {HOSTILE[3]!r}": TABLE["site"] == HOSTILE[3],
}
REFUSED = {
    "agge > 60": "no column 'agge': did you mean 'age'",
    "age > '60'": "'age' holds numbers such as 20",
    "sex == F": "write text in quotes",
    "sex = 'F'": "equality is ==",
    "smokes & age > 60": "write and, or instead of &",
    "age > 60 & smokes": "write and, or instead of &",
    "sex == 1": "'sex' holds text such as 'F'",
    "age": "'age' is no condition",
    "label == 'il'": "no class 'il'",
    "label > 'healthy'": "classes have no order",
    "day == 'soon'": "is no date",
    "__import__('os').system('true')": "is no condition",
    "age.max() > 3": "is no column",
    "age > len('a')": "is no value",
    "": "write a condition",
    "(" * 400 + "smokes" + ")" * 400: "cannot read",
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_chooses_the_rows_it_says(where):
    found = matching(TABLE, where, CASES.classes, CASES.members)
    np.testing.assert_array_equal(found, CONDITIONS[where].fillna(False).to_numpy(bool))


@pytest.mark.parametrize("where", REFUSED)
def test_a_condition_that_cannot_be_used_is_refused_in_a_sentence(where):
    with pytest.raises(ValueError, match=re.escape(REFUSED[where])):
        matching(TABLE, where, CASES.classes, CASES.members)


def test_no_match_says_what_there_is_and_rows_keep_their_order():
    with pytest.raises(ValueError, match=r"no case matches where='age > 90' \(age is 20.0 to 75.0\)"):
        selected(CASES, "age > 90", None)
    assert selected(CASES, "smokes", [8, 3, 2]).tolist() == [8, 2]


def test_identical_images_are_grouped_by_what_is_worst_about_them():
    images = np.array([0, 1, 0, 2, 1, 3, 2, 0], np.uint8)[:, None, None, None] + np.zeros((1, 2, 2), np.uint8)
    split = ["train", "train", "train", "train", "test", "test", "train", "train"]
    table = pd.DataFrame({"case": list("abcdefgh"), "label": [0, 1, 1, 0, 1, 0, 0, 1], "split": split})
    cases = Cases(images, table, {"name": "twins", "task": "binary", "classes": ["no", "yes"]})
    found = [(group.rows.tolist(), group.differ) for group in cases.duplicates()]
    assert found == [([0, 2, 7], ("label",)), ([1, 4], ("split",)), ([3, 6], ())]
    assert (
        sum(len(rows) for rows, differ in found if "label" in differ)
        == cases.audit().set_index("kind").loc["conflicting labels", "cases"]
    )
    card = {"name": "twins", "task": "segmentation", "classes": ["a"], "structures": ["none", "all"]}
    masks = (np.arange(8) == 6)[:, None, None] * np.ones((2, 2), np.uint8)
    drawn = Cases(images, table.assign(label=0), card, masks.astype(np.uint8))
    assert [group.differ for group in drawn.duplicates()] == [("mask",), ("split",), ()]


def test_thumbnails_show_the_slice_the_channel_and_the_mean_of_pixels():
    volume = np.random.default_rng(0).integers(0, 255, (2, 6, 8, 5), np.uint8)
    np.testing.assert_array_equal(thumbnail(volume, 3, 1, 99)[..., 0], volume[1, ..., 3])
    turned = thumbnail(volume, 3, 1, 99, upright=True)[..., 0]
    np.testing.assert_array_equal(turned, volume[1, ..., 3].T[::-1, ::-1])  # front at the top, right at the left
    small = thumbnail(volume, 0, 0, 4)[..., 0]
    np.testing.assert_array_equal(small, np.rint(volume[0, ..., 0].reshape(3, 2, 4, 2).mean((1, 3))))
    np.testing.assert_array_equal(thumbnail((volume / 255).astype(np.float16), 3, 1, 99)[..., 0], volume[1, ..., 3])
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, :2], mask[3, 3] = 2, 1
    found = outlines(mask, None, 2)
    np.testing.assert_allclose(found[2], [[1, 0], [0, 0]])
    np.testing.assert_allclose(found[1], [[0, 0], [0, 0.25]])


@pytest.mark.filterwarnings("ignore")
def test_a_summary_counts_and_shows_but_never_dumps_arrays_or_markup(tmp_path):
    part = fedlab.partition(CASES, sites="site", splits="site")
    experiment = fedlab.Experiment(rounds=3, prevalence=0.5)
    for thing in (CASES, part, experiment):
        text, page = repr(thing), thing._repr_html_()
        assert 1 <= len(text.split("\n")) <= 6 and len(text) < 700 and max(map(len, text.split("\n"))) <= 120
        assert "array(" not in text and "[[" not in text and "  0  " not in text
        assert "<script" not in page and "<b>mine" not in page and "<i>ill" not in page and len(page) < 40_000
        assert "mathjax_ignore" in page and "next:" in page
    assert "healthy 4" in repr(CASES) and html.escape(HOSTILE[1]) in CASES._repr_html_()
    assert f"{(part.table['split'] == 'train').sum()}" in repr(part)
    assert repr(experiment) == "Experiment(dataset='phantoms', method='fedavg', rounds=3, prevalence=0.5)"
    assert eval(repr(experiment), {"Experiment": fedlab.Experiment}) == experiment
    (source,) = re.findall(r"base64,([^\"]+)", CASES._repr_html_())
    assert Image.open(BytesIO(b64decode(source))).size == (8 * 4 + 7 * 2, 4)  # eight cases of 4 pixels, side by side
