"""Some classes of a dataset are the cases of these classes, and a text that is read as it was written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases as made_up

import fedlab
from fedlab.data.class_choice import only_classes, source_classes, split_choice, with_choice

NAMES = ["low", "mid", "high"]


def graded(task: str = "ordinal") -> fedlab.data.cases.Cases:
    found = made_up(30, (1, 4, 4))
    card = {"name": "graded", "task": task, "classes": NAMES}
    return fedlab.data.cases.Cases(found.images, found.table.assign(label=np.arange(30) % 3), card)


@pytest.mark.parametrize("chosen", [["low", "high"], ["high", "low"], NAMES])
def test_chosen_cases_keep_their_images_and_the_names_of_their_classes(chosen):
    whole, some = graded(), only_classes(graded(), chosen)
    assert some.classes == [name for name in NAMES if name in chosen] and source_classes(some) == NAMES
    assert some.task == ("binary" if len(chosen) == 2 else "ordinal")
    named = {name: [whole.classes[k] for k in whole.labels][i] for i, name in enumerate(whole.table["case"])}
    assert [named[name] for name in some.table["case"]] == [some.classes[k] for k in some.labels]
    kept = np.isin(whole.labels, [NAMES.index(name) for name in chosen])
    np.testing.assert_array_equal(some.images, whole.images[kept])


@pytest.mark.parametrize(
    ("chosen", "match"),
    [(["low"], "at least two"), (["low", "low", "mid"], "different"), (["low", "hihg"], "did you mean 'high'")],
)
def test_what_cannot_be_chosen_is_refused(chosen, match):
    with pytest.raises(ValueError, match=match):
        only_classes(graded(), chosen)


def test_classes_of_a_binary_task_cannot_be_chosen():
    with pytest.raises(ValueError, match="task is binary"):
        fedlab.load("phantoms(cases=20, only_classes=['normal', 'nodule'])")
    assert source_classes(fedlab.load("phantoms(cases=20)")) == []
    with pytest.raises(ValueError, match="list the names"):
        fedlab.load("phantoms(cases=20, only_classes='normal')")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=2, max_size=4))
def test_a_choice_is_read_as_it_was_written_and_can_be_replaced(chosen):
    for dataset in ("retinamnist", "pathmnist(size=64, limit=5)", "phantoms(100, 16)"):
        text = with_choice(dataset, chosen)
        assert split_choice(text) == (dataset, chosen)
        assert with_choice(text, None) == dataset and with_choice(text, NAMES) == with_choice(dataset, NAMES)
