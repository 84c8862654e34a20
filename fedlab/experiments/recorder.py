"""Record a run round by round, and resume a run that was interrupted."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.files import DamagedError
from fedlab.evaluation.evaluate import Evaluation, Models
from fedlab.evaluation.model_selection import Scores, Selection
from fedlab.experiments import checkpoint
from fedlab.federation import ALL, Federation, Round
from fedlab.federation.run_state import localised, restore, snapshot

ROUND_COLUMNS = ["round", "model", "site", "split", "metric", "value", "bytes", "steps", "samples", "seconds"]
CHECKPOINT = "checkpoint.pt"
FORMER_CHECKPOINT = "checkpoint.safetensors"
Row = tuple[Any, ...]
CRITICAL = ("steps", "messages", "bytes")  # of a round's critical path


def trained_images(rounds: pd.DataFrame) -> int:
    """Training cases whose gradient was computed; every row of a round repeats the number of its site."""
    return int(rounds.groupby(["round", "site"])["samples"].max().sum())


class Recorder:
    """Rounds, ledger and best models of a run, stored in the unfinished run folder `work`.

    After each round the rows are appended and the checkpoint is replaced as a whole, so that a run that is killed at
    any moment resumes after its last finished round. The checkpoint holds checksums of the rows.
    """

    def __init__(self, fed: Federation, work: Path) -> None:
        self.fed, self.work = fed, work
        self.evaluation = Evaluation(fed)
        sites = [site.name for site in fed.sites]
        counts = {site: len(self.evaluation.index[site, "val"]) for site in sites}
        self.selection = Selection(sites, fed.task.metrics[0], counts)
        self.rows: list[Row] = []
        self.last: Models = {}
        self._written = dict.fromkeys(("rounds", "ledger", "events", "visits"), 0)
        self._digests = {name: hashlib.blake2b(digest_size=16) for name in self._written}  # of the rows written
        if (work / FORMER_CHECKPOINT).is_file():
            raise ValueError(
                f"{work} holds an interrupted run of an earlier fedlab, whose checkpoint this one cannot read: finish"
                " it with the fedlab that began it, or remove the folder and run the experiment again"
            )
        if (work / CHECKPOINT).exists():
            self._resume()
        else:  # remove rows of a first round that was interrupted
            for name in self._written:
                (work / f"{name}.jsonl").unlink(missing_ok=True)

    def add(self, outcome: Round) -> None:
        """Evaluate, select and store one round."""
        number = self.fed.round
        self.last = {name: localised(self.fed, model) for name, model in outcome.models.items()}
        self.rows += self._costs(number)
        self.fed.channel.begin(number)  # later messages of this round are added by `conclude`
        if number % self.fed.settings.evaluate_every == 0 or number == self.fed.settings.rounds:
            scores = list(self.evaluation.scores(self.last))
            self.selection.consider(self.last, scores, number)
            self.rows += self._scored(number, scores)
        self._store()

    def conclude(self) -> None:
        """Add messages that were sent after the last round to that round."""
        fed, late = self.fed, {f"critical {name}": getattr(self.fed.channel.path, name) for name in CRITICAL}
        crossed, names = fed.ledger.bytes_by_site(fed.round), set(fed.names)
        for place, row in enumerate(self.rows):
            if row[0] == fed.round:
                *about, value, nbytes, steps, samples, seconds = row
                nbytes = crossed.get(about[2], 0) if about[2] in names else nbytes
                self.rows[place] = (*about, value + late.get(about[4], 0), nbytes, steps, samples, seconds)

    @property
    def stale(self) -> bool:
        return self.selection.stale(self.fed.settings.patience)

    def frame(self) -> pd.DataFrame:
        """The rounds so far, as in `run.rounds`."""
        return pd.DataFrame(self.rows, columns=ROUND_COLUMNS)

    def predictions(self) -> pd.DataFrame:
        """Predictions case by case, of the last and of the best models."""
        last = self.evaluation.predictions(self.last, "last")
        if all(number == self.fed.round for number in self.selection.round.values()):
            return pd.concat([last, last.assign(choice="best")], ignore_index=True)
        return pd.concat([last, self.evaluation.predictions(self.selection.models, "best")], ignore_index=True)

    def _costs(self, number: int) -> list[Row]:
        """Rows of the training loss and cost of each site, then of the measures of the round.

        The measures are those of `engine.update_statistics`, the critical path, and values that the method logged.
        """
        model, path = next(iter(self.last)), self.fed.channel.path
        crossed = self.fed.ledger.bytes_by_site(number)
        losses = [
            (number, model, site, "train", "loss", cost.loss, *self._cost(crossed, site))
            for site, cost in self.fed.round_log.costs.items()
        ]
        found = {(ALL, name): value for name, value in self.fed.round_log.updates.items()}
        found |= {(ALL, f"critical {name}"): getattr(path, name) for name in CRITICAL}
        seconds = {(ALL, "critical steps"): path.seconds}
        return losses + [
            (number, model, place[0], "train", place[1], float(value), 0, 0, 0, seconds.get(place, 0.0))
            for place, value in (found | self.fed.round_log.numbers).items()
        ]

    def _scored(self, number: int, scores: Scores) -> list[Row]:
        crossed = self.fed.ledger.bytes_by_site(number)
        costs = {site: self._cost(crossed, site) for site in dict.fromkeys(score[1] for score in scores)}
        return [(number, *score, *costs[score[1]]) for score in scores]

    def _cost(self, crossed: dict[str, int], site: str) -> tuple[int, int, int, float]:
        """The cost of a round for a site: (bytes, steps, samples, seconds); crossed: bytes of each site."""
        cost, nbytes = self.fed.round_log.costs.get(site), crossed.get(site, 0)
        return (nbytes, cost.steps, cost.samples, cost.seconds) if cost else (nbytes, 0, 0, 0.0)

    def _store(self) -> None:
        for name, rows in self._tables().items():
            self._append(name, rows)
        state = {
            "run": self.work.name,
            "memory": snapshot(self.fed),
            "last": self.last,
            "selection": dict(vars(self.selection)),
            "written": self._written,
            "digests": {name: digest.hexdigest() for name, digest in self._digests.items()},
            "execution": sorted(self.fed.execution.used),
        }
        checkpoint.save(self.work / CHECKPOINT, state)

    def _tables(self) -> dict[str, list[Row]]:
        """All tables that grow by rows."""
        log = self.fed.round_log
        return {
            "rounds": self.rows,
            "ledger": self.fed.ledger.rows,
            "events": log.events,
            "visits": log.visits,
        }

    def _append(self, name: str, rows: Sequence[Row]) -> None:
        added = "".join(json.dumps(row, default=_plain) + "\n" for row in rows[self._written[name] :]).encode()
        with (self.work / f"{name}.jsonl").open("ab") as file:
            file.write(added)
        self._digests[name].update(added)
        self._written[name] = len(rows)

    def _resume(self) -> None:
        fed = self.fed
        try:
            state = checkpoint.load(self.work / CHECKPOINT, fed.layout, fed.device)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        try:
            if state.get("run", self.work.name) != self.work.name:
                raise ValueError(f"it belongs to {state['run']}")
            self._written, self.last = state["written"], state["last"]
            self.selection = Selection(**state["selection"])
            for name, rows in self._tables().items():
                rows[:] = self._read_rows(name, state.get("digests", {}).get(name))
            restore(fed, state["memory"])
            fed.execution.used |= set(state.get("execution", ()))
        except DamagedError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise self._damaged(f"{CHECKPOINT} holds something else: {error!r}") from error
        if self.stale:
            fed.schedule.stop()

    def _read_rows(self, name: str, digest: str | None) -> list[Any]:
        """Read the rows up to the checkpoint, and cut off those that an interrupted round appended.

        digest: checksum of these rows; None in checkpoints of earlier versions.
        """
        path, scratch = self.work / f"{name}.jsonl", self.work / f"{name}.writing"
        try:
            lines = path.read_bytes().splitlines()[: self._written[name]]
        except OSError:
            lines = []
        if len(lines) < self._written[name]:
            raise self._damaged(f"{path.name} holds {len(lines)} of {self._written[name]} rows")
        content = b"".join(line + b"\n" for line in lines)
        self._digests[name].update(content)
        if digest not in (None, self._digests[name].hexdigest()):
            raise self._damaged(f"the rows in {path.name} are not those that were stored")
        try:
            rows = [tuple(json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"{path.name}: {error}") from None
        scratch.write_bytes(content)
        scratch.replace(path)
        return rows

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self.work} is damaged ({what}): remove it and run the experiment again")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be stored: log numbers, text, True, False or None")
