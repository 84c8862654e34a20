"""Federated averaging and its family: sites train in parallel, a server merges their models.

In each method `state.w` is the shared model and `arrived` the stack (m, ...) of the sites' models that reached the
server, ascending by site. Each method is fedavg with one change: the server's step, the local gradient, or the weights
of the mean. `fed.merge` is the weighted mean unless the experiment names a robust rule. A round in which no site
reports changes nothing.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from fedlab.algorithms.arguments import Weighting, plain_sgd, stable
from fedlab.algorithms.formulas import Contrast, accumulated, simplex
from fedlab.algorithms.registry import algorithm
from fedlab.core.arguments import Bounds, Fraction, NotNegative, Positive
from fedlab.core.memory import to_device
from fedlab.core.weights import interpolate, stack, weighted_mean
from fedlab.federation import Federation, Round


@algorithm
def fedavg(fed: Federation, weighting: Weighting = "cases") -> Iterator[Round]:
    """Federated averaging: sites train from the shared model, the server takes the mean (McMahan 2017).

    Algorithm 1: w = sum p_k w_k. One full-batch step a round is gradient descent. Difference from the paper: the local
    optimizer is reset every round, see `local_optimizer`.

    Parameters
    ----------
    weighting : {"cases", "uniform"}, default "cases"
        Weights p_k of the mean: n_k / N, or 1 / K for every site.

    References
    ----------
    McMahan et al. 2017, arXiv:1602.05629.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedavg").method
    'fedavg'
    """
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        state.w = fed.average(fed.broadcast(state.w), round, weighting)
        yield Round({"global": state.w})


# -- the server's step -----------------------------------------------------------------------------------------------


@algorithm
def fedavgm(
    fed: Federation,
    beta: Fraction = 0.9,
    server_lr: NotNegative = 1.0,
    nesterov: bool = False,
    weighting: Weighting = "cases",
) -> Iterator[Round]:
    """Averaging with momentum at the server (Hsu 2019).

    With d = w - mean: v = beta v + d, w = w - server_lr v; with nesterov, as in the paper, w - server_lr (d + beta v).
    beta = 0 and server_lr = 1 is fedavg. The effective rate is server_lr / (1 - beta): with beta = 0.9 lower `lr` by up
    to ten times. Normalisation statistics have no momentum.

    Parameters
    ----------
    beta : float, default 0.9
        Server momentum, 0 to below 1.
    server_lr : float, default 1.0
        Learning rate of the server.
    nesterov : bool, default False
        Nesterov momentum.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Hsu et al. 2019, arXiv:1909.06335.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedavgm(beta=0.7)").method
    'fedavgm(beta=0.7)'
    """
    state = fed.memory(w=fed.start, v=fed.zeros())
    for round in fed.rounds(state):
        mean = fed.average(fed.broadcast(state.w), round, weighting)
        if mean is not state.w:  # updates arrived
            d = state.w.parameters - mean.parameters
            state.v = beta * state.v + d
            step = d + beta * state.v if nesterov else state.v
            state.w = mean.with_parameters(state.w.parameters - server_lr * step)
        yield Round({"global": state.w})


@algorithm
def fedadam(
    fed: Federation, server_lr: NotNegative = 0.01, beta1: Fraction = 0.9, beta2: Fraction = 0.99, tau: Positive = 1e-3,
    bias_correction: bool = False, v0: NotNegative = 0.0, weighting: Weighting = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with Adam at the server (Reddi 2021).

    Algorithm 2, with d = mean - w: m = beta1 m + (1 - beta1) d, v = beta2 v + (1 - beta2) d^2, w = w + server_lr m /
    (sqrt v + tau). beta1 = beta2 = 0 and server_lr = tau -> infinity is fedavg.

    Parameters
    ----------
    server_lr : float, default 0.01
        Learning rate of the server.
    beta1, beta2 : float, default 0.9 and 0.99
        Decay of the first and second moment, 0 to below 1.
    tau : float, default 1e-3
        Adaptivity, above 0: added to the root of the second moment.
    bias_correction : bool, default False
        Divide the moments by 1 - beta^t as Adam does. The paper does not.
    v0 : float, default 0.0
        Initial second moment. The paper has v0 >= tau^2, its code 0.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Reddi et al. 2021, arXiv:2003.00295.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedadam(server_lr=0.003)").method
    'fedadam(server_lr=0.003)'
    """
    return _adaptive(
        fed, lambda v, d2: beta2 * v + (1 - beta2) * d2, server_lr, (beta1, beta2), tau, bias_correction, v0, weighting
    )


