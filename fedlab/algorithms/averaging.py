"""Federated averaging and its family: sites train side by side, a server merges.

w is the shared model, `back` the stack (m, ...) of the sites' models that arrived, ascending by site. Each method is
fedavg with one thing changed: the server's step, the local gradient, or the weights of the mean. `fed.merge` is the
weighted mean unless the experiment names a robust rule. A round in which nobody answers changes nothing.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fedlab.algorithms.arguments import at_least, plain_sgd, stable, within
from fedlab.algorithms.formulas import Contrast, accumulated, simplex
from fedlab.algorithms.registry import algorithm
from fedlab.core.memory import to_device
from fedlab.core.registry import choose
from fedlab.core.weights import mix, stack, toward
from fedlab.federation import Federation, Round


@algorithm
def fedavg(fed: Federation, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging: sites train from the shared model, the server takes the mean (McMahan 2017).

    arXiv:1602.05629, Algorithm 1. weighting="cases": w = sum n_k/N w_k; "uniform": every site alike. One full-batch
    step a round is gradient descent. Departs: the optimizer begins afresh in every round, see `local_optimizer`.
    """
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        s.w = fed.average(fed.broadcast(s.w), r, weighting) or s.w
        yield Round({"global": s.w})


# -- the server's step ---------------------------------------------------------------------------------------------


@algorithm
def fedavgm(
    fed: Federation, beta: float = 0.9, server_lr: float = 1.0, nesterov: bool = False, weighting: str = "cases"
) -> Iterator[Round]:
    """Averaging with momentum at the server (Hsu 2019).

    arXiv:1909.06335. d = w - mean; v = beta v + d; w = w - server_lr v, or with nesterov, as the paper has it,
    w - server_lr (d + beta v). beta = 0 and server_lr = 1 is fedavg. The effective rate is server_lr / (1 - beta): with
    beta = 0.9 lower `lr` by up to ten times. Normalisation statistics have no momentum.
    """
    within("beta", beta, 0, 1, open_above=True)
    s = fed.memory(w=fed.start, v=fed.zeros())
    for r in fed.rounds(s):
        mean = fed.average(fed.broadcast(s.w), r, weighting)
        if mean is not None:
            d = s.w.parameters - mean.parameters
            s.v = beta * s.v + d
            s.w = mean.with_parameters(s.w.parameters - server_lr * (d + beta * s.v if nesterov else s.v))
        yield Round({"global": s.w})


