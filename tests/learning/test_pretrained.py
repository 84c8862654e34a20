"""Files of weights: what is read, what is taken over, and what is refused before anything is trained."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from worlds import CNN, federation, usual_partition

import fedlab
from fedlab.learning import pretrained
from fedlab.learning.models import build
from fedlab.learning.trainable import restrict

SHAPE = (1, 12, 12)
BASE = {"rounds": 1, "local_steps": 1, "device": "cpu", "model": CNN}


def moved(net: nn.Module) -> nn.Module:
    """The network with statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point() and "lora" not in name:
            buffer.uniform_(0.5, 1.5, generator=generator)
    return net


def network(outputs: int = 1, shape=SHAPE, model: str = CNN, seed: int = 9) -> nn.Module:
    return moved(build(model, shape, outputs, seed=seed))


def saved(path, tensors):
    """The path of a file of torch.save."""
    torch.save(tensors, path)
    return str(path)


def same(found, wanted) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_file_of_any_usual_form_gives_the_same_tensors(tmp_path):
    wanted = network().state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in wanted.items()}
    save_file(wanted, tmp_path / "a.safetensors")
    forms = [
        str(tmp_path / "a.safetensors"),
        saved(tmp_path / "b.pt", wanted),
        saved(tmp_path / "c.pt", {"model": wrapped, "epoch": 3}),
        saved(tmp_path / "d.ckpt", {"state_dict": {f"model.{name}": t for name, t in wrapped.items()}}),
        saved(tmp_path / "e.pt", {f"model.{name}": tensor for name, tensor in wanted.items()}),
    ]
    for form in forms:
        assert same(pretrained.read(form).tensors, wanted)


def test_a_run_starts_from_the_weights_of_another_run(tmp_path):
    """The folder of the run, and a file of the state dict of one site."""
    first = fedlab.run(fedlab.Experiment(**BASE), usual_partition(), folder=tmp_path)
    fed = federation(weights=str(first.folder))
    assert same(fed.execution.engine.flat.state_dict(fed.start), first.weights("global"))
    local = fedlab.run(fedlab.Experiment(method="local", **BASE), usual_partition(), folder=tmp_path)
    with pytest.raises(ValueError, match=r"a run without a shared model .*torch.save\(run.weights\('Site A'\)"):
        federation(weights=str(local.folder / "weights.safetensors"))
    fed = federation(weights=saved(tmp_path / "site.pt", local.weights("Site B", "best")))
    assert same(fed.execution.engine.flat.state_dict(fed.start), local.weights("Site B", "best"))


def test_adapters_of_a_run_are_added_to_the_weights_that_they_adapt(tmp_path):
    net = network()
    restrict(net, "lora(rank=2, alpha=6)", seed=3)
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter) if "lora" in name else None
    found = pretrained.read(saved(tmp_path / "adapted.pt", net.state_dict()))
    plain = build(CNN, SHAPE, 1, seed=0)
    assert pretrained.load(plain, found) == []
    x = torch.rand(5, *SHAPE)
    torch.testing.assert_close(plain.eval()(x), net.eval()(x), rtol=1e-5, atol=1e-5)


def test_only_the_last_stage_may_differ_and_the_run_says_so(tmp_path):
    other = network(outputs=5)
    path = saved(tmp_path / "five.pt", other.state_dict())
    initial = build(CNN, SHAPE, 1, seed=0).state_dict()
    with pytest.warns(UserWarning, match=r"last stage \(3.weight, 3.bias\) .* does not fit, and keeps its initial"):
        fed = federation(weights=path)
    found = fed.execution.engine.flat.state_dict(fed.start)
    for name, tensor in found.items():
        assert torch.equal(tensor, initial[name] if name.startswith("3.") else other.state_dict()[name])
    assert [event for *_, event, _ in fed.round_log.events] == ["head not loaded"]
    older = {name: t for name, t in network().state_dict().items() if "num_batches" not in name}
    assert pretrained.load(build(CNN, SHAPE, 1, seed=0), pretrained.read(saved(tmp_path / "older.pt", older))) == []


@pytest.mark.parametrize(
    ("made", "model", "why"),
    [
        (lambda: network(shape=(3, 12, 12)), CNN, r"0.0.weight \(\(4, 3, 3, 3\), the model has \(4, 1, 3, 3\)\)"),
        (lambda: network(model="small_cnn(width=4, depth=1)"), CNN, r"1.0.weight \(missing.*2.weight \(unexpected"),
        (lambda: network(model="small_cnn(width=8, depth=2)"), CNN, "no tensor before the last stage matches"),
        (lambda: network(model="logistic", outputs=3), "logistic", r"1.bias \(\(3,\), the model has \(1,\)\)"),
        (lambda: nn.Linear(4, 1), CNN, r"weight \(unexpected, \(1, 4\)\)"),
    ],
)
def test_other_tensors_are_named(made, model, why, tmp_path):
    file = pretrained.read(saved(tmp_path / "w.pt", made().state_dict()))
    plain = build(model, SHAPE, 1, seed=0)
    with pytest.raises(ValueError, match=why) as error:
        pretrained.load(plain, file)
    assert "Only the last stage may differ: choose" in str(error.value)
    assert same(plain.state_dict(), build(model, SHAPE, 1, seed=0).state_dict())


