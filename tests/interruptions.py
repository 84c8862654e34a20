"""A run that is killed in the middle of a round."""

from fedlab.federation.round_log import RoundLog


class PowerCut(BaseException):
    pass


def interrupt(monkeypatch, after: int) -> None:
    """The power goes when the `after`-th training at a site is over."""
    calls, charge = [], RoundLog.record_training

    def stops(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == after:
            raise PowerCut
        return charge(self, *args, **kwargs)

    monkeypatch.setattr(RoundLog, "record_training", stops)
