"""The bounds between which federation lives: all data in one place, no sharing at all, and voting."""

from collections.abc import Iterator

from fedlab.algorithms.registry import algorithm
from fedlab.core.registry import choose
from fedlab.federation import Ensemble, Federation, Round


@algorithm
def centralized(fed: Federation, match: str = "unit") -> Iterator[Round]:
    """One model on all sites' cases in one place, which no institution would allow: the upper bound.

    match="unit": the union of all cases as one site, in the experiment's unit of local work: `local_epochs` passes over
    all cases, or `local_steps` steps. "steps": as many optimizer steps in a round as one site makes (the mean over
    sites). "epochs": as many cases in a round as all sites together see. The optimizer runs on without a break between
    rounds.
    """
    steps = _budget(fed, match)
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s, together=False):
        s.w = fed.fit(s.w, r, at=fed.union, steps=steps, keep_optimizer=True)
        yield Round({"global": s.w})


def _budget(fed: Federation, match: str) -> int:
    """Optimizer steps in a round on the union."""
    choose("match", match, ("unit", "steps", "epochs"))
    each = [site.steps(fed.settings) for site in fed.sites]
    if match == "steps":
        return max(1, round(sum(each) / len(each)))
    if match == "epochs" and fed.settings.local_steps:
        return sum(each)
    return fed.union.steps(fed.settings)


@algorithm
def local(fed: Federation) -> Iterator[Round]:
    """Each site alone with its own cases: the model that federation has to beat.

    The same steps as in federated training; the optimizer runs on without a break between rounds.
    """
    s = fed.memory(w=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s, together=False):
        s.w = fed.fit(s.w, r, keep_optimizer=True)
        yield Round({"local": s.w})


@algorithm(reveals="the model of each")
def ensemble(fed: Federation, weighting: str = "uniform") -> Iterator[Round]:
    """The local models answer together: mean of their probabilities (Chang 2018, doi:10.1093/jamia/ocy017).

    weighting="uniform" or "cases" (n_k / N). The arithmetic mean of probabilities: a site that never saw a class does
    not veto it, as the mean of logits would. With one site this is `local`. Models travel once, after training, and
    whole, whatever `batchnorm` says.
    """
    fed.keep_nothing()
    shares = fed.site_weights(weighting)
    s = fed.memory(w=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s, together=False):
        s.w = fed.fit(s.w, r, keep_optimizer=True)
        yield Round({"global": Ensemble(fed.attacked(s.w.bare(), fed.start), shares)})
    fed.gather(s.w)
