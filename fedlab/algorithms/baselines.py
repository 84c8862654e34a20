"""The bounds between which federation lives: all data in one place, no sharing at all, and voting."""

from collections.abc import Iterator

from fedlab.algorithms.averaging import site_weights
from fedlab.algorithms.registry import algorithm, one_of
from fedlab.federation import Ensemble, Federation, Round


@algorithm
def centralized(fed: Federation, match: str = "steps") -> Iterator[Round]:
    """One model on all sites' cases in one place, which no institution would allow: the upper bound.

    match="steps": as many optimizer steps in a round as a site does (the mean over sites), the budget of one site's
    clock. match="epochs": as many cases as all sites together see, the budget of all sites' work. The optimizer runs
    on without a break between rounds.
    """
    one_of("match", match, ("steps", "epochs"))
    each = [site.steps(fed.settings) for site in fed.sites]
    steps = max(1, round(sum(each) / len(each))) if match == "steps" else _passes(fed, sum(each))
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        s.w = fed.fit(s.w, r, at=fed.union, steps=steps, keep_optimizer=True)
        yield Round({"global": s.w})


def _passes(fed: Federation, together: int) -> int:
    return together if fed.settings.local_steps else fed.union.steps(fed.settings)


@algorithm
def local(fed: Federation) -> Iterator[Round]:
    """Each site alone with its own cases: the model that federation has to beat.

    The same steps as in federated training; the optimizer runs on without a break between rounds.
    """
    s = fed.memory(w=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s):
        s.w = fed.fit(s.w, r, keep_optimizer=True)
        yield Round({"local": s.w})


@algorithm
def ensemble(fed: Federation, weighting: str = "uniform") -> Iterator[Round]:
    """The local models answer together: mean of their probabilities (Chang 2018, doi:10.1093/jamia/ocy017).

    weighting="uniform" or "cases" (n_k / N). The arithmetic mean of probabilities: a site that never saw a class does
    not veto it, as the mean of logits would. With one site this is `local`. Models travel once, after training.
    """
    shares = site_weights(fed, weighting)
    s = fed.memory(w=fed.start.expand(len(fed.sites)))
    for r in fed.rounds(s):
        s.w = fed.fit(s.w, r, keep_optimizer=True)
        yield Round({"global": Ensemble(s.w, shares)})
    fed.gather(s.w)
