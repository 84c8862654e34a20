"""Personalized methods: each site ends with its own model, or with its own part of a shared one.

The model that a site uses is its own if it has one, else the shared one. What `fed.keep_local` names never leaves a
site; for a site that took no part it is the mean over sites, which in practice would have to be sent once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from fedlab.algorithms.arguments import Weighting, stable
from fedlab.algorithms.averaging import fedavg
from fedlab.algorithms.registry import algorithm
from fedlab.core import stages
from fedlab.core.arguments import Bounds, Count, NotNegative, Share, Whole
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights, interpolate
from fedlab.federation import Federation, Round
from fedlab.federation.participation import all_sites


@algorithm
def finetune(fed: Federation, steps: Whole | None = None, weighting: Weighting = "cases") -> Iterator[Round]:
    """Federated averaging, then each site trains the shared model a little further on its own cases.

    "global" is fedavg's model, "local" what each site makes of it by further steps, which start again from the shared
    model in every evaluated round and are beyond the budget.

    Parameters
    ----------
    steps : int, optional
        Further steps, 1 or more; a round's by default. Li et al. (2021, arXiv:2012.04221) took 40.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="finetune(steps=40)").method
    'finetune(steps=40)'
    """
    sites = range(len(fed.sites))
    for outcome in fedavg(fed, weighting):
        round, shared = fed.schedule.context, outcome.models["global"]
        if fed.schedule.evaluated and round is not None:
            assert isinstance(shared, Weights)
            alone = replace(round, participants=all_sites(len(sites)))  # fine-tuning does not wait for stragglers
            start = replace(fed.at_sites(shared, sites), sites=None)
            outcome = Round({**outcome.models, "local": fed.fit(start, alone, steps=steps, private=True)})
        yield outcome


@algorithm
def fedbn(fed: Federation, weighting: Weighting = "cases") -> Iterator[Round]:
    """Federated averaging of everything but batch normalisation, which stays at the sites (Li 2021).

    Found by the type of the layer. Without such layers it is fedavg. The same as batchnorm="fedbn" with any method.

    Parameters
    ----------
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Li et al. 2021, arXiv:2102.07623.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedbn").method
    'fedbn'
    """
    fed.keep_local(fed.layout.mask("batchnorm", "mean", "variance"))
    return fedavg(fed, weighting)


@algorithm
def fedper(fed: Federation, personal: Count = 1, weighting: Weighting = "cases") -> Iterator[Round]:
    """A shared base and a personal head: the last stages stay at the sites (Arivazhagan 2019).

    Both are trained together. personal = 0 is fedavg, all stages personal is local training.

    Parameters
    ----------
    personal : int, default 1
        Number of last stages with parameters that stay at the sites.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Arivazhagan et al. 2019, arXiv:1912.00818.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedper(personal=1)").method
    'fedper(personal=1)'
    """
    fed.keep_local(_head(fed, personal))
    return fedavg(fed, weighting)


@algorithm
def lg_fedavg(fed: Federation, cut: Count = 1, weighting: Weighting = "cases") -> Iterator[Round]:
    """A personal base and a shared head: the first stages stay at the sites (Liang 2020).

    The mirror image of fedper, and what splitfed(version=3) computes at the same cut. cut = 0 is fedavg. Difference
    from the paper: it starts from common weights, not from locally trained ones.

    Parameters
    ----------
    cut : int, default 1
        Number of first stages that stay at the sites.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Liang et al. 2020, arXiv:2001.01523.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="lg_fedavg(cut=1)").method
    'lg_fedavg(cut=1)'
    """
    fed.keep_local(stages.mask(fed.layout, 0, cut))
    return fedavg(fed, weighting)


@algorithm
def fedrep(
    fed: Federation,
    personal: Count = 1,
    head_epochs: Count = 10,
    base_epochs: Whole = 1,
    weighting: Weighting = "cases",
) -> Iterator[Round]:
    """As fedper, but the personal head is trained first, then the shared base (Collins 2021).

    A round's steps are divided in the proportion head_epochs : base_epochs, so that the budget is that of the other
    methods. The part that is not trained keeps its normalisation statistics, too.

    Parameters
    ----------
    personal : int, default 1
        Number of last stages with parameters that stay at the sites.
    head_epochs : int, default 10
        Share of the steps that train the head, 0 or more.
    base_epochs : int, default 1
        Share of the steps that train the base, 1 or more. The paper has 10 : 1.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Collins et al. 2021, arXiv:2102.07078.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedrep(head_epochs=5)").method
    'fedrep(head_epochs=5)'
    """
    head, share = _head(fed, personal), head_epochs / (head_epochs + base_epochs)
    fed.keep_local(head)
    _warn_of_untrained_heads(fed, share)
    head = head.to(fed.device)
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        headed = fed.fit(sent, round, part=(0.0, share), frozen=~head)
        trained = fed.fit(headed, round, part=(share, 1.0), frozen=head)
        state.w = fed.merge(state.w, fed.gather(trained), weighting)
        yield Round({"global": state.w})


@algorithm
def ditto(
    fed: Federation, lam: NotNegative = 0.1, steps: Whole | None = None, weighting: Weighting = "cases"
) -> Iterator[Round]:
    """Federated averaging, and personal models that are pulled towards the shared one (Li 2021).

    Algorithm 1: v_k = v_k - lr (grad F_k(v_k) + lam (v_k - w)). The shared model is fedavg's for every lam; with lam =
    0 personal models are those of local training. Stable while lr * lam < 2. A site trains two models, so a round costs
    it twice the steps. Difference from the paper: weights of the mean by cases.

    Parameters
    ----------
    lam : float, default 0.1
        Strength of the pull, 0 or more.
    steps : int, optional
        Steps of the personal model in a round; those of the experiment by default.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Li et al. 2021, arXiv:2012.04221.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="ditto(lam=0.5)").method
    'ditto(lam=0.5)'
    """
    stable(fed, "lam", lam)
    state = fed.memory(w=fed.start, v=fed.start.expand(len(fed.sites)))
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        trained = fed.fit(sent, round)
        own, anchor = state.v.only(trained.owners), sent.only(trained.owners)
        own = fed.fit(own, round, steps=steps, pull=(lam, anchor), private=True, keep_optimizer=True)
        state.v = state.v.with_rows(own)
        state.w = fed.merge(state.w, fed.gather(trained), weighting)
        yield Round({"global": state.w, "local": state.v})


@algorithm
def apfl(fed: Federation, alpha: Share = 0.5, adaptive: bool = True, weighting: Weighting = "cases") -> Iterator[Round]:
    """Personal models mixed with the shared one, alpha v_k + (1 - alpha) w_k, with learned alpha (Deng 2020).

    Algorithm 1, in each step with m = alpha v + (1 - alpha) w: w = w - lr grad F(w), v = v - lr alpha grad F(m), alpha
    = alpha - lr <v - w, grad F(m)>, clipped to 0..1. Without adaptive, alpha = 0 is fedavg and alpha = 1 is local
    training. Two passes a step. v takes plain SGD steps with every optimizer.

    Parameters
    ----------
    alpha : float, default 0.5
        Initial share of the personal model, 0 to 1.
    adaptive : bool, default True
        Whether each site learns its alpha, which is logged as "alpha".
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Deng et al. 2020, arXiv:2003.13461.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="apfl(alpha=0.25)").method
    'apfl(alpha=0.25)'
    """
    sites = len(fed.sites)
    alphas = torch.full((sites,), float(alpha), dtype=torch.float64, device=fed.device)
    state = fed.memory(w=fed.start, v=fed.start.expand(sites), alpha=alphas, mixed=fed.start.expand(sites))
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        rule = MixedStep(state.v.only(sent.owners).vector, state.alpha[list(sent.owners)], round.lr, adaptive)
        trained = fed.fit(sent, round, rule=rule)
        rows = sent.rows(trained.owners)
        v, alphas = rule.v[rows], rule.alpha[rows]
        state.alpha = state.alpha.clone()
        state.alpha[list(trained.owners)] = alphas
        share = alphas.to(v)[:, None]
        state.v = state.v.with_rows(replace(trained, vector=v))
        state.mixed = state.mixed.with_rows(replace(trained, vector=share * v + (1 - share) * trained.vector))
        for k in trained.owners:
            fed.log("alpha", state.alpha[k], fed.names[k])
        state.w = fed.merge(state.w, fed.gather(trained), weighting)
        yield Round({"global": state.w, "local": state.mixed})


@dataclass
class MixedStep:
    """APFL's step at m sites: v (m, size) and alpha (m,), in float64, are trained together with w."""

    v: Tensor
    alpha: Tensor
    lr: float
    adaptive: bool

    def __call__(self, w: Tensor, g: Tensor, grad: Callable[..., Tensor], rows: Tensor) -> Tensor:
        size, personal = w.shape[1], self.v[rows]
        v, buffers, alpha = personal[:, :size], personal[:, size:], self.alpha[rows, None]
        share = alpha.to(w)
        slope = grad(share * v + (1 - share) * w, buffers, decay=True)
        towards = ((v - w) * slope).sum(1, keepdim=True)
        v.sub_(self.lr * share * slope)
        self.v[rows] = personal
        if self.adaptive:
            self.alpha[rows] = (alpha - self.lr * towards.to(alpha)).clamp(0, 1)[:, 0]
        return g


