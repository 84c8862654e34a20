"""Channel: all that crosses a site's border, counted in the ledger, timed along the critical path, shown to hooks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.core.stages import StageLayout, extract
from fedlab.core.typing import Bools
from fedlab.core.weights import Weights
from fedlab.engine.local_task import Usage
from fedlab.federation.sites import LocalParameters

COLUMNS = ["round", "site", "direction", "other", "what", "bytes", "messages"]
SERVER = "server"
Key = tuple[int, str, str, str, str]


@dataclass(frozen=True)
class Message:
    """What one party sends to another, as hooks see it.

    site: whose border it crosses. direction: "down" (server to site), "up" (site to server) or "peer" (to the site from
    another one). other: the other end.
    """

    round: int
    site: str
    direction: str
    other: str
    what: str
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors)


class Ledger:
    """Bytes and messages by round, site, direction, other end and content.

    A message between two sites is one row ("peer", at the site that receives it) and crosses both borders.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str, str, str, int, int]] = []
        self._place: dict[Key, int] = {}

    def record(
        self, number: int, site: str, direction: str, what: str, nbytes: int, other: str = SERVER, messages: int = 1
    ) -> None:
        """Add to the row of this round, site, direction, other end and content."""
        key = (number, site, direction, other, what)
        if key in self._place:
            *_, before, sent = self.rows[self._place[key]]
            nbytes, messages = nbytes + before, messages + sent
            self.rows[self._place[key]] = (*key, nbytes, messages)
        else:
            if self.rows and self.rows[-1][0] != number:
                self._place.clear()
            self._place[key] = len(self.rows)
            self.rows.append((*key, nbytes, messages))

    def bytes_of(self, number: int, site: str) -> int:
        """All bytes that crossed this site's border in this round, in either direction."""
        return self.bytes_by_site(number).get(site, 0)

    def bytes_by_site(self, number: int) -> dict[str, int]:
        """All bytes that crossed the border of each site (and of the server) in this round, in either direction."""
        found: dict[str, int] = {}
        for row in self._of(number):
            for site in {row[1], row[3]}:
                found[site] = found.get(site, 0) + row[5]
        return found

    @property
    def total(self) -> int:
        """All bytes of all rounds that are in the table."""
        return sum(row[5] for row in self.rows)

    def _of(self, number: int) -> Iterable[tuple]:
        """Rows of a round, which is one of the latest."""
        for row in reversed(self.rows):
            if row[0] != number:
                return
            yield row

    def frame(self) -> pd.DataFrame:
        """The ledger as a table."""
        return pd.DataFrame(self.rows, columns=COLUMNS)


