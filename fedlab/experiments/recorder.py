"""What a run writes down round by round, and what it needs to go on after it was killed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from fedlab.evaluation.evaluate import Evaluation, Models
from fedlab.evaluation.model_selection import Scores, Selection
from fedlab.experiments import checkpoint
from fedlab.federation import ALL, Federation, Round
from fedlab.federation.channel import Path as CriticalPath

ROUND_COLUMNS = ["round", "model", "site", "split", "metric", "value", "bytes", "steps", "samples", "seconds"]
CRITICAL = ("steps", "messages", "bytes")  # of a round's critical path


def trained_images(rounds: pd.DataFrame) -> int:
    """Training cases whose gradient was computed; every row of a round repeats those of its site."""
    return int(rounds.groupby(["round", "site"])["samples"].max().sum())


class Recorder:
    """Rounds, ledger and best models of a run, kept in the unfinished run folder `work`.

    After each round the rows are appended and the checkpoint is replaced as a whole; a run killed at any moment goes on
    from its last finished round.
    """

    def __init__(self, fed: Federation, work: Path) -> None:
        self.fed, self.work = fed, work
        self.evaluation = Evaluation(fed)
        sites = [site.name for site in fed.sites]
        counts = {site: len(self.evaluation.index[site, "val"]) for site in sites}
        self.selection = Selection(sites, fed.task.metrics[0], counts)
        self.rows: list[tuple] = []
        self.last: Models = {}
        self._written = dict.fromkeys(("rounds", "ledger", "events", "visits"), 0)
        if (work / "checkpoint.safetensors").is_file():
            self._resume()
        else:  # what a first round left that never finished
            for name in self._written:
                (work / f"{name}.jsonl").unlink(missing_ok=True)

    def add(self, outcome: Round) -> None:
        """Evaluate, select and store one round."""
        number = self.fed.round
        self.last = {name: self.fed.localised(model) for name, model in outcome.models.items()}
        self.rows += self._costs(number)
        self.fed.wire.path = CriticalPath()  # what still comes in this round is told by `conclude`
        if number % self.fed.settings.evaluate_every == 0 or number == self.fed.settings.rounds:
            scores = list(self.evaluation.scores(self.last))
            self.selection.consider(self.last, scores, number)
            self.rows += self._scored(number, scores)
        self._store()

    def conclude(self) -> None:
        """Add what crossed after the last round to that round."""
        fed, late = self.fed, {f"critical {name}": getattr(self.fed.wire.path, name) for name in CRITICAL}
        for place, row in enumerate(self.rows):
            if row[0] == fed.round:
                *about, value, nbytes, steps, samples, seconds = row
                nbytes = fed.ledger.bytes_of(fed.round, about[2]) if about[2] in fed.names else nbytes
                self.rows[place] = (*about, value + late.get(about[4], 0), nbytes, steps, samples, seconds)

    @property
    def stale(self) -> bool:
        return self.selection.stale(self.fed.settings.patience)

    def frame(self) -> pd.DataFrame:
        """The rounds so far, tidy."""
        return pd.DataFrame(self.rows, columns=ROUND_COLUMNS)

    def predictions(self) -> pd.DataFrame:
        """Case by case, of the last and of the best models."""
        last = self.evaluation.predictions(self.last, "last")
        if all(number == self.fed.round for number in self.selection.round.values()):
            return pd.concat([last, last.assign(choice="best")], ignore_index=True)
        return pd.concat([last, self.evaluation.predictions(self.selection.models, "best")], ignore_index=True)

    def _costs(self, number: int) -> list[tuple]:
        """Training loss of each site, with what the round cost it; then the measures of the round.

        Those are: how far updates point apart, the critical path, and what the method logged of sites or of itself.
        """
        model, path = next(iter(self.last)), self.fed.wire.path
        losses = [
            (number, model, site, "train", "loss", cost.loss, *self._cost(number, site))
            for site, cost in self.fed.costs.items()
        ]
        found = {(ALL, name): value for name, value in self.fed.updates.items()}
        found |= {(ALL, f"critical {name}"): getattr(path, name) for name in CRITICAL}
        took = {(ALL, "critical steps"): path.seconds}
        return losses + [
            (number, model, place[0], "train", place[1], float(value), 0, 0, 0, took.get(place, 0.0))
            for place, value in (found | self.fed.journal.numbers).items()
        ]

    def _scored(self, number: int, scores: Scores) -> list[tuple]:
        costs = {site: self._cost(number, site) for site in dict.fromkeys(score[1] for score in scores)}
        return [(number, *score, *costs[score[1]]) for score in scores]

    def _cost(self, number: int, site: str) -> tuple[int, int, int, float]:
        """(bytes, steps, samples, seconds) of a site in a round."""
        cost, nbytes = self.fed.costs.get(site), self.fed.ledger.bytes_of(number, site)
        return (nbytes, cost.steps, cost.samples, cost.seconds) if cost else (nbytes, 0, 0, 0.0)

    def _store(self) -> None:
        for name, rows in self._tables().items():
            self._append(name, rows)
        chosen = dict(vars(self.selection))
        state = {"memory": self.fed.snapshot(), "last": self.last, "selection": chosen, "written": self._written}
        checkpoint.save(self.work / "checkpoint.safetensors", state)

    def _tables(self) -> dict[str, list]:
        """Everything that grows by rows."""
        journal = self.fed.journal
        return {
            "rounds": self.rows,
            "ledger": self.fed.ledger.rows,
            "events": journal.events,
            "visits": journal.visits,
        }

    def _append(self, name: str, rows: Sequence[tuple]) -> None:
        fresh = rows[self._written[name] :]
        with (self.work / f"{name}.jsonl").open("a") as file:
            file.writelines(json.dumps(row, default=_plain) + "\n" for row in fresh)
        self._written[name] = len(rows)

    def _resume(self) -> None:
        fed = self.fed
        try:
            state = checkpoint.load(self.work / "checkpoint.safetensors", fed.layout, fed.device)
        except (SafetensorError, ValueError) as error:
            raise self._damaged(f"checkpoint.safetensors: {error}") from error
        self._written, self.last = state["written"], state["last"]
        self.selection = Selection(**state["selection"])
        for name, rows in self._tables().items():
            rows[:] = self._kept(name)
        fed.restore(state["memory"])
        if self.stale:
            fed.halt()

    def _kept(self, name: str) -> list[Any]:
        """The rows that the checkpoint knows of; what a killed round appended is cut off."""
        path, scratch = self.work / f"{name}.jsonl", self.work / f"{name}.writing"
        lines = path.read_text().splitlines()[: self._written[name]] if path.exists() else []
        if len(lines) < self._written[name]:
            raise self._damaged(f"{path.name} holds {len(lines)} of {self._written[name]} rows")
        scratch.write_text("".join(line + "\n" for line in lines))
        scratch.replace(path)
        return [tuple(json.loads(line)) for line in lines]

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.work} is damaged ({what}): remove it and run the experiment again")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no plain value")
