"""What crosses an institution's border: counted where it crosses, open to inspection, timed along the critical path."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from fedlab.core.layout import Layout
from fedlab.engine.local_task import Usage

COLUMNS = ["round", "site", "direction", "other", "what", "bytes", "messages"]
SERVER = "server"
Key = tuple[int, str, str, str, str]


@dataclass(frozen=True)
class Message:
    """What one party hands to another. site: whose border it crosses; direction: down, up or peer; other: far end."""

    round: int
    site: str
    direction: str
    other: str
    what: str
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)


class Ledger:
    """Bytes and messages by round, site, direction, other end and content.

    down: server to site. up: site to server. peer: to the site from another one, whose border they crossed as well.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str, str, str, int, int]] = []
        self._place: dict[Key, int] = {}

    def record(
        self, number: int, site: str, direction: str, what: str, nbytes: int, other: str = SERVER, messages: int = 1
    ) -> None:
        """Add to the round's row of this kind."""
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
        return sum(row[5] for row in self._of(number) if site in (row[1], row[3]))

    def _of(self, number: int) -> Iterable[tuple]:
        for row in reversed(self.rows):
            if row[0] != number:
                return
            yield row

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=COLUMNS)


@dataclass
class Path:
    """The critical path of a round: what must happen one after the other, however many sites work at a time.

    steps: optimizer steps. messages: one-way trips. bytes: that pass the busiest link in each trip.
    """

    steps: int = 0
    messages: int = 0
    bytes: int = 0
    _seconds: list[Callable[[], float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of local training."""
        return sum(call() for call in self._seconds)

    def train(self, usages: Iterable[Usage]) -> None:
        """Sites that train side by side: the slowest counts."""
        each = list(usages)
        self.steps += max((usage.steps for usage in each), default=0)
        self._seconds.append(lambda: max((usage.seconds() for usage in each), default=0.0))

    def side_by_side(self, paths: Iterable["Path"]) -> None:
        """Several paths at the same time: the longest of each kind counts."""
        each = list(paths)
        for name in ("steps", "messages", "bytes"):
            setattr(self, name, getattr(self, name) + max((getattr(path, name) for path in each), default=0))
        self._seconds.append(lambda: max((path.seconds for path in each), default=0.0))

    def trip(self, nbytes: Iterable[int], shared: bool = False, beside: bool = False) -> None:
        """Messages that travel at the same time, each on its own link, or all on one (`shared`).

        beside: in one trip with what went before.
        """
        sizes = [size for size in nbytes if size]
        if sizes:
            self.messages += not beside
            self.bytes += sum(sizes) if shared else max(sizes)


@dataclass
class Channel:
    """The only way between institutions. Taps see every message; `path` is the present round's critical path.

    masked: site -> what left it for a secure sum, and its layout; the taps see it when it is summed.
    """

    ledger: Ledger = field(default_factory=Ledger)
    path: Path = field(default_factory=Path)
    taps: list[Callable[[Message], None]] = field(default_factory=list)
    masked: dict[str, tuple[Message, Layout]] = field(default_factory=dict)

    def pass_on(self, message: Message, nbytes: int | None = None) -> int:
        """Count a message and show it to the taps; its bytes. nbytes: where they are known without the tensors."""
        size = self.count(message, nbytes)
        if size:
            self.show(message)
        return size

    def count(self, message: Message, nbytes: int | None = None) -> int:
        """Enter a message in the ledger, unless it is empty; its bytes."""
        size = message.nbytes if nbytes is None else nbytes
        if size:
            self.ledger.record(message.round, message.site, message.direction, message.what, size, message.other)
        return size

    def show(self, message: Message) -> None:
        """Let the taps see a message."""
        for tap in self.taps:
            tap(message)

    def send(self, tensor: Tensor, number: int, site: str, direction: str, what: str, other: str = SERVER) -> Tensor:
        """What arrives of a tensor: its values, and nothing that leads back to where it was computed."""
        arrived = tensor.detach().clone(memory_format=torch.preserve_format)
        self.pass_on(Message(number, site, direction, other, what, (arrived,)))
        return arrived