@algorithm
def fedadam(
    fed: Federation, server_lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3,
    bias_correction: bool = False, v0: float = 0.0, weighting: str = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with Adam at the server (Reddi 2021).

    arXiv:2003.00295, Algorithm 2, with d = mean - w: m = beta1 m + (1 - beta1) d, v = beta2 v + (1 - beta2) d^2, w = w
    + server_lr m / (sqrt v + tau). beta1 = beta2 = 0 and server_lr = tau -> infinity is fedavg. The paper has no
    bias_correction and starts v at v0 >= tau^2, its code at 0.
    """
    return _adaptive(
        fed, lambda v, d2: beta2 * v + (1 - beta2) * d2, server_lr, (beta1, beta2), tau, bias_correction, v0, weighting
    )


@algorithm
def fedyogi(
    fed: Federation, server_lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3,
    v0: float = 0.0, weighting: str = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with Yogi at the server: its second moment grows and shrinks by steps (Reddi 2021).

    arXiv:2003.00295, Algorithm 2. v = v - (1 - beta2) d^2 sign(v - d^2); server_lr, beta1, tau, v0 as in fedadam,
    whose first round it shares.
    """
    return _adaptive(
        fed, lambda v, d2: v - (1 - beta2) * d2 * (v - d2).sign(), server_lr, (beta1, beta2), tau, False, v0, weighting
    )


@algorithm
def fedadagrad(
    fed: Federation, server_lr: float = 0.01, beta1: float = 0.0, tau: float = 1e-3, v0: float = 0.0,
    weighting: str = "cases",
) -> Iterator[Round]:  # fmt: skip
    """Averaging with Adagrad at the server: its steps only ever shrink (Reddi 2021).

    arXiv:2003.00295, Algorithm 2. v = v + d^2; server_lr, beta1, tau and v0 as in fedadam. The first round is
    server_lr d / (|d| + tau).
    """
    return _adaptive(fed, lambda v, d2: v + d2, server_lr, (beta1, 0.0), tau, False, v0, weighting)


def _adaptive(
    fed: Federation, second: Callable[[Tensor, Tensor], Tensor], server_lr: float, betas: tuple[float, float],
    tau: float, bias_correction: bool, v0: float, weighting: str,
) -> Iterator[Round]:  # fmt: skip
    """FedOpt, element by element; v by `second`."""
    for name, beta in zip(("beta1", "beta2"), betas, strict=True):
        within(name, beta, 0, 1, open_above=True)
    at_least("tau", tau, 0, strictly=True)
    s = fed.memory(w=fed.start, m=fed.zeros(), v=fed.zeros() + v0, t=0)
    for r in fed.rounds(s):
        mean = fed.average(fed.broadcast(s.w), r, weighting)
        if mean is not None:
            d = mean.parameters - s.w.parameters
            s.m, s.v, s.t = betas[0] * s.m + (1 - betas[0]) * d, second(s.v, d * d), s.t + 1
            m, v = (x / (1 - b**s.t) if bias_correction else x for x, b in zip((s.m, s.v), betas, strict=True))
            s.w = mean.with_parameters(s.w.parameters + server_lr * m / (v.sqrt() + tau))
        yield Round({"global": s.w})


# -- the local gradient --------------------------------------------------------------------------------------------


@algorithm
def fedprox(fed: Federation, mu: float = 0.01, weighting: str = "cases") -> Iterator[Round]:
    """Federated averaging with a pull mu/2 |w - w_global|^2 towards the shared model (Li 2020).

    arXiv:1812.06127, Algorithm 2. mu = 0, or one step a round, is fedavg. Stable while lr * mu < 2. With momentum the
    pull is part of the gradient. Partial work of stragglers counts, as in the paper.
    """
    stable(fed, "mu", mu)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        s.w = fed.average(sent, r, weighting, pull=(mu, sent)) or s.w
        yield Round({"global": s.w})


@algorithm(reveals="the control variate of each")
def scaffold(fed: Federation, option: int = 2, server_lr: float = 1.0, weighting: str = "cases") -> Iterator[Round]:
    """Averaging whose local steps are corrected by control variates, c - c_k (Karimireddy 2020).

    arXiv:1910.06378, Algorithm 1. option=2: c_k = c_k - c + (w - w_k) / (steps lr); option=1: the gradient of all the
    site's cases at w, one more pass. One site is plain SGD. The paper weighs sites uniformly; `weighting` sets the
    weights of model *and* variates, so that the fixed point is the optimum of the objective so weighted; server_lr of
    the way to the mean is taken. With momentum the mean applied rate takes the place of lr. Parameters only.
    """
    choose("option", option, (1, 2))
    plain_sgd(fed, "scaffold", "its control variates assume plain SGD; the mean applied rate is used")
    share = fed.column(fed.site_weights(weighting))
    s = fed.memory(w=fed.start, c=fed.zeros(), own=fed.zeros(len(fed.sites)))
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w, control=s.c)
        back = fed.fit(sent, r, shift=fed.shared(s.c - s.own[list(sent.owners)]))
        who = list(back.owners)
        if option == 1:
            _, new = fed.gradient(sent.only(back.owners))
        else:
            passed = r.lr * fed.column([accumulated(n, fed.settings.momentum) for n in fed.done])
            moved = sent.only(back.owners).parameters - back.parameters
            new = s.own[who] - s.c + moved / passed if r.lr else s.own[who]
        change = fed.shared(new - s.own[who])
        back = fed.gather(back, control=change)
        if len(back):
            s.c = s.c + (share[who] * change).sum(0)
            s.own = s.own.index_add(0, to_device(who, fed.device), change)
            s.w = toward(s.w, fed.merge(s.w, back, weighting), server_lr)
        yield Round({"global": s.w})