@algorithm
def fedyogi(
    fed: Federation, server_lr: NotNegative = 0.01, beta1: Fraction = 0.9, beta2: Fraction = 0.99, tau: Positive = 1e-3,
    v0: NotNegative = 0.0, weighting: Weighting = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with Yogi at the server: its second moment grows and shrinks by bounded steps (Reddi 2021).

    Algorithm 2, as fedadam but v = v - (1 - beta2) d^2 sign(v - d^2). The first round is that of fedadam.

    Parameters
    ----------
    server_lr : float, default 0.01
        Learning rate of the server.
    beta1, beta2 : float, default 0.9 and 0.99
        Decay of the first and second moment, 0 to below 1.
    tau : float, default 1e-3
        Adaptivity, above 0.
    v0 : float, default 0.0
        Initial second moment.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Reddi et al. 2021, arXiv:2003.00295.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedyogi").method
    'fedyogi'
    """
    return _adaptive(
        fed, lambda v, d2: v - (1 - beta2) * d2 * (v - d2).sign(), server_lr, (beta1, beta2), tau, False, v0, weighting
    )


@algorithm
def fedadagrad(
    fed: Federation, server_lr: NotNegative = 0.01, beta1: Fraction = 0.0, tau: Positive = 1e-3, v0: NotNegative = 0.0,
    weighting: Weighting = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with Adagrad at the server: its steps can only shrink (Reddi 2021).

    Algorithm 2, as fedadam but v = v + d^2. With v0 = 0 the first round is server_lr d / (|d| + tau).

    Parameters
    ----------
    server_lr : float, default 0.01
        Learning rate of the server.
    beta1 : float, default 0.0
        Decay of the first moment, 0 to below 1.
    tau : float, default 1e-3
        Adaptivity, above 0.
    v0 : float, default 0.0
        Initial second moment.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Reddi et al. 2021, arXiv:2003.00295.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedadagrad").method
    'fedadagrad'
    """
    return _adaptive(fed, lambda v, d2: v + d2, server_lr, (beta1, 0.0), tau, False, v0, weighting)


def _adaptive(
    fed: Federation, second: Callable[[Tensor, Tensor], Tensor], server_lr: float, betas: tuple[float, float],
    tau: float, bias_correction: bool, v0: float, weighting: Weighting,
) -> Iterator[Round]:  # fmt: skip
    """FedOpt, for each parameter; second(v, d^2) is the new second moment."""
    state = fed.memory(w=fed.start, m=fed.zeros(), v=fed.zeros() + v0, t=0)
    for round in fed.rounds(state):
        mean = fed.average(fed.broadcast(state.w), round, weighting)
        if mean is not state.w:  # updates arrived
            d = mean.parameters - state.w.parameters
            state.m, state.v = betas[0] * state.m + (1 - betas[0]) * d, second(state.v, d * d)
            state.t, m, v = state.t + 1, state.m, state.v
            if bias_correction:
                m, v = m / (1 - betas[0] ** state.t), v / (1 - betas[1] ** state.t)
            state.w = mean.with_parameters(state.w.parameters + server_lr * m / (v.sqrt() + tau))
        yield Round({"global": state.w})


# -- the local gradient ----------------------------------------------------------------------------------------------


@algorithm
def fedprox(fed: Federation, mu: NotNegative = 0.01, weighting: Weighting = "cases") -> Iterator[Round]:
    """Federated averaging with a proximal term mu/2 |w - w_global|^2 that pulls towards the shared model (Li 2020).

    Algorithm 2. mu = 0, or one local step a round, is fedavg. Stable while lr * mu < 2. With momentum the pull is part
    of the gradient. Partial work of stragglers counts, as in the paper.

    Parameters
    ----------
    mu : float, default 0.01
        Strength of the proximal term, 0 or more.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Li et al. 2020, arXiv:1812.06127.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedprox(mu=0.01)").method
    'fedprox(mu=0.01)'
    """
    stable(fed, "mu", mu)
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        state.w = fed.average(sent, round, weighting, pull=(mu, sent))
        yield Round({"global": state.w})


@algorithm(reveals="the control variate of each")
def scaffold(
    fed: Federation, option: Literal[1, 2] = 2, server_lr: NotNegative = 1.0, weighting: Weighting = "cases"
) -> Iterator[Round]:
    """Averaging whose local steps are corrected by control variates, c - c_k (Karimireddy 2020).

    Algorithm 1. One site is plain SGD. The fixed point is the optimum of the objective that `weighting` describes.
    Differences from the paper: it weighs sites uniformly, here `weighting` sets the weights of model *and* variates;
    with momentum lr is replaced by the mean applied rate. Only parameters have variates. A secure sum is refused.

    Parameters
    ----------
    option : {1, 2}, default 2
        Control variate of a site after the round: 2 takes c_k - c + (w - w_k) / (steps lr), 1 the gradient of all of
        the site's cases at w, which costs one more pass.
    server_lr : float, default 1.0
        Share of the way to the mean that the server goes.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Karimireddy et al. 2020, arXiv:1910.06378.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="scaffold(option=1)").method
    'scaffold(option=1)'
    """
    plain_sgd(fed, "scaffold", "its control variates assume plain SGD; the mean applied rate is used")
    share = fed.column(fed.site_weights(weighting))
    state = fed.memory(w=fed.start, c=fed.zeros(), own=fed.zeros(len(fed.sites)))
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w, control=state.c)
        trained = fed.fit(sent, round, shift=fed.shared(state.c - state.own[list(sent.owners)]))
        sites = list(trained.owners)
        if option == 1:
            _, control = fed.gradient(sent.only(sites))
        else:
            rate = round.lr * fed.column([accumulated(steps, fed.settings.momentum) for steps in fed.trainer.steps])
            moved = sent.only(sites).parameters - trained.parameters
            control = state.own[sites] - state.c + moved / rate if round.lr else state.own[sites]
        change = fed.shared(control - state.own[sites])
        arrived = fed.gather(trained, control=change)
        if len(arrived):
            state.c = state.c + (share[sites] * change).sum(0)
            state.own = state.own.index_add(0, to_device(sites, fed.device), change)
            state.w = interpolate(state.w, fed.merge(state.w, arrived, weighting), server_lr)
        yield Round({"global": state.w})


