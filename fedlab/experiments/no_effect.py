"""What had no effect in a run: settings, or all of its rounds."""

from collections import Counter
from collections.abc import Iterable

import torch

from fedlab.core.weights import Weights
from fedlab.federation import Ensemble, Federation, Localised, Model
from fedlab.federation.settings import FederationSettings

SYNCHRONOUS = ("participation", "availability", "stragglers", "failures")  # settings of common rounds


def never_changed(fed: Federation, models: Iterable[Model]) -> str | None:
    """Why the models after the last round are still the initial ones, in a sentence; None if one is not."""
    parts: list[Weights | Ensemble] = []
    for model in models:
        parts += [model.shared, model.sites] if isinstance(model, Localised) else [model]
    each = [(part.models if isinstance(part, Ensemble) else part).parameters for part in parts]
    changed = any(not torch.equal(w, fed.start.parameters.expand_as(w)) for w in each)
    if changed or fed.settings.lr == 0 or (fed.schedule.synchronous and fed.participation.impossible):
        return None  # of lr=0 and of impossible rounds the user knows
    counts = Counter(event for _, _, event, _ in fed.round_log.events)
    why = ", ".join(f"{count} times {event!r}" for event, count in counts.items()) or "no gradient reached a parameter"
    return (
        f"after {fed.round} rounds the models are still the initial ones ({why}; see run.events): let more sites"
        " take part, or use another aggregation rule"
    )


def unused_settings(fed: Federation) -> list[str]:
    """Settings that had no effect on this method, although models crossed."""
    settings, server = fed.settings, fed.server
    unused = {
        "aggregate": settings.aggregate != "mean" and not server.merged,
        "secure_sum": settings.secure_sum and not server.merged,
        "attack": bool(server.attack.sites) and not server.attack.flips_labels and not server.received,
        "target_scale": settings.target_scale != "pooled" and not fed.task.numeric,
        "local_optimizer": settings.local_optimizer != "reset" and not fed.optimizers.used,
        "watch_visits": settings.watch_visits and not fed.round_log.has_visits,
        "batchnorm": settings.batchnorm == "pooled" and not (server.merged or fed.channel.peers_exchanged),
    }
    fields = FederationSettings.model_fields
    for name in SYNCHRONOUS:
        unused[name] = getattr(settings, name) != fields[name].default and not fed.schedule.synchronous
    crossed = any(row[4] == "weights" for row in fed.ledger.rows)
    return [f"{name}={getattr(settings, name)!r}" for name, is_unused in unused.items() if is_unused and crossed]