@algorithm(reveals="how much gradient each took in")
def fednova(fed: Federation, mu: float = 0.0, weighting: str = "cases") -> Iterator[Round]:
    """Averaging of updates per step, so that sites that take more steps do not count for more (Wang 2020).

    arXiv:2007.07481. w = w + tau sum p_k (w_k - w) / |a_k|, where |a_k| is how much gradient w_k has taken in, with
    momentum and pull `mu`, and tau its mean. Equal steps at all sites is fedavg (or fedprox).
    """
    stable(fed, "mu", mu)
    plain_sgd(fed, "fednova", "it counts SGD steps", momentum=True)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        back = fed.fit(sent, r, pull=(mu, sent))
        a = np.array([accumulated(n, fed.settings.momentum, r.lr * mu) for n in fed.done])
        back = fed.gather(back, normaliser=torch.as_tensor(a))
        if len(back):
            p = fed.weights(back.owners, weighting)
            tau = p / p.sum() @ (fed.done if mu else a)
            moved = fed.column(tau / a) * (back.parameters - s.w.parameters)
            s.w = fed.merge(s.w, back.with_parameters(s.w.parameters + moved), weighting)
        yield Round({"global": s.w})


@algorithm(reveals="the latest model of each", release="all")
def feddyn(fed: Federation, alpha: float = 0.1, weighting: str = "uniform", release: str = "cloud") -> Iterator[Round]:
    """Averaging whose local objectives are bent until their optima agree (Acar 2021).

    arXiv:2111.04263. Local gradient g - g_k + alpha (w_k - w); then g_k = g_k - alpha (w_k - w), h = h - alpha/K sum
    (w_k - w), w = mean w_k - h/alpha. The first round is 2 mean w_k - w. With exact local optima the fixed point is
    that of the uniform objective; weighting="cases" has alpha_k = alpha / (K n_k/N), for the one weighted by cases.
    release: "cloud" is w; "active" the mean of the round's sites; "all" that of all sites' latest models, which the
    authors plot. Unstable for small alpha with few, very different sites (watch "norm of h") and above lr * alpha = 2.
    """
    choose("release", release, ("cloud", "active", "all"))
    at_least("alpha", alpha, 0, strictly=True)
    each = alpha / (len(fed.sites) * fed.site_weights(weighting))
    stable(fed, "alpha", float(each.max()))
    latest = fed.start.expand(len(fed.sites)) if release == "all" else None
    s = fed.memory(w=fed.start, gone=fed.zeros(len(fed.sites)), h=fed.zeros(), latest=latest, released=fed.start)
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        here = list(sent.owners)
        back = fed.fit(sent, r, pull=(each[here], sent), shift=fed.column(each[here]) * s.gone[here])
        who = to_device(np.array(back.owners, np.int64), fed.device)
        moved = fed.shared(back.parameters - sent.only(back.owners).parameters)
        back = fed.gather(back)
        if len(back):
            s.gone = s.gone.index_add(0, who, moved)  # -g_k / alpha_k
            mean = fed.merge(s.w, back, np.full(len(back), 1 / len(back)))
            s.h = s.h + len(back) / len(fed.sites) * fed.shared(mean.parameters - s.w.parameters)  # -h / alpha
            s.w = mean.with_parameters(mean.parameters + s.h)
            s.latest = s.latest.put(back) if release == "all" else None
            s.released = {"cloud": s.w, "active": mean}.get(release) or mix(s.latest, fed.site_weights("uniform"))
        fed.log("norm of h", alpha * s.h.norm())
        yield Round({"global": s.released})


@algorithm
def moon(fed: Federation, mu: float = 1.0, temperature: float = 0.5, weighting: str = "cases") -> Iterator[Round]:
    """Averaging with a contrast: representations near the shared model's, far from the site's last one (Li 2021).

    arXiv:2103.16257. A representation is what enters the model's last stage; the paper projects it first:
    model="small_cnn(projection=256)". temperature: of the softmax. mu = 0 is fedavg; in a site's first round the
    contrast is ln 2 without gradient. Three forward passes. The last model is of the site's last round.
    """
    at_least("mu", mu, 0)
    at_least("temperature", temperature, 0, strictly=True)
    s = fed.memory(w=fed.start, previous=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s):
        sent = fed.broadcast(s.w)
        anchors = zip(fed.features(sent), fed.features(s.previous.only(sent.owners)), strict=True)
        back = fed.fit(sent, r, term=[Contrast(mu, temperature, near, far) for near, far in anchors])
        s.previous = s.previous.put(back)
        s.w = fed.merge(s.w, fed.gather(back), weighting)
        yield Round({"global": s.w})


