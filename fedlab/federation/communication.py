"""The wire and the merge: everything that crosses an institution's border on behalf of a method."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.registry import choose
from fedlab.core.stages import Part, mask, take
from fedlab.core.weights import Weights, mix, stack
from fedlab.federation.channel import SERVER, Message
from fedlab.federation.local_training import Practice
from fedlab.federation.site_update import Corrections
from fedlab.federation.sites import RoundContext

TOGETHER = 2**28  # bytes that the models of all sites may take side by side where that is not needed


class Exchange(Practice):
    """A federation whose sites can exchange models.

    attackable: whether a method ever took models from sites. mixing: whether neighbours ever mixed theirs. weighting:
    that of the method's mean.
    """

    attackable = mixing = False
    weighting = "cases"

    def broadcast(self, w: Weights, **beside: Tensor) -> Weights:
        """One model to all sites of the round: a stack (m, ...). What stays at a site is the site's own there.

        beside: tensors that go with it to every site, counted under their names.
        """
        present, self.sent, sizes = self.turnout.present, w, []
        for k in present:  # weights cross, server to site
            sizes.append(self._pass("down", k, "weights", w.bare()))
            sizes[-1] += sum(self._pass_tensors("down", k, what, [t]) for what, t in beside.items())
            sizes[-1] += self._pass_tensors("down", k, "optimizer state", self.optimizers.crossing())
        self.wire.path.trip(sizes)
        return self.here(w, present)

    def gather(self, back: Weights, **beside: Tensor) -> Weights:
        """All sites' models to the server, as they arrive: a hostile site may send something else than it learnt.

        beside: tensors (m, ...) of which each site sends its own row.
        """
        arrived, sizes = self.attacked(back.bare(), self.sent), []
        kept = self.merger.enough(arrived, self.round)
        if self.settings.secure_sum:  # who would stand alone in a sum sends nothing
            arrived = kept
        for i, k in enumerate(arrived.owners):  # weights cross, site to server
            sizes.append(self._pass("up", k, "weights", arrived[i], masked=self.settings.secure_sum))
            sizes[-1] += sum(self._pass_tensors("up", k, what, [t[i]]) for what, t in beside.items())
            sizes[-1] += self._pass_tensors("up", k, "optimizer state", self.optimizers.crossing(k))
        self.optimizers.average(kept.owners, self._renormalised(kept.owners))
        self.wire.path.trip(sizes)
        return kept

    def hand_over(self, w: Weights, to: int) -> Weights:
        """One model, with the optimizer state that it carries, to the next site."""
        giver, self.holder = self.holder, self.names[to]
        if giver != self.holder:
            way = "down" if giver == SERVER else "peer"
            self.wire.path.trip([self._pass(way, to, "weights", w, giver)])  # weights cross, site to site
        return self.at_site(w, to)

    def to_server(self, w: Weights) -> None:
        """One travelling model from whoever holds it to the server."""
        if self.holder != SERVER:
            self.wire.path.trip([self._pass("up", self.names.index(self.holder), "weights", w)])
        self.holder = SERVER

    def from_server(self, w: Weights, to: int) -> Weights:
        """One travelling model from the server to a site."""
        self.wire.path.trip([self._pass("down", to, "weights", w)])  # weights cross, server to site
        self.holder = self.names[to]
        return self.at_site(w, to)

    def merge(
        self, w: Weights, back: Weights, weighting: str | NDArray[np.float64] = "cases", rule: str | None = None
    ) -> Weights:
        """The server's merge of what came back, by the rule of the settings (the mean, unless they say otherwise).

        w: the model that was sent out, which is returned where nothing came back. weighting: "cases" n_k / N over the
        sites that answered, "uniform", or the coefficients (m,) of their updates.
        """
        if self.merger.sees_all or self.attack.who:
            self.settle()  # robust rules and rings of integers cannot work on what diverged
        given = weighting if isinstance(weighting, np.ndarray) else self.weights(back.owners, weighting)
        return self.merger.merge(w, self.staying.hidden(back, w), given, self.round, rule, self._show_masked)

    def average(self, sent: Weights, r: RoundContext, weighting: str = "cases", **corrections: Any) -> Weights | None:
        """A round of averaging: sites train from the model that was broadcast, and the server merges what comes back.

        None where nothing came back. weighting: as in `merge`. corrections: see `fit`. The same as `fit`, `gather` and
        `merge`; but where models would take much memory together, and nobody needs to see them so, each is merged when
        it comes and let go.
        """
        answering = set(r.turnout.answering)
        who = tuple(k for k in sent.owners if k in answering)
        if self._side_by_side or len(who) * self.sent.nbytes <= TOGETHER:
            back = self.gather(self.fit(sent, r, **corrections))
            return self.merge(self.sent, back, weighting) if len(back) else None
        coefficients = self.weights(who, weighting)
        running = self.fit_running(sent, r, coefficients / coefficients.sum(), Corrections(**corrections))
        self.wire.path.trip([self._pass("up", k, "weights", self.sent.bare()) for k in who])
        total = float(coefficients.sum())
        return self.merger.settle(self.sent.bare(), running.mean(), who, coefficients / total, total, self.round)

    @property
    def _side_by_side(self) -> bool:
        """Whether somebody needs the sites' models side by side."""
        keeps = self.staying.any or self.settings.local_optimizer != "reset"
        seen = self.merger.sees_all or bool(self.attack.who) or bool(self.wire.taps)
        return keeps or seen or self.execution.beside is not None or self.execution.stackable

    def weights(self, who: tuple[int, ...], weighting: str = "cases") -> NDArray[np.float64]:
        """The coefficients (m,) of these sites' updates, as participation and weighting have them."""
        return self.attendance.weights(self.turnout, who, self.site_weights(weighting))

    def site_weights(self, weighting: str) -> NDArray[np.float64]:
        """The weight of every site in a mean, (K,): by cases n_k / N, or uniform 1 / K."""
        choose("weighting", weighting, ("cases", "uniform"))
        return self.shares if weighting == "cases" else np.full(len(self.sites), 1 / len(self.sites))

    def zeros(self, *rows: int) -> Tensor:
        """Zeros in the shape of the parameters of one model, (trained,), or of several, (rows, trained)."""
        return self.start.vector.new_zeros(*rows, self.layout.trained)

    def column(self, values: ArrayLike) -> Tensor:
        """Numbers (m,) as a column (m, 1) that multiplies the rows of a stack."""
        return to_device(np.asarray(values, np.float64), self.device).to(self.start.vector.dtype)[:, None]

    def shared(self, vectors: Tensor) -> Tensor:
        """Vectors (..., trained) with zeros in the coordinates that stay at sites."""
        leaves = self.staying.shared
        return vectors if leaves is None else vectors * leaves

    def meet(self, peers: Weights, leader: int, since: Weights) -> Weights:
        """The models of several sites to one of them, which leads: the stack that arrives there.

        since: the model that they last had in common.
        """
        arrived, masked = self.attacked(peers.bare(), since), self.settings.secure_sum
        sizes = [
            self._pass("peer", leader, "weights", arrived[i], self.names[k], masked)  # weights cross, site to site
            for i, k in enumerate(arrived.owners)
            if k != leader
        ]
        self.wire.path.trip(sizes, shared=True)
        return arrived

    def publish(self, w: Weights, who: Sequence[int], leader: int) -> Weights:
        """The leader's model to other sites: a stack (m, ...) of what it is there."""
        sizes = [
            self._pass("peer", k, "weights", w.bare(), self.names[leader])  # weights cross, site to site
            for k in who
            if k != leader
        ]
        self.wire.path.trip(sizes, shared=True)
        return self.here(w, tuple(who))

    def to_neighbours(self, peers: Weights, links: NDArray[np.bool_]) -> None:
        """Each site's model to each of its neighbours; links (m, m): who is whose."""
        self.mixing, sizes = True, []
        for i, k in enumerate(peers.owners):  # weights cross, site to site
            near = np.flatnonzero(links[i]).tolist()
            sizes.append(sum(self._pass("peer", k, "weights", peers[j], self.names[peers.owners[j]]) for j in near))
        self.wire.path.trip(sizes)

    def here(self, w: Weights, who: tuple[int, ...]) -> Weights:
        """A model as it is at each of these sites, with what stays there: a stack."""
        if self.staying.own is None or not who:
            return w.bare().expand(tuple(who))
        return stack([self.at_site(w.bare(), k) for k in who], who)

    def at_site(self, w: Weights, k: int) -> Weights:
        """A model as site k uses it: with what stays there."""
        return self.staying.at(w, k)

    def keep(self, coordinates: Tensor) -> None:
        """From now on these coordinates, bool (size,), of the model never leave a site."""
        self.staying.add(coordinates)

    def keep_part(self, part: Part) -> None:
        """From now on this part of the model never leaves a site."""
        for first, last in part.stages:
            self.keep(mask(self.layout, first, last))

    def keep_nothing(self) -> None:
        """Whole models leave the sites, whatever `batchnorm` says: for a method that answers with each of them."""
        self.staying.add_none()

    @property
    def shares_statistics(self) -> bool:
        """Whether the model has normalisation statistics that are estimated and leave the sites."""
        estimated = self.layout.mask("mean", "variance").to(self.staying.mask.device) & ~self.staying.mask
        return self.settings.batchnorm != "frozen" and bool(estimated.any())

    def recalibrate(self, w: Weights) -> Weights:
        """The model with the normalisation statistics of all sites that are there, which it visits without training.

        The same model where sites share no statistics.
        """
        if not self.shares_statistics:
            return w
        who, holder, found = self.turnout.answering, self.holder, []
        for k in who:
            here = self.hand_over(w.bare(), to=k)
            found.append(self._engine.recalibrate(here, list(self.sites[k].batches.sweep())))
        self.holder = holder  # training goes on from the model that was left there
        if not found:
            return w
        union = mix(stack(found).pooling(), self._renormalised(who))
        return Weights(self.layout, union.vector, union.counts)

    def attacked(self, arrived: Weights, since: Weights) -> Weights:
        """What arrives of honest models where some sites are hostile; since: the model that all started from."""
        self.attackable = True
        if self.attack.who and len(arrived):
            hostile = [self.names[k] for k in arrived.owners if k in self.attack.who]
            self.note("attack", f"{self.attack.name} by {', '.join(hostile) or 'nobody present'}")
            shares = self.weights(arrived.owners, self.weighting)
            turn = self.merger.turn(self.round)
            arrived = self.attack.apply(arrived, since, shares, self.settings.seed, self.round, turn)
        return self.staying.hidden(arrived, since)

    def _renormalised(self, who: tuple[int, ...]) -> NDArray[np.float64]:
        chosen = self.shares[list(who)]
        return chosen / chosen.sum() if len(who) else chosen

    def _pass(self, direction: str, k: int, what: str, w: Weights, other: str = SERVER, masked: bool = False) -> int:
        """Count one model that crosses site k's border; its bytes. masked: for a secure sum, see `_show_masked`."""
        tensors = self.staying.leaving(w) if self.wire.taps and not masked else ()
        message, nbytes = Message(self.round, self.names[k], direction, other, what, tensors), self.staying.nbytes(w)
        if masked and nbytes:
            self.wire.masked[self.names[k] if other == SERVER else other] = message, w.layout
            return self.wire.count(message, nbytes)
        return self.wire.pass_on(message, nbytes)

    def _show_masked(self, k: int, integers: Tensor, models: Weights) -> None:
        """Let the taps see what left site k for a secure sum: integers modulo 2^bits, as many bytes as weights.

        models: those that are summed; a part of them may have stayed on this side of the border.
        """
        if not self.wire.taps or self.names[k] not in self.wire.masked:
            return
        message, layout = self.wire.masked.pop(self.names[k])
        width = torch.int32 if models.vector.dtype == torch.float32 else torch.int64
        whole = replace(models[models.owners.index(k)].bare(), vector=integers.to(width))
        crossed = take(whole, layout) if isinstance(layout, Part) and layout is not whole.layout else whole
        self.wire.show(replace(message, tensors=self.staying.leaving(crossed)))

    def _pass_tensors(self, direction: str, k: int, what: str, tensors: Sequence[Tensor]) -> int:
        """Count tensors that cross site k's border; of those over all parameters only what does not stay at sites."""
        if not tensors:
            return 0
        size, (_, leaves) = self.layout.trained, self.staying.places(self.layout)
        sent = tuple(t[..., leaves] if t.shape[-1:] == (size,) else t for t in tensors) if self.wire.taps else ()
        numbers = [t.numel() // size * len(leaves) if t.shape[-1:] == (size,) else t.numel() for t in tensors]
        nbytes = sum(count * t.element_size() for count, t in zip(numbers, tensors, strict=True))
        return self.wire.pass_on(Message(self.round, self.names[k], direction, SERVER, what, sent), nbytes)