@algorithm(reveals="how much gradient each took in")
def fednova(fed: Federation, mu: NotNegative = 0.0, weighting: Weighting = "cases") -> Iterator[Round]:
    """Averaging of updates per step, so that sites with more steps do not count for more (Wang 2020).

    w = w + tau sum p_k (w_k - w) / |a_k|, where |a_k| is the weight of a site's gradients in its update, with momentum
    and pull, and tau its mean. Equal steps at all sites are fedavg (fedprox with mu). A secure sum is refused.

    Parameters
    ----------
    mu : float, default 0.0
        Strength of a proximal term, as in `fedprox`.
    weighting : {"cases", "uniform"}, default "cases"
        Weights p_k, see `fedavg`.

    References
    ----------
    Wang et al. 2020, arXiv:2007.07481.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fednova").method
    'fednova'
    """
    stable(fed, "mu", mu)
    plain_sgd(fed, "fednova", "it counts SGD steps", momentum=True)
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        trained = fed.fit(sent, round, pull=(mu, sent))
        steps = fed.trainer.steps
        a = np.array([accumulated(each, fed.settings.momentum, round.lr * mu) for each in steps])
        arrived = fed.gather(trained, normaliser=torch.as_tensor(a))
        if len(arrived):
            p = fed.weights(arrived.owners, weighting)
            tau = p / p.sum() @ (steps if mu else a)
            moved = fed.column(tau / a) * (arrived.parameters - state.w.parameters)
            state.w = fed.merge(state.w, arrived.with_parameters(state.w.parameters + moved), weighting)
        yield Round({"global": state.w})


