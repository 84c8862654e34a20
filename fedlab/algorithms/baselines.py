"""Baselines without federation: all data in one place, no sharing at all, and an ensemble of local models."""

from collections.abc import Iterator
from typing import Literal

from fedlab.algorithms.arguments import Weighting
from fedlab.algorithms.registry import algorithm
from fedlab.federation import Ensemble, Federation, Round


@algorithm
def centralized(fed: Federation, match: Literal["unit", "steps", "epochs"] = "unit") -> Iterator[Round]:
    """One model on all sites' cases in one place, which no institution would allow: the upper bound.

    The optimizer keeps its state between rounds.

    Parameters
    ----------
    match : {"unit", "steps", "epochs"}, default "unit"
        Budget of a round. "unit": the union of all cases as one site, in the experiment's unit of local work:
        `local_epochs` passes over all cases, or `local_steps` steps. "steps": as many optimizer steps as one site
        makes (the mean over sites). "epochs": as many cases as all sites together see.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="centralized(match='epochs')").method
    "centralized(match='epochs')"
    """
    steps = _budget(fed, match)
    state = fed.memory(w=fed.start)
    for round in fed.rounds(state, synchronous=False):
        state.w = fed.fit(state.w, round, at=fed.union, steps=steps, keep_optimizer=True)
        yield Round({"global": state.w})


def _budget(fed: Federation, match: str) -> int:
    """Optimizer steps in a round on the union."""
    each = [site.steps(fed.settings) for site in fed.sites]
    if match == "steps":
        return max(1, round(sum(each) / len(each)))
    if match == "epochs" and fed.settings.local_steps:
        return sum(each)
    return fed.union.steps(fed.settings)


@algorithm
def local(fed: Federation) -> Iterator[Round]:
    """Each site alone with its own cases: the model that federation has to beat.

    The same steps as in federated training; the optimizer keeps its state between rounds.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="local").method
    'local'
    """
    state = fed.memory(w=fed.start.expand(len(fed.sites)))
    for round in fed.rounds(state, synchronous=False):
        state.w = fed.fit(state.w, round, keep_optimizer=True)
        yield Round({"local": state.w})


@algorithm(reveals="the model of each")
def ensemble(fed: Federation, weighting: Weighting = "uniform") -> Iterator[Round]:
    """Ensemble of the local models: the mean of their probabilities (Chang 2018).

    The arithmetic mean of probabilities: a site that never saw a class does not veto it, as a mean of logits would.
    With one site this is `local`. Models travel once, after training, and whole, also if `batchnorm` keeps a part of
    them at the sites.

    Parameters
    ----------
    weighting : {"uniform", "cases"}, default "uniform"
        Weights of the models: 1 / K or n_k / N.

    References
    ----------
    Chang et al. 2018, doi:10.1093/jamia/ocy017.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(method="ensemble(weighting='cases')").method
    "ensemble(weighting='cases')"
    """
    fed.private.clear()  # each site answers with its whole model
    shares = fed.site_weights(weighting)
    state = fed.memory(w=fed.start.expand(len(fed.sites)))
    for round in fed.rounds(state, synchronous=False):
        state.w = fed.fit(state.w, round, keep_optimizer=True)
        yield Round({"global": Ensemble(fed.server.receive(state.w.without_moments(), fed.start), shares)})
    fed.gather(state.w)
