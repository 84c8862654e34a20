"""Checkpoints: what is read is what was written, type for type and bit for bit; what cannot be stored is named."""

from collections import OrderedDict, namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import federation, same

from fedlab.core.stages import extract, stage_layout
from fedlab.experiments import checkpoint
from fedlab.federation import Ensemble, Localised

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def fed():
    return federation()


@pytest.fixture
def again(fed, tmp_path):
    """A value after a checkpoint."""

    def stored(value):
        checkpoint.save(tmp_path / "checkpoint.pt", {"memory": value})
        return checkpoint.load(tmp_path / "checkpoint.pt", fed.layout, CPU)["memory"]

    return stored


def assert_alike(a, b) -> None:
    """Of one type, and equal all the way down; nan is nan."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert_alike(list(a), list(b))
        assert_alike(list(a.values()), list(b.values()))
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_alike(one, other)
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    else:
        assert repr(a) == repr(b)


VALUES = {
    "plain": [None, True, False, 0, -(10**30), "", "naïve \ud800", 0.1, 5e-324],
    "floats beyond": [NAN, INF, -INF, -0.0],
    "tuples and lists": ((), [], (1, [2, (3,)]), {"a": ({"b": (None,)},)}),
    "keys": {1: "a", "1": "b", (1, "x"): "c", ((0,), 2.5): "d", None: "e", INF: "f", np.int64(7): "g"},
    "order": {"z": 1, "a": 2, 3: 3},
    "dict like a node": {"list": [1], "plain": {"tensor": "0"}, "dict": []},
    "scalars": [np.float64(0.1), np.float32(0.1), np.int64(3), np.uint8(3), np.bool_(True), np.str_("é"), np.str_("")],
    "scalars beyond": [np.float64(NAN), np.float16(-INF), np.complex128(1 + 2j), np.datetime64("2020-01-02")],
    "empty arrays": [np.zeros((0, 3)), np.zeros((3, 0, 2), np.int8), np.zeros(0, "<U5")],
    "arrays": [
        np.arange(6.0).reshape(2, 3).T,
        np.array(3.5),
        np.array([NAN, -0.0], np.float32),
        np.array(["a", "bcd"]),
    ],
    "array dtypes": [np.array([1, 2], ">i4"), np.array([True]), np.array([(1, 0.5)], [("n", "i8"), ("x", "f4")])],
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_what_they_were(name, again):
    assert_alike(again(VALUES[name]), VALUES[name])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex128]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_come_back_in_their_type_and_shape(dtype, shape, again):
    value = (torch.arange(6).reshape(2, 3) if shape == (2, 3) else torch.ones(shape)).to(dtype)
    found = again({"t": value, "view": value.mT if shape == (2, 3) else value})
    assert found["t"].dtype == dtype and torch.equal(found["t"], value)
    assert found["view"].shape == (value.mT if shape == (2, 3) else value).shape


def test_memory_held_twice_is_stored_once_and_comes_back_apart(again, tmp_path):
    value = torch.zeros(50_000)
    found = again([value, value])
    found[0].add_(1)
    assert not found[1].any() and (tmp_path / "checkpoint.pt").stat().st_size < 210_000


def test_weights_ensembles_and_parts_come_back(fed, again):
    w = fed.start
    stack = replace(w.expand((0, 2)), moments=torch.ones(2, 1, w.layout.trained), steps=np.array([3, 4]))
    side = extract(w, stage_layout(fed.layout, ((0, 1), (2, 3))))
    found = again({"stack": stack, "side": side, "ensemble": Ensemble(stack, np.array([0.25, 0.75], np.float32))})
    assert same(found["stack"], stack) and found["stack"].sites == (0, 2) and found["stack"].layout is fed.layout
    assert torch.equal(found["stack"].moments, stack.moments) and np.array_equal(found["stack"].steps, stack.steps)
    assert same(found["side"], side) and found["side"].layout.stages == side.layout.stages
    assert same(found["ensemble"].models, stack) and found["ensemble"].shares.dtype == np.float32
    local = again(Localised(w, stack))
    assert same(local.shared, w) and same(local.sites, stack)


Point = namedtuple("Point", "x y")
REFUSED = {
    "generator": (np.random.default_rng(0), r"memory\['a'\]\[1\] is Generator.*\(numpy.random._generator.Generator\)"),
    "set": ({1, 2}, r"memory\['a'\]\[1\] is \{1, 2\} \(set\)"),
    "objects": (np.array([None, "x"]), r"memory\['a'\]\[1\] is .*of dtype object"),
    "masked array": (np.ma.masked_array([1.0], [True]), "MaskedArray of dtype float64"),
    "named tuple": (Point(1, 2), r"Point\(x=1, y=2\)"),
    "other dict": (OrderedDict(a=1), "OrderedDict"),
    "function": (len, "built-in function len"),
    "bytes": (b"x", r"b'x' \(bytes\)"),
    "sparse tensor": (torch.eye(2).to_sparse(), r"memory\['a'\]\[1\] is tensor"),
    "key": ({frozenset(): 1}, r"a key of memory\['a'\]\[1\] is frozenset\(\)"),
    "tensor in a key": ({(1, torch.zeros(1)): 1}, r"a key of memory\['a'\]\[1\] is tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_named_and_leaves_the_last_checkpoint(name, fed, again, tmp_path):
    value, message = REFUSED[name]
    again("before")
    with pytest.raises(
        TypeError, match=f"(?s){message}.*which a checkpoint cannot hold: let the memory of a method be weights"
    ):
        again({"a": [0, value]})
    assert checkpoint.load(tmp_path / "checkpoint.pt", fed.layout, CPU) == {"memory": "before"}


def test_a_damaged_file_and_another_model_are_refused(fed, tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"memory": fed.start})
    whole = path.read_bytes()
    for damaged in (b"", whole[:200], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt"):
            checkpoint.load(path, fed.layout, CPU)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="it was written by another version"):
        checkpoint.load(path, replace(fed.layout, size=fed.layout.size + 64), CPU)


def test_code_in_a_file_is_not_run(fed, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    torch.save({"memory": Harmful()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt"):
        checkpoint.load(tmp_path / "checkpoint.pt", fed.layout, CPU)
    assert not (tmp_path / "harm").exists()
