"""Weight transfer: one model travels from site to site and trains at each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

import numpy as np

from fedlab.algorithms.registry import algorithm
from fedlab.core.rng import stream
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights
from fedlab.federation import Federation, Round, RoundContext

Order = Literal["fixed", "shuffled", "reversed", "by_size"]
Mitigation = Literal["iterations", "rate", "sampling", "loss"]
ORDERS, MITIGATIONS = get_args(Order), get_args(Mitigation)


def mitigations(mitigation: str | Sequence[str]) -> tuple[str, ...]:
    """The mitigations as a tuple; ValueError if they contradict each other."""
    chosen = (mitigation,) if isinstance(mitigation, str) else tuple(mitigation)
    for pair in ({"iterations", "rate"}, {"sampling", "loss"}):
        if pair <= set(chosen):
            raise ValueError(f"mitigation={mitigation!r}: {' and '.join(sorted(pair))} do the same, choose one of them")
    return chosen


Mitigations = Annotated[Mitigation | Sequence[Mitigation], mitigations]


@algorithm
def cyclic(
    fed: Federation, order: Order = "fixed", optimizer: Literal["travel", "reset"] = "travel",
    mitigation: Mitigations = (), release: Literal["last", "best"] = "last", recalibrate: bool = False,
) -> Iterator[Round]:  # fmt: skip
    """Cyclical weight transfer: one model visits the sites in turn, a round is one full cycle (Chang 2018).

    The model remembers its last site best: compare orders. With one site it is `local`. Sites that do not report are
    skipped.

    Parameters
    ----------
    order : {"fixed", "shuffled", "reversed", "by_size"}, default "fixed"
        Order of visits; "shuffled" draws a new one for each cycle, "by_size" starts with the largest site.
    optimizer : {"travel", "reset"}, default "travel"
        Whether the optimizer state travels with the weights, which is centralized SGD on the batches in the order of
        sites, or is reset at each site.
    mitigation : str or sequence of str, optional
        Compensate for unequal sites (Balachandar 2020; the equations are a reading of the abstract): "iterations"
        (steps in proportion to cases, which is the case anyway with `local_epochs`), "rate" (learning rate in
        proportion to cases, equal steps), "sampling" (batches in which classes are equally likely), "loss" (cases
        weighted by class), or several of them.
    release : {"last", "best"}, default "last"
        Evaluated model of a cycle: the last one, or the one with the best score on the validation cases of the site
        that it left. Training continues from the last (Sheller 2018).
    recalibrate : bool, default False
        Whether batch normalisation statistics are estimated in one more pass over all sites instead of at the last.

    References
    ----------
    Chang et al. 2018, doi:10.1093/jamia/ocy017; Sheller et al. 2018, PMC6589345; Balachandar et al. 2020,
    doi:10.1093/jamia/ocaa017.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="cyclic(order='shuffled')").method
    "cyclic(order='shuffled')"
    """
    chosen = mitigations(mitigation)
    if recalibrate and not fed.trainer.shares_statistics:
        warn(
            "recalibrate=True: nothing is recalibrated, because sites share no normalisation statistics with"
            f" batchnorm={fed.settings.batchnorm!r}"
        )
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state):
        left: dict[int, Weights] = {}
        for k in visits(fed, order, round):
            start = fed.hand_over(state.w, to=k)
            keep = optimizer == "travel"
            state.w = fed.fit(start, round, at=k, keep_optimizer=keep, **mitigated(fed, k, chosen))
            left[k] = state.w
            fed.record_visit(state.w, fed.names[k])
        evaluated = fed.schedule.evaluated
        released = best(fed, left) if release == "best" and left and evaluated else state.w
        if recalibrate and evaluated:
            released = fed.trainer.recalibrate(released, round.reporting)
        yield Round({"global": released})


@algorithm
def single_pass(
    fed: Federation, order: Order = "fixed", optimizer: Literal["travel", "reset"] = "travel"
) -> Iterator[Round]:
    """Single weight transfer: one model visits each site once and spends the site's whole budget there (Chang 2018).

    Institutional incremental learning (Sheller 2018). A round is as much work as one of `cyclic`, and with a single
    round the two are the same. Differences from the paper: no early stopping at a site; participation has no effect.

    Parameters
    ----------
    order : {"fixed", "shuffled", "reversed", "by_size"}, default "fixed"
        Order of visits, see `cyclic`.
    optimizer : {"travel", "reset"}, default "travel"
        Whether the optimizer state travels with the weights or is reset at each site.

    References
    ----------
    Chang et al. 2018, doi:10.1093/jamia/ocy017; Sheller et al. 2018, PMC6589345.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="single_pass(order='by_size')").method
    "single_pass(order='by_size')"
    """
    if fed.settings.patience is not None:
        raise ValueError("patience would end a single pass before every site was visited: leave it out")
    rounds, sites = fed.settings.rounds, len(fed.sites)
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state, synchronous=False):
        path = visits(fed, order, replace(round, number=1))
        for block in range((round.number - 1) * sites, round.number * sites):  # the work of one round
            stop, data_round = divmod(block, rounds)
            if data_round == 0:
                state.w = fed.hand_over(state.w if optimizer == "travel" else state.w.without_moments(), to=path[stop])
            context = replace(round, data_round=data_round + 1)
            state.w = fed.fit(state.w, context, at=path[stop], keep_optimizer=True)
        yield Round({"global": state.w})


def visits(fed: Federation, order: str, round: RoundContext) -> list[int]:
    """Reporting sites in the order of visits."""
    sites = list(range(len(fed.sites)))
    if order == "shuffled":
        sites = stream(fed.settings.seed, "order of visits", round.number).permutation(sites).tolist()
    elif order == "by_size":
        sites = np.argsort([-site.cases for site in fed.sites], kind="stable").tolist()
    elif order == "reversed":
        sites = sites[::-1]
    return [k for k in sites if k in round.reporting]


def mitigated(fed: Federation, k: int, chosen: Sequence[str]) -> dict[str, Any]:
    """Arguments of `fed.fit` at site k (Balachandar 2020).

    T is the mean over sites of a round's steps, K the number of sites. "iterations": round(T K n_k/N) steps, at least
    one. "rate": lr K n_k/N, in T steps. "sampling": case i with probability 1 / (C_k n_k,y). "loss": weighted by n_k /
    (C_k n_k,y), with C_k classes present. Sampling and loss optimise the balanced risk.
    """
    if {"sampling", "loss"} & set(chosen) and fed.task.name == "multilabel":
        raise ValueError("mitigation by 'sampling' or 'loss' needs one class for each case: use 'iterations' or 'rate'")
    if {"sampling", "loss"} & set(chosen) and fed.task.numeric:
        raise ValueError(
            "mitigation by 'sampling' or 'loss' weighs classes, and a regression has none: use 'iterations' or 'rate'"
        )
    site, share = fed.sites[k], len(fed.sites) * float(fed.shares[k])
    steps = sum(each.steps(fed.settings) for each in fed.sites) / len(fed.sites)
    arguments: dict[str, Any] = {}
    if "rate" in chosen:
        arguments |= {"rate": share, "steps": max(1, round(steps))}
    if "iterations" in chosen:
        arguments |= {"steps": max(1, round(steps * share))}
    if "sampling" in chosen:
        arguments |= {"batches": site.balanced}
    if "loss" in chosen:
        arguments |= {"weights": fed.trainer.case_weights(k)}
    return arguments


def best(fed: Federation, left: dict[int, Weights]) -> Weights:
    """Of the models as they left each site, the one with the best metric on that site's validation cases.

    The last one of equals, and if no site has such cases.
    """
    models = list(left.values())[::-1]
    scores = [fed.score(left[k], k) for k in reversed(left)]
    return models[0 if all(np.isnan(scores)) else int(np.nanargmax(scores))]
