"""What a run keeps of a federation after a round: its state, and the models to evaluate."""

from typing import Any

from fedlab.core.weights import Weights, stack
from fedlab.federation.federation import Federation
from fedlab.federation.rounds import Ensemble, Localised, Model


def snapshot(fed: Federation) -> dict[str, Any]:
    """The state after a round: the method's memory, what stays at sites, the holder of the model."""
    held = {"_own": fed.private.models, "_trained": fed.private.trained, "_holder": fed.channel.holder}
    return {**vars(fed.schedule.state), **held, "_optimizers": fed.optimizers.states}


def restore(fed: Federation, state: dict[str, Any]) -> None:
    """Continue from a snapshot."""
    fed.private.models, fed.private.trained = state.pop("_own"), state.pop("_trained")
    fed.optimizers.states, fed.channel.holder = state.pop("_optimizers"), state.pop("_holder")
    fed.schedule.restore(state)


def localised(fed: Federation, model: Weights | Ensemble) -> Model:
    """The model to evaluate: with the model of each site if parameters are private."""
    if isinstance(model, Ensemble):
        return Ensemble(model.models.without_moments(), model.shares)
    model = model.without_moments()
    if not fed.private.any or model.stacked or fed.union.name in fed.round_log.trained_sites:
        return model
    each = stack([fed.private.at(model, k) for k in range(len(fed.sites))])
    return Localised(fed.private.mean(model, fed.shares), each)