@algorithm
def pfedme(
    fed: Federation, lam: NotNegative = 15.0, inner: Whole = 5, inner_lr: NotNegative | None = None,
    beta: Annotated[float, Bounds(0, 2)] = 1.0,
    weighting: Weighting = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Personal models near the shared one, which follows their Moreau envelopes (Dinh 2020).

    Algorithm 1, in each step: `inner` steps of theta = theta - inner_lr (grad F_k(theta) + lam (theta - w)) on the same
    batch, then w = w - lr lam (w - theta); the server's w = (1 - beta) w + beta mean. With exact inner optima and one
    step a round the fixed point is the optimum of the mean envelope. theta continues from step to step of a round, as
    in the authors' code. Stable while lr * lam < 2. Difference from the paper: sites that do not take part do not
    train. inner + 1 passes a step.

    Parameters
    ----------
    lam : float, default 15.0
        Strength of the pull, 0 or more.
    inner : int, default 5
        Inner steps, 1 or more.
    inner_lr : float, optional
        Learning rate of inner steps, 0 or more; that of the round by default.
    beta : float, default 1.0
        Share of the way to the mean that the server goes, 0 to 2.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Dinh et al. 2020, arXiv:2006.08848.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="pfedme(lam=15.0)").method
    'pfedme(lam=15.0)'
    """
    stable(fed, "lam", lam)
    state = fed.memory(w=fed.start, theta=fed.start.expand(len(fed.sites)))
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        rule = MoreauStep(lam, inner, round.lr if inner_lr is None else inner_lr, sent.parameters.clone())
        decays = fed.settings.optimizer == "adamw"  # otherwise theta's gradient has the L2 term
        trained = fed.fit(sent, round, rule=rule, decays=decays)
        theta = rule.theta[sent.rows(trained.owners)]
        state.theta = state.theta.with_rows(trained.with_parameters(theta))
        arrived = fed.gather(trained)
        if len(arrived):
            state.w = interpolate(state.w, fed.merge(state.w, arrived, weighting), beta)
        yield Round({"global": state.w, "local": state.theta})


@dataclass
class MoreauStep:
    """pFedMe's gradient at m sites: lam (w - theta), with theta (m, P) the approximate minima near w, initially w."""

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


def _warn_of_untrained_heads(fed: Federation, share: float) -> None:
    """Warn if a round is so short that the head's share of its steps is less than one step."""
    untrained = [site.name for site in fed.sites if int(share * site.steps(fed.settings) + 1e-9) == 0]
    if share and untrained:
        warn(
            f"fedrep: {share:.0%} of a round's steps are none at {', '.join(untrained)}, so the personal head is not"
            " trained there: use more local steps or lower head_epochs"
        )


def _head(fed: Federation, personal: int) -> Tensor:
    """The coordinates (size,) of the last `personal` stages that have parameters."""
    return stages.head(fed.layout, personal)
