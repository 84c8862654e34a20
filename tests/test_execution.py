"""However the work of the sites is carried out, it comes to the same."""

import pytest
import torch
from worlds import CNN, ends, federation

import fedlab
from fedlab.engine.serial import Serial


def beside(fed, count):
    """The same federation whose sites are trained on so many cores at once."""
    fed.execution.lanes.count = count
    return fed


@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_cores_change_no_bit(method):
    alone, together = (beside(federation(rounds=2, momentum=0.5, model=CNN), count) for count in (1, 3))
    a, b = ends(method, alone), ends(method, together)
    assert a.keys() == b.keys() and alone.ledger.rows == together.ledger.rows
    for name, model in a.items():
        for one, other in zip(parts(model), parts(b[name]), strict=True):
            assert torch.equal(one.vector, other.vector) and torch.equal(one.counts, other.counts)


def parts(model):
    return [model.models] if hasattr(model, "models") else [model]


def test_a_site_that_fails_stops_the_others(monkeypatch):
    fed, begun, step = beside(federation(rounds=1, local_steps=400), 2), [], Serial._step

    def breaks(engine, images, targets, rows, work, moments):
        begun.append(work)
        if work.batches.site == "Site B" and len(begun) > 4:
            raise ValueError("no good")
        return step(engine, images, targets, rows, work, moments)

    monkeypatch.setattr(Serial, "_step", breaks)
    with pytest.raises(ValueError, match="Site B, round 1: no good"):
        ends("fedavg", fed)
    assert len(begun) < 400 and not any(engine.stopped for engine in fed.execution.lanes.engines)
