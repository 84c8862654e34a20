"""A model as consecutive stages, and where it can be cut.

A stage is one element of the model's `nn.Sequential`; the cut layer of split learning is the index of a stage. In the
flat vector of the whole model the parameters of neighbouring stages are one slice, and so are their buffers.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab.core.layout import Entry, Layout, after, place
from fedlab.core.weights import Weights

Ranges = tuple[tuple[int, int], ...]  # of stages: first, last + 1


@dataclass(frozen=True, eq=False)
class StageLayout(Layout):
    """The layout of some stages as a separate model, and their positions in the whole model.

    stages: ranges of stages. spans: slices of the whole vector's parameters, of its buffers and of its counts, one
    slice for each range.
    """

    stages: Ranges = ()
    spans: tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]] = ((), (), ())


def stage_layout(layout: Layout, ranges: Iterable[Sequence[int]]) -> StageLayout:
    """Lay out the stages in these ranges; tensors keep the names that they have in the whole model."""
    stages: Ranges = tuple((int(first), int(last)) for first, last in ranges)
    spans: tuple[list[slice], list[slice], list[slice]] = ([], [], [])
    trained: list[Entry] = []
    buffers: list[Entry] = []
    names: list[str] = []
    for first, last in stages:
        inside = [entry for entry in layout.entries if first <= stage_of(entry.name) < last]
        weights = [entry for entry in inside if entry.start < layout.trained]
        rest = [entry for entry in inside if entry.start >= layout.trained]
        counters = [i for i, name in enumerate(layout.counters) if first <= stage_of(name) < last]
        for found, each in zip(spans, (weights, rest), strict=False):
            found.append(slice(each[0].start, after(each[-1])) if each else slice(0, 0))
        spans[2].append(slice(counters[0], counters[-1] + 1) if counters else slice(0, 0))
        trained, buffers = trained + weights, buffers + rest
        names += [layout.counters[i] for i in counters]
    entries, boundary, size = place(trained + buffers, len(trained))
    where = (tuple(spans[0]), tuple(spans[1]), tuple(spans[2]))
    return StageLayout(entries, tuple(names), boundary, size, layout.pooled, layout.channels_last, stages, where)


def extract(w: Weights, layout: StageLayout) -> Weights:
    """Copy the weights of some stages out of the whole model; a stack gives a stack."""
    trained, buffers, counters = layout.spans
    vector = torch.cat([w.vector[..., span] for span in (*trained, *buffers)], -1)
    counts = torch.cat([w.counts[..., span] for span in counters], -1)
    moments = None if w.moments is None else torch.cat([w.moments[..., span] for span in trained], -1)
    return Weights(layout, vector, counts, moments, w.steps, w.sites)


def join(parts: Sequence[Weights], layout: Layout) -> Weights:
    """Assemble the whole model from parts that together have all of its stages, without optimizer state."""
    first = parts[0]
    rows = first.vector.shape[:-1]
    vector = first.vector.new_zeros(*rows, layout.size)
    counts = first.counts.new_empty(*rows, len(layout.counters))
    for part in parts:
        insert(part, vector, counts)
    return Weights(layout, vector, counts, sites=first.sites)


def insert(part: Weights, vector: Tensor, counts: Tensor) -> None:
    """Write the weights of some stages into the vector (..., size) and the counts of the whole model."""
    assert isinstance(part.layout, StageLayout)
    trained, buffers, counters = part.layout.spans
    for values, spans, whole in ((part.vector, (*trained, *buffers), vector), (part.counts, counters, counts)):
        start = 0
        for span in spans:
            size = span.stop - span.start
            whole[..., span] = values[..., start : start + size]
            start += size


def submodel(model: nn.Sequential, ranges: Iterable[Sequence[int]]) -> nn.Sequential:
    """Copy the stages in these ranges into a separate model; the stages keep their names."""
    chosen = nn.Sequential()
    for first, last in ranges:
        for number in range(first, last):
            chosen.add_module(str(number), deepcopy(model[number]))
    return chosen


def mask(layout: Layout, first: int, last: int) -> Tensor:
    """Mark the coordinates of stages first .. last - 1 in the whole vector, bool (size,)."""
    chosen = torch.zeros(layout.size, dtype=torch.bool)
    for entry in layout.entries:
        if first <= stage_of(entry.name) < last:
            chosen[entry.start : entry.stop] = True
    return chosen


def head(layout: Layout, count: int) -> Tensor:
    """Mark the last `count` stages that have parameters, bool (size,); ValueError where there are fewer."""
    trained = sorted({stage_of(entry.name) for entry in layout.entries if entry.start < layout.trained})
    if not 0 <= count <= len(trained):
        raise ValueError(
            f"personal={count}: the model has {len(trained)} stages with parameters, so choose from 0 (nothing) to"
            f" {len(trained)} (everything)"
        )
    first = trained[len(trained) - count] if count else trained[-1] + 1
    return mask(layout, first, trained[-1] + 1)


def representation(entered: Tensor | tuple[Tensor, ...], dense: bool = False) -> Tensor:
    """The input of the last stage as one vector a case, (b, d).

    dense: of a network that predicts voxels: the mean over the image of each channel, without skip connections.
    """
    first = entered if isinstance(entered, Tensor) else entered[0]
    return first.flatten(2).mean(2) if dense and first.ndim > 2 else first.flatten(1)


def as_sequential(model: nn.Module) -> nn.Sequential:
    """The model as a sequence of stages; ValueError if it is none."""
    if not isinstance(model, nn.Sequential):
        raise _uncut(f"it is a {type(model).__name__}")
    if type(model) is nn.Sequential:
        return model
    if type(model).forward is not nn.Sequential.forward:
        raise _uncut(f"{type(model).__name__} has a forward of its own")
    return nn.Sequential(OrderedDict(model._modules))  # type: ignore[arg-type]  # a subclass may not be sliced


def stage_of(name: str) -> int:
    """Index of the stage that holds a parameter or buffer, from its name."""
    number = name.split(".")[0]
    if not number.isdigit():
        raise _uncut(f"it holds {name!r}")
    return int(number)


def _uncut(why: str) -> ValueError:
    """The error for a model without stages."""
    return ValueError(
        f"the model is no sequence of stages ({why}), so it cannot be cut: register it as an nn.Sequential"
    )