@algorithm
def fedsam(fed: Federation, rho: float = 0.1, adaptive: float = 0.0, weighting: str = "cases") -> Iterator[Round]:
    """Averaging of models from flat places: gradients are taken where the loss is highest nearby (Qu 2022).

    arXiv:2206.02618, Caldarola 2022 arXiv:2203.11834. g at w + rho g/|g|, with the norm over all parameters. rho = 0 is
    fedavg. adaptive > 0: the neighbourhood grows with |w| + adaptive in weight tensors (FedASAM; 0.2 with rho = 0.7).
    Two passes a step. Normalisation statistics are those of the first.
    """
    at_least("rho", rho, 0)
    scales = fed.layout.mask("weight")[: fed.layout.trained].to(fed.device) if adaptive else None

    def sharp(w: Tensor, g: Tensor, grad: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        t = 1.0 if scales is None else torch.where(scales, w.abs() + adaptive, 1.0)
        return grad(w + rho * t * (t * g) / ((t * g).norm(dim=1, keepdim=True) + 1e-16))

    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        s.w = fed.average(fed.broadcast(s.w), r, weighting, rule=sharp) or s.w
        yield Round({"global": s.w})


# -- the weights of the mean ---------------------------------------------------------------------------------------


@algorithm(reveals="the loss of each")
def qfedavg(fed: Federation, q: float = 0.2) -> Iterator[Round]:
    """Averaging that counts sites with a high loss for more (Li 2020).

    arXiv:1905.10497, Algorithm 2. With F_k the loss of all training cases at w and L = 1/lr: w = w - sum F_k^q L (w -
    w_k) / sum [q F_k^(q-1) |L (w - w_k)|^2 + L F_k^q]. q = 0 is uniform fedavg. No robust rule reaches the sum.
    """
    at_least("q", q, 0)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        back = fed.fit(sent := fed.broadcast(s.w), r)
        loss = fed.losses(sent.only(back.owners)) + 1e-10
        back = fed.gather(back, loss=torch.as_tensor(loss))
        if len(back):
            moved = fed.shared(back.parameters.double() - s.w.parameters.double()).square().sum(1).cpu().numpy()
            step = loss**q + q * loss ** (q - 1) * moved / max(r.lr, 1e-300)
            s.w = fed.merge(s.w, back, loss**q / step.sum())
        yield Round({"global": s.w})


@algorithm(reveals="the loss of each")
def afl(fed: Federation, lambda_lr: float = 0.1, release: str = "average") -> Iterator[Round]:
    """Agnostic federated learning: weights of sites rise with their loss, for the worst mixture (Mohri 2019).

    arXiv:1902.00146. w = w - lr sum l_k grad F_k; l = projection to the simplex of l + lambda_lr F. lambda_lr = 0 is
    fedavg with uniform weights. release: "average" of all rounds, as in the paper, or the "last" model. Departs: local
    work is that of the experiment; one full-batch step a round is the paper's. Models cross in the place of gradients.
    """
    choose("release", release, ("average", "last"))
    at_least("lambda_lr", lambda_lr, 0)
    s = fed.memory(w=fed.start, weights=fed.site_weights("uniform"), average=fed.start, t=0)
    for r in fed.rounds(s):
        back = fed.fit(sent := fed.broadcast(s.w), r)
        loss = fed.losses(sent.only(back.owners))
        back = fed.gather(back, loss=torch.as_tensor(loss))
        if len(back):
            who = list(back.owners)
            share = s.weights[who]
            s.w = fed.merge(s.w, back, share / share.sum() if share.sum() else np.full(len(who), 1 / len(who)))
            raised = s.weights + lambda_lr * np.bincount(who, loss, len(s.weights))
            s.weights, s.t = simplex(raised), s.t + 1
            s.average = mix(stack([s.average, s.w]), [1 - 1 / s.t, 1 / s.t])
        yield Round({"global": s.average if release == "average" else s.w})