def test_a_missing_broken_or_dangerous_file_is_refused_before_training(tmp_path):
    class Whole(nn.Module):
        pass

    whole = Path(saved(tmp_path / "zip.pt", network().state_dict()))
    nan = network().state_dict()
    nan["0.0.weight"][0] = torch.nan
    save_file(network().state_dict(), tmp_path / "cut.safetensors")
    for name, content in (("empty.pt", b""), ("text.pt", b"no weights"), ("cut.pt", whole.read_bytes()[:900])):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    refused = {
        "none.pt": "there is no file",
        **dict.fromkeys(["empty.pt", "text.pt", "cut.pt", "cut.safetensors"], "cannot be read"),
        saved(tmp_path / "module.pt", network()[3]): "cannot be read .*state_dict",
        saved(tmp_path / "object.pt", SimpleNamespace(a=1)): "cannot be read",
        saved(tmp_path / "other.pt", {"epoch": 3}): "holds a dict of 'epoch', wanted are tensors by name",
        saved(tmp_path / "list.pt", [torch.zeros(2)]): "holds a list",
        saved(tmp_path / "nan.pt", nan): "0.0.weight holds numbers that are not finite",
    }
    for name, why in refused.items():
        path = str(tmp_path / name)
        with pytest.raises(ValueError, match=why) as error:
            fedlab.run(fedlab.Experiment(weights=path, **BASE), usual_partition(), folder=tmp_path / "runs")
        assert repr(path) in str(error.value)
        with pytest.raises(ValueError, match=why):  # all runs of a grid, before the first one
            fedlab.grid(
                fedlab.Experiment(**BASE), partition=usual_partition(), folder=tmp_path / "runs", weights=[None, path]
            )
    assert not list((tmp_path / "runs").glob("*world*"))


def test_a_file_that_changes_under_its_name_is_another_run(tmp_path):
    path = saved(tmp_path / "w.pt", network().state_dict())
    one = fedlab.Experiment(weights=path, lr=0.0, **BASE)
    first = fedlab.run(one, usual_partition(), folder=tmp_path / "runs")
    assert fedlab.run(one, usual_partition(), folder=tmp_path / "runs").folder == first.folder
    (tmp_path / "copy.pt").write_bytes((tmp_path / "w.pt").read_bytes())
    copy = fedlab.run(one.with_(weights=str(tmp_path / "copy.pt")), usual_partition(), folder=tmp_path / "runs")
    assert copy.folder == first.folder  # the content decides, not the name
    saved(tmp_path / "w.pt", network(seed=10).state_dict())
    second = fedlab.run(one, usual_partition(), folder=tmp_path / "runs")
    assert second.folder != first.folder
    assert not torch.equal(first.weights()["0.0.weight"], second.weights()["0.0.weight"])
    with pytest.raises(ValueError, match="differ in weights"):
        fedlab.costs([first, second])
    without = fedlab.Experiment(**BASE)
    part = usual_partition()
    assert without.identity(part, 4) != one.identity(part, 4) == one.with_(weights=path).identity(part, 4)


def test_a_file_that_changes_between_plan_and_training_is_refused(tmp_path):
    from fedlab.experiments import runner

    path = saved(tmp_path / "w.pt", network().state_dict())
    one, part = fedlab.Experiment(weights=path, **BASE), usual_partition()
    target = runner._target(one, part, tmp_path / "runs")
    saved(tmp_path / "w.pt", network(seed=10).state_dict())
    with pytest.raises(ValueError, match="has changed since the run was planned"):
        runner.run_into(one, part, target)
    assert not target.exists()


@pytest.mark.parametrize("text", ["layer9", "nothing*", "lora(rnk=2)", "lora(rank=0)", "everything()", " , "])
def test_what_cannot_be_trained_is_refused_with_what_can(text):
    with pytest.raises(ValueError, match=re.escape(text.split("(")[0].strip()) + "|rnk|rank|nothing to train"):
        federation(trainable=text)


def test_texts_lists_and_numbers_name_what_is_trained():
    assert fedlab.Experiment(trainable=["3*", "head"]).trainable == "3*, head"
    assert fedlab.Experiment(trainable="1").trainable == "1"
    assert fedlab.Experiment(weights="none").weights is None
    assert fedlab.Experiment(weights="7").weights == "7"
