"""Personalized methods: each site ends with a model of its own, or with its own part of a shared one.

The model that a site uses is its own if it has one, else the shared one. What `fed.keep` names never leaves a site; for
an institution that took no part it is the mean over sites, which in practice would have to be sent once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlab.algorithms.arguments import at_least, stable, whole, within
from fedlab.algorithms.averaging import fedavg
from fedlab.algorithms.registry import algorithm
from fedlab.core import stages
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights, toward
from fedlab.federation import Federation, Round
from fedlab.federation.participation import everybody


@algorithm
def finetune(fed: Federation, steps: int | None = None, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging, then each site trains the shared model a little further on its own cases.

    "global" is fedavg's model, "local" what each site makes of it by `steps` more steps (a round's by default; Li 2021
    took 40), anew from every evaluated round. steps = 0 would be fedavg. The further steps are beyond the budget.
    """
    if steps is not None:
        whole("steps", steps, 1)
    for outcome in fedavg(fed, weighting):
        if fed.due:
            shared = outcome.models["global"]
            assert isinstance(shared, Weights)
            everywhere = fed.here(shared, tuple(range(len(fed.sites))))
            calm = replace(fed.clock, turnout=everybody(len(fed.sites)))  # nobody waits for a straggler here
            tuned = fed.fit(replace(everywhere, sites=None), calm, steps=steps, private=True)
            outcome = Round({**outcome.models, "local": tuned})
        yield outcome