@algorithm(reveals="the latest model of each", release="all")
def feddyn(
    fed: Federation, alpha: Positive = 0.1, weighting: Weighting = "uniform",
    release: Literal["cloud", "active", "all"] = "cloud",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with dynamic regularisation: local objectives change until their optima agree (Acar 2021).

    Local gradient g - g_k + alpha (w_k - w); then g_k = g_k - alpha (w_k - w), h = h - alpha/K sum (w_k - w), w = mean
    w_k - h/alpha. The first round is 2 mean w_k - w. With exact local optima the fixed point is that of the objective
    that `weighting` describes. Unstable for small alpha with few, very different sites (see "norm of h" in run.rounds)
    and for lr * alpha above 2. A secure sum is refused with release="all".

    Parameters
    ----------
    alpha : float, default 0.1
        Strength of the regularisation, above 0.
    weighting : {"uniform", "cases"}, default "uniform"
        Weights p_k of the sites in the objective; "cases" uses alpha_k = alpha / (K p_k) with p_k = n_k / N.
    release : {"cloud", "active", "all"}, default "cloud"
        The evaluated model: w, the mean of the round's sites, or the mean of all sites' latest models, which the
        authors plot.

    References
    ----------
    Acar et al. 2021, arXiv:2111.04263.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="feddyn(alpha=0.1)").method
    'feddyn(alpha=0.1)'
    """
    alphas = alpha / (len(fed.sites) * fed.site_weights(weighting))
    stable(fed, "alpha", float(alphas.max()))
    latest = fed.start.expand(len(fed.sites)) if release == "all" else None
    state = fed.memory(w=fed.start, gone=fed.zeros(len(fed.sites)), h=fed.zeros(), latest=latest, released=fed.start)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        own = alphas[list(sent.owners)]
        trained = fed.fit(sent, round, pull=(own, sent), shift=fed.column(own) * state.gone[list(sent.owners)])
        rows = to_device(np.array(trained.owners, np.int64), fed.device)
        moved = fed.shared(trained.parameters - sent.only(trained.owners).parameters)
        arrived = fed.gather(trained)
        if len(arrived):
            state.gone = state.gone.index_add(0, rows, moved)  # -g_k / alpha_k
            mean = fed.merge(state.w, arrived, np.full(len(arrived), 1 / len(arrived)))
            state.h = state.h + len(arrived) / len(fed.sites) * fed.shared(mean.parameters - state.w.parameters)
            state.w = mean.with_parameters(mean.parameters + state.h)  # h is -h / alpha of the paper
            state.released = state.w if release == "cloud" else mean
            if release == "all":
                state.latest = state.latest.with_rows(arrived)
                state.released = weighted_mean(state.latest, fed.site_weights("uniform"))
        fed.log("norm of h", alpha * state.h.norm())
        yield Round({"global": state.released})


@algorithm
def moon(
    fed: Federation, mu: NotNegative = 1.0, temperature: Positive = 0.5, weighting: Weighting = "cases"
) -> Iterator[Round]:
    """Model-contrastive averaging: representations near the shared model's, far from the site's last one (Li 2021).

    A representation is the input of the model's last stage; the paper projects it first: model=
    "small_cnn(projection=256)". mu = 0 is fedavg; in a site's first round the contrast is ln 2 without gradient. Three
    forward passes a step. A site's last model is that of the last round in which it took part.

    Parameters
    ----------
    mu : float, default 1.0
        Weight of the contrastive loss, 0 or more.
    temperature : float, default 0.5
        Temperature of its softmax, above 0.
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Li et al. 2021, arXiv:2103.16257.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="moon(mu=5.0)").method
    'moon(mu=5.0)'
    """
    state = fed.memory(w=fed.start, previous=fed.start.expand(len(fed.sites)))
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        anchors = zip(fed.features(sent), fed.features(state.previous.only(sent.owners)), strict=True)
        trained = fed.fit(sent, round, term=[Contrast(mu, temperature, near, far) for near, far in anchors])
        state.previous = state.previous.with_rows(trained)
        state.w = fed.merge(state.w, fed.gather(trained), weighting)
        yield Round({"global": state.w})


@algorithm
def fedsam(
    fed: Federation, rho: NotNegative = 0.1, adaptive: NotNegative = 0.0, weighting: Weighting = "cases"
) -> Iterator[Round]:
    """Averaging of flat minima: gradients are taken where the loss nearby is highest (Qu 2022).

    Gradient at w + rho g/|g|, with the norm over all parameters. rho = 0 is fedavg. Two passes a step. Normalisation
    statistics are those of the first.

    Parameters
    ----------
    rho : float, default 0.1
        Radius of the neighbourhood, 0 or more.
    adaptive : float, default 0.0
        Above 0 the neighbourhood grows with |w| + adaptive in weight tensors (FedASAM; the paper has 0.2 with rho =
        0.7).
    weighting : {"cases", "uniform"}, default "cases"
        Weights of the mean, see `fedavg`.

    References
    ----------
    Qu et al. 2022, arXiv:2206.02618; Caldarola et al. 2022, arXiv:2203.11834.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="fedsam(rho=0.05)").method
    'fedsam(rho=0.05)'
    """
    scales = fed.layout.mask("weight")[: fed.layout.trained].to(fed.device) if adaptive else None

    def sharpest(w: Tensor, g: Tensor, grad: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        t = 1.0 if scales is None else torch.where(scales, w.abs() + adaptive, 1.0)
        return grad(w + rho * t * (t * g) / ((t * g).norm(dim=1, keepdim=True) + 1e-16))

    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        state.w = fed.average(fed.broadcast(state.w), round, weighting, rule=sharpest)
        yield Round({"global": state.w})


# -- the weights of the mean -----------------------------------------------------------------------------------------


@algorithm(reveals="the loss of each")
def qfedavg(fed: Federation, q: Annotated[float, Bounds(0, 100)] = 0.2) -> Iterator[Round]:
    """Fair averaging: sites with a high loss count for more (Li 2020).

    Algorithm 2, with F_k the loss of all training cases of a site at w and L = 1/lr: w = w - sum F_k^q L (w - w_k) /
    sum [q F_k^(q-1) |L (w - w_k)|^2 + L F_k^q]. q = 0 is fedavg with uniform weights. A secure sum is refused, and the
    length of the step is not robust.

    Parameters
    ----------
    q : float, default 0.2
        Fairness, 0 or more.

    References
    ----------
    Li et al. 2020, arXiv:1905.10497.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="qfedavg(q=1.0)").method
    'qfedavg(q=1.0)'
    """
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        trained = fed.fit(sent, round)
        loss = fed.losses(sent.only(trained.owners)) + 1e-10
        arrived = fed.gather(trained, loss=torch.as_tensor(loss))
        if len(arrived):
            update = fed.shared(arrived.parameters.double() - state.w.parameters.double())
            moved = update.square().sum(1).cpu().numpy()
            step = loss**q + q * loss ** (q - 1) * moved / max(round.lr, 1e-300)
            state.w = fed.merge(state.w, arrived, loss**q / step.sum())
        yield Round({"global": state.w})


@algorithm(reveals="the loss of each")
def afl(
    fed: Federation, lambda_lr: NotNegative = 0.1, release: Literal["average", "last"] = "average"
) -> Iterator[Round]:
    """Agnostic federated learning: weights of sites rise with their loss, for the worst mixture (Mohri 2019).

    w = w - lr sum l_k grad F_k; l = projection to the simplex of l + lambda_lr F. lambda_lr = 0 is fedavg with uniform
    weights. Differences from the paper: local work is that of the experiment, and one full-batch step a round is the
    paper's; models cross instead of gradients. A secure sum is refused.

    Parameters
    ----------
    lambda_lr : float, default 0.1
        Learning rate of the weights, 0 or more.
    release : {"average", "last"}, default "average"
        The evaluated model: the average over all rounds, as in the paper, or the last one.

    References
    ----------
    Mohri et al. 2019, arXiv:1902.00146.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="afl(lambda_lr=0.1)").method
    'afl(lambda_lr=0.1)'
    """
    state = fed.memory(w=fed.start, weights=fed.site_weights("uniform"), average=fed.start, t=0)
    for round in fed.rounds(state):
        sent = fed.broadcast(state.w)
        trained = fed.fit(sent, round)
        loss = fed.losses(sent.only(trained.owners))
        arrived = fed.gather(trained, loss=torch.as_tensor(loss))
        if len(arrived):
            sites = list(arrived.owners)
            share = state.weights[sites]
            shares = share / share.sum() if share.sum() else np.full(len(sites), 1 / len(sites))
            state.w = fed.merge(state.w, arrived, shares)
            raised = state.weights + lambda_lr * np.bincount(sites, loss, len(state.weights))
            state.weights, state.t = simplex(raised), state.t + 1
            state.average = weighted_mean(stack([state.average, state.w]), [1 - 1 / state.t, 1 / state.t])
        yield Round({"global": state.average if release == "average" else state.w})
