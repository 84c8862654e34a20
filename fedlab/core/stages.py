"""A model as consecutive stages: which coordinates belong to a stage; a model cut into parts and put together again.

A stage is one element of the model's `nn.Sequential`. In the flat vector of the whole model the parameters of
neighbouring stages are one slice, and so are their buffers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab.core.layout import Entry, Layout, after, place
from fedlab.core.weights import Weights

Ranges = tuple[tuple[int, int], ...]  # of stages: first, last + 1


@dataclass(frozen=True, eq=False)
class Part(Layout):
    """The layout of some stages, as a model of its own; and where it is in that of the whole.

    stages: ranges of stages. spans: slices of the whole vector's parameters, of its buffers, and of its counts, one of
    each a range.
    """

    stages: Ranges = ()
    spans: tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]] = ((), (), ())


def part(layout: Layout, ranges: Iterable[Sequence[int]]) -> Part:
    """The layout of the stages in these ranges, under the names that they have in the whole."""
    stages: Ranges = tuple((int(first), int(last)) for first, last in ranges)
    spans: tuple[list[slice], list[slice], list[slice]] = ([], [], [])
    trained: list[Entry] = []
    buffers: list[Entry] = []
    names: list[str] = []
    for first, last in stages:
        inside = [entry for entry in layout.entries if first <= stage(entry.name) < last]
        mine = [entry for entry in inside if entry.start < layout.trained]
        rest = [entry for entry in inside if entry.start >= layout.trained]
        counters = [i for i, name in enumerate(layout.counters) if first <= stage(name) < last]
        for found, each in zip(spans, (mine, rest), strict=False):
            found.append(slice(each[0].start, after(each[-1])) if each else slice(0, 0))
        spans[2].append(slice(counters[0], counters[-1] + 1) if counters else slice(0, 0))
        trained, buffers = trained + mine, buffers + rest
        names += [layout.counters[i] for i in counters]
    entries, boundary, size = place(trained + buffers, len(trained))
    where = (tuple(spans[0]), tuple(spans[1]), tuple(spans[2]))
    return Part(entries, tuple(names), boundary, size, layout.pooled, stages, where)


def take(w: Weights, where: Part) -> Weights:
    """The weights of a part, out of those of the whole; a stack gives a stack."""
    trained, buffers, counters = where.spans
    vector = torch.cat([w.vector[..., span] for span in (*trained, *buffers)], -1)
    counts = torch.cat([w.counts[..., span] for span in counters], -1)
    moments = None if w.moments is None else torch.cat([w.moments[..., span] for span in trained], -1)
    return Weights(where, vector, counts, moments, w.clock, w.sites)


def join(parts: Sequence[Weights], layout: Layout) -> Weights:
    """The whole model from parts that together have all of its stages, without optimizer state."""
    first = parts[0]
    rows = first.vector.shape[:-1]
    vector = first.vector.new_zeros(*rows, layout.size)
    counts = first.counts.new_empty(*rows, len(layout.counters))
    for piece in parts:
        spread(piece, vector, counts)
    return Weights(layout, vector, counts, sites=first.sites)


def spread(piece: Weights, vector: Tensor, counts: Tensor) -> None:
    """Write a part's weights to their places in the vector (..., size) and the counts of the whole."""
    assert isinstance(piece.layout, Part)
    trained, buffers, counters = piece.layout.spans
    for values, spans, whole in ((piece.vector, (*trained, *buffers), vector), (piece.counts, counters, counts)):
        start = 0
        for span in spans:
            size = span.stop - span.start
            whole[..., span] = values[..., start : start + size]
            start += size


def module(model: nn.Sequential, ranges: Iterable[Sequence[int]]) -> nn.Sequential:
    """The stages in these ranges as a model of their own that shares no memory with the whole; names stay."""
    from copy import deepcopy

    chosen = nn.Sequential()
    for first, last in ranges:
        for number in range(first, last):
            chosen.add_module(str(number), deepcopy(model[number]))
    return chosen


def mask(layout: Layout, first: int, last: int) -> Tensor:
    """Which places (size,) of the whole vector belong to stages first .. last - 1."""
    chosen = torch.zeros(layout.size, dtype=torch.bool)
    for entry in layout.entries:
        if first <= stage(entry.name) < last:
            chosen[entry.start : entry.stop] = True
    return chosen


def head(layout: Layout, how_many: int) -> Tensor:
    """The places (size,) of the last `how_many` stages that have parameters; ValueError where there are fewer."""
    trained = sorted({stage(entry.name) for entry in layout.entries if entry.start < layout.trained})
    if not 0 <= how_many <= len(trained):
        raise ValueError(
            f"personal={how_many}: the model has {len(trained)} stages with parameters, so choose from 0 (nothing) to"
            f" {len(trained)} (everything)"
        )
    first = trained[len(trained) - how_many] if how_many else trained[-1] + 1
    return mask(layout, first, trained[-1] + 1)


def sequence(model: nn.Module) -> nn.Sequential:
    """The model as stages; ValueError for one that is no sequence of them."""
    if not isinstance(model, nn.Sequential):
        raise _uncut(f"it is a {type(model).__name__}")
    return model


def stage(name: str) -> int:
    """The stage that a parameter or buffer of this name belongs to."""
    number = name.split(".")[0]
    if not number.isdigit():
        raise _uncut(f"it holds {name!r}")
    return int(number)


def _uncut(why: str) -> ValueError:
    return ValueError(
        f"the model is no sequence of stages ({why}), so it cannot be cut: register it as an nn.Sequential"
    )