@algorithm
def fedbn(fed: Federation, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging of all but batch normalisation, which stays at the sites (Li 2021, arXiv:2102.07623).

    Found by the type of the layer. Without such layers it is fedavg. The same as batchnorm="fedbn" with any method.
    """
    fed.keep(fed.layout.mask("batchnorm", "mean", "variance"))
    return fedavg(fed, weighting)


@algorithm
def fedper(fed: Federation, personal: int = 1, weighting: str = "cases") -> Iterator[Round]:
    """A shared base and a personal head: the last `personal` stages stay (Arivazhagan 2019, arXiv:1912.00818).

    Both are trained together. personal = 0 is fedavg, all stages personal is local training.
    """
    fed.keep(_head(fed, personal))
    return fedavg(fed, weighting)


@algorithm
def lg_fedavg(fed: Federation, cut: int = 1, weighting: str = "cases") -> Iterator[Round]:
    """A personal base and a shared head: the stages before `cut` stay (Liang 2020, arXiv:2001.01523).

    The mirror image of fedper, and what splitfed(version=3) computes at the same cut. cut = 0 is fedavg. Departs:
    starts from common weights, not from locally trained ones.
    """
    whole("cut", cut, 0)
    fed.keep(stages.mask(fed.layout, 0, cut))
    return fedavg(fed, weighting)


@algorithm
def fedrep(
    fed: Federation, personal: int = 1, head_epochs: int = 10, base_epochs: int = 1, weighting: str = "cases"
) -> Iterator[Round]:
    """As fedper, but the personal head is trained first, then the shared base (Collins 2021, arXiv:2102.07078).

    The round's steps are shared out in the proportion head_epochs : base_epochs (10 : 1 in the paper), so that the
    budget is that of the other methods. What rests keeps its normalisation statistics, too.
    """
    whole("head_epochs", head_epochs, 0)
    whole("base_epochs", base_epochs, 1)
    head, share = _head(fed, personal), head_epochs / (head_epochs + base_epochs)
    fed.keep(head)
    _warn_of_resting_heads(fed, share)
    head = head.to(fed.device)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        headed = fed.fit(sent, r, part=(0.0, share), frozen=~head)
        back = fed.fit(headed, r, part=(share, 1.0), frozen=head)
        s.w = fed.merge(s.w, fed.gather(back), weighting)
        yield Round({"global": s.w})


@algorithm
def ditto(fed: Federation, lam: float = 0.1, steps: int | None = None, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging, and beside it personal models that are pulled towards the shared one (Li 2021).

    arXiv:2012.04221, Algorithm 1. v_k = v_k - lr (grad F_k(v_k) + lam (v_k - w)), `steps` of them in a round (a round's
    by default). The shared model is fedavg's for every lam; lam = 0 is local training beside it. Stable while lr * lam
    < 2. A site trains two models, so a round costs it twice the steps. Departs: weights of the mean by cases.
    """
    stable(fed, "lam", lam)
    s = fed.memory(w=fed.start, v=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        back = fed.fit(sent, r)
        mine, anchor = s.v.only(back.owners), sent.only(back.owners)
        s.v = s.v.put(fed.fit(mine, r, steps=steps, pull=(lam, anchor), private=True, keep_optimizer=True))
        s.w = fed.merge(s.w, fed.gather(back), weighting)
        yield Round({"global": s.w, "local": s.v})


@algorithm
def apfl(fed: Federation, alpha: float = 0.5, adaptive: bool = True, weighting: str = "cases") -> Iterator[Round]:
    """Personal models mixed with the shared one, alpha v_k + (1 - alpha) w_k, alpha learnt (Deng 2020).

    arXiv:2003.13461, Algorithm 1. In each step, with m = alpha v + (1 - alpha) w: w = w - lr grad F(w), v = v - lr
    alpha grad F(m), alpha = alpha - lr <v - w, grad F(m)>, kept in 0..1. alpha = 0, not adaptive, is fedavg; alpha = 1
    local training. Two passes a step. v takes plain SGD steps whatever the optimizer.
    """
    within("alpha", alpha, 0, 1)
    sites = len(fed.sites)
    learnt = torch.full((sites,), float(alpha), dtype=torch.float64, device=fed.device)
    s = fed.memory(w=fed.start, v=fed.start.expand(sites), alpha=learnt, mixed=fed.start.expand(sites))
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        mixture = Mixture(s.v.only(sent.owners).vector, s.alpha[list(sent.owners)], r.lr, adaptive)
        back = fed.fit(sent, r, rule=mixture)
        rows = [sent.owners.index(k) for k in back.owners]
        v, learnt = mixture.v[rows], mixture.alpha[rows]
        s.alpha = s.alpha.clone()
        s.alpha[list(back.owners)] = learnt
        share = learnt.to(v)[:, None]
        s.v = s.v.put(replace(back, vector=v))
        s.mixed = s.mixed.put(replace(back, vector=share * v + (1 - share) * back.vector))
        for k in back.owners:
            fed.log("alpha", s.alpha[k], fed.names[k])
        s.w = fed.merge(s.w, fed.gather(back), weighting)
        yield Round({"global": s.w, "local": s.mixed})


@dataclass
class Mixture:
    """APFL's step at m sites: v (m, size) and alpha (m,), in float64, are trained together with w."""

    v: Tensor
    alpha: Tensor
    lr: float
    adaptive: bool

    def __call__(self, w: Tensor, g: Tensor, grad: Callable[..., Tensor], rows: Tensor) -> Tensor:
        size, here = w.shape[1], self.v[rows]
        v, own, alpha = here[:, :size], here[:, size:], self.alpha[rows, None]
        share = alpha.to(w)
        slope = grad(share * v + (1 - share) * w, own, decay=True)
        towards = ((v - w) * slope).sum(1, keepdim=True)
        v.sub_(self.lr * share * slope)
        self.v[rows] = here
        if self.adaptive:
            self.alpha[rows] = (alpha - self.lr * towards.to(alpha)).clamp(0, 1)[:, 0]
        return g


@algorithm
def pfedme(
    fed: Federation, lam: float = 15.0, inner: int = 5, inner_lr: float | None = None, beta: float = 1.0,
    weighting: str = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Personal models near the shared one, which follows their Moreau envelopes (Dinh 2020).

    arXiv:2006.08848, Algorithm 1. In each step: `inner` steps of theta = theta - inner_lr (grad F_k(theta) + lam (theta
    - w)) on the same batch, then w = w - lr lam (w - theta); the server's w = (1 - beta) w + beta mean. With exact
    inner optima and one step a round the fixed point is the optimum of the mean envelope. inner_lr: that of the
    experiment unless given. theta goes on from step to step of a round, as in the authors' code. Stable while lr * lam
    < 2. Departs: sites that do not take part do not train; inner + 1 passes a step.
    """
    stable(fed, "lam", lam)
    whole("inner", inner, 1)
    within("beta", beta, 0, 2)
    if inner_lr is not None:
        at_least("inner_lr", inner_lr, 0)
    s = fed.memory(w=fed.start, theta=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        envelope = Envelope(lam, inner, r.lr if inner_lr is None else inner_lr, sent.parameters.clone())
        back = fed.fit(sent, r, rule=envelope, decays=fed.settings.optimizer == "adamw")  # else theta's gradient has it
        theta = envelope.theta[[sent.owners.index(k) for k in back.owners]]
        s.theta = s.theta.put(back.with_parameters(theta))
        back = fed.gather(back)
        if len(back):
            s.w = toward(s.w, fed.merge(s.w, back, weighting), beta)
        yield Round({"global": s.w, "local": s.theta})


@dataclass
class Envelope:
    """pFedMe's gradient at m sites: lam (w - theta), theta (m, P) the approximate minima near w, at first w."""

    lam: float
    inner: int
    lr: float
    theta: Tensor

    def __call__(self, w: Tensor, g: Tensor, grad: Callable[..., Tensor], rows: Tensor) -> Tensor:
        theta = self.theta[rows]
        for _ in range(self.inner):
            theta = theta - self.lr * (grad(theta, decay=True) + self.lam * (theta - w))
        self.theta[rows] = theta
        return self.lam * (w - theta)


def _warn_of_resting_heads(fed: Federation, share: float) -> None:
    """Say where rounds are so short that the head's share of their steps is none."""
    rests = [site.name for site in fed.sites if int(share * site.steps(fed.settings) + 1e-9) == 0]
    if share and rests:
        warn(
            f"fedrep: {share:.0%} of a round's steps are none at {', '.join(rests)}, so that the personal head is not"
            " trained there: use more local work or lower head_epochs"
        )


def _head(fed: Federation, personal: int) -> Tensor:
    """The coordinates (P + Q,) of the last `personal` stages that have parameters."""
    whole("personal", personal, 0)
    return stages.head(fed.layout, personal)