@dataclass
class CriticalPath:
    """What must happen sequentially in a round when all sites work in parallel.

    steps: optimizer steps. messages: one-way messages. bytes: those on the busiest link of each.
    """

    steps: int = 0
    messages: int = 0
    bytes: int = 0
    _seconds: list[Callable[[], float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of local training."""
        return sum(call() for call in self._seconds)

    def add_training(self, usages: Iterable[Usage]) -> None:
        """Sites that train in parallel: the slowest counts."""
        each = list(usages)
        self.steps += max((usage.steps for usage in each), default=0)
        self._seconds.append(lambda: max((usage.seconds() for usage in each), default=0.0))

    def add_parallel(self, paths: Iterable["CriticalPath"]) -> None:
        """Several paths in parallel: the longest of each kind counts."""
        each = list(paths)
        for name in ("steps", "messages", "bytes"):
            setattr(self, name, getattr(self, name) + max((getattr(path, name) for path in each), default=0))
        self._seconds.append(lambda: max((path.seconds for path in each), default=0.0))

    def add_messages(self, nbytes: Iterable[int], *, one_link: bool = False, same_time: bool = False) -> None:
        """Messages that travel in parallel, each on its own link, or all on one (`one_link`).

        same_time: together with the previous ones.
        """
        sizes = [size for size in nbytes if size]
        if sizes:
            self.messages += not same_time
            self.bytes += sum(sizes) if one_link else max(sizes)


class Channel:
    """The only connection between server and sites, for every method.

    number: the present round. ledger: bytes and messages of all rounds. path: critical path of the present round.
    hooks: functions that are called with every `Message`; without any, tensors of messages are not assembled. holder:
    who has the travelling model, "server" or a site's name. peers_exchanged: whether sites ever exchanged models.
    """

    def __init__(self, names: Sequence[str], private: LocalParameters) -> None:
        """names: of the sites. private: which parameters do not cross."""
        self.names, self.private = tuple(names), private
        self.number, self.holder, self.peers_exchanged = 0, SERVER, False
        self.ledger, self.path = Ledger(), CriticalPath()
        self.hooks: list[Callable[[Message], None]] = []
        self._masked: dict[str, tuple[Message, Layout]] = {}  # sender -> what it sends to a secure sum, and its layout

    def begin(self, number: int) -> None:
        """Start the critical path of a round."""
        self.number, self.path = number, CriticalPath()

    # -- between server and sites ------------------------------------------------------------------------------------

    def send_down(self, w: Weights, sites: Sequence[int], others: Mapping[str, Sequence[Tensor]]) -> None:
        """Send a model, and other tensors by name, from the server to these sites."""
        sizes = []
        for k in sites:  # weights cross, server to site
            size = self._model("down", k, w)
            sizes.append(size + sum(self._tensors("down", k, what, tensors) for what, tensors in others.items()))
        self.path.add_messages(sizes)

    def send_up(
        self, models: Weights, others: Callable[[int, int], Mapping[str, Sequence[Tensor]]], masked: bool = False
    ) -> None:
        """Send the models (m, ...) of sites to the server; others(row, site): other tensors of each site by name.

        masked: for a secure sum, see `show_masked`.
        """
        sizes = []
        for row, k in enumerate(models.owners):  # weights cross, site to server
            size = self._model("up", k, models[row], masked=masked)
            sizes.append(size + sum(self._tensors("up", k, what, each) for what, each in others(row, k).items()))
        self.path.add_messages(sizes)

    def send_tensor(self, tensor: Tensor, k: int, direction: str, what: str) -> Tensor:
        """Send a tensor between site k and the server; its copy, which is detached from the sender's graph."""
        arrived = tensor.detach().clone(memory_format=torch.preserve_format)
        self._deliver(Message(self.number, self.names[k], direction, SERVER, what, (arrived,)))
        return arrived

    # -- a travelling model, with the optimizer state that it carries ------------------------------------------------

    def hand_over(self, w: Weights, to: int) -> None:
        """Send the travelling model from its holder to a site."""
        sender, self.holder = self.holder, self.names[to]
        if sender != self.holder:
            direction = "down" if sender == SERVER else "peer"
            self.path.add_messages([self._model(direction, to, w, sender)])  # weights cross, site to site

    def hand_over_via_server(self, w: Weights, to: int) -> None:
        """Send the travelling model from its holder to the server, and from there to a site."""
        if self.holder != SERVER:
            sender = self.names.index(self.holder)
            self.path.add_messages([self._model("up", sender, w)])  # weights cross, site to server
        self.path.add_messages([self._model("down", to, w)])  # weights cross, server to site
        self.holder = self.names[to]

    # -- between sites -----------------------------------------------------------------------------------------------

    def gather_at(self, leader: int, models: Weights, masked: bool = False) -> None:
        """Send the models (m, ...) of sites to one of them; masked: for a secure sum."""
        sizes = [
            self._model("peer", leader, models[row], self.names[k], masked)  # weights cross, site to site
            for row, k in enumerate(models.owners)
            if k != leader
        ]
        self.path.add_messages(sizes, one_link=True)

    def publish(self, w: Weights, leader: int, sites: Sequence[int]) -> None:
        """Send the leader's model to other sites."""
        sizes = [self._model("peer", k, w, self.names[leader]) for k in sites if k != leader]  # site to site
        self.path.add_messages(sizes, one_link=True)

    def exchange(self, models: Weights, neighbours: Bools) -> None:
        """Send each site's model to each of its neighbours, (m, m)."""
        self.peers_exchanged, sizes = True, []
        for row, k in enumerate(models.owners):  # weights cross, site to site
            near = np.flatnonzero(neighbours[row]).tolist()
            sizes.append(sum(self._model("peer", k, models[j], self.names[models.owners[j]]) for j in near))
        self.path.add_messages(sizes)

    # -- messages ----------------------------------------------------------------------------------------------------

    def show_masked(self, k: int, integers: Tensor, models: Weights) -> None:
        """Show hooks what site k sent to a secure sum: integers modulo 2^bits, as many bytes as weights.

        models: those that are summed, of which the other side may hold a part.
        """
        if not self.hooks or self.names[k] not in self._masked:
            return
        message, layout = self._masked.pop(self.names[k])
        width = torch.int32 if models.vector.dtype == torch.float32 else torch.int64
        whole = replace(models[models.owners.index(k)].without_moments(), vector=integers.to(width))
        crossed = extract(whole, layout) if isinstance(layout, StageLayout) and layout is not whole.layout else whole
        self._show(replace(message, tensors=self.private.crossing(crossed)))

    def _model(self, direction: str, k: int, w: Weights, other: str = SERVER, masked: bool = False) -> int:
        """Send one model across site k's border, without its private parameters; its bytes."""
        nbytes = self.private.nbytes(w)
        tensors = self.private.crossing(w) if self.hooks and not masked else ()
        message = Message(self.number, self.names[k], direction, other, "weights", tensors)
        if not masked:
            return self._deliver(message, nbytes)
        if nbytes:
            self._masked[self.names[k] if other == SERVER else other] = message, w.layout
        return self._count(message, nbytes)

    def _tensors(self, direction: str, k: int, what: str, tensors: Sequence[Tensor]) -> int:
        """Send tensors across site k's border; of vectors over all parameters only the shared part. Their bytes."""
        if not tensors:
            return 0
        size, (_, shared) = self.private.layout.trained, self.private.places(self.private.layout)
        sent = tuple(t[..., shared] if t.shape[-1:] == (size,) else t for t in tensors) if self.hooks else ()
        counts = [t.numel() // size * len(shared) if t.shape[-1:] == (size,) else t.numel() for t in tensors]
        nbytes = sum(count * t.element_size() for count, t in zip(counts, tensors, strict=True))
        return self._deliver(Message(self.number, self.names[k], direction, SERVER, what, sent), nbytes)

    def _deliver(self, message: Message, nbytes: int | None = None) -> int:
        """Count a message and show it to hooks; its bytes. nbytes: given if its tensors were not assembled."""
        size = self._count(message, message.nbytes if nbytes is None else nbytes)
        if size:
            self._show(message)
        return size

    def _count(self, message: Message, nbytes: int) -> int:
        """Enter a message that is not empty in the ledger; its bytes."""
        if nbytes:
            self.ledger.record(message.round, message.site, message.direction, message.what, nbytes, message.other)
        return nbytes

    def _show(self, message: Message) -> None:
        """Call the hooks."""
        for hook in self.hooks:
            hook(message)
