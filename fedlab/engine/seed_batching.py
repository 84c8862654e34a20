"""Runs that go on in step: each until it asks for training or predictions, which all are then given at once.

Runs that differ only in their seed ask for the same at the same time, so that twenty runs of eight sites are one stack
of 160 models. One run moves at a time, in its own thread; what they come to does not depend on who is how fast.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlab.core.weights import Weights
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.dispatch import Done, Execution
from fedlab.engine.local_task import LocalJob, LocalTask, Named, Trained
from fedlab.engine.loop import StoppedError
from fedlab.engine.threads import threads_for


@dataclass(kw_only=True)
class Request:
    """What a run asks for, and in the end the answer or why there is none."""

    execution: Execution
    answer: Any = None
    error: Exception | None = None


@dataclass
class TrainingRequest(Request):
    """These jobs, see `Execution.train`."""

    jobs: Sequence[LocalJob]
    named: Named
    done: Done


@dataclass
class PredictionRequest(Request):
    """Of each model for its cases, see `Execution.predict`."""

    asked: Sequence[tuple[Weights, NDArray[np.int64]]]


class LockstepRun:
    """A run among others. Its methods are for its own thread, except those that begin with an underscore."""

    def __init__(self, meeting: "LockstepScheduler", call: Callable[["LockstepRun"], Any]) -> None:
        self.meeting, self._call = meeting, call
        self._asked: Any = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._over = self._moving = self._stopped = False
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="fedlab run", daemon=True)

    def train(self, execution: Execution, jobs: Sequence[LocalJob], named: Named, done: Done) -> list[Trained]:
        """As `Execution.train`."""
        return self._ask(TrainingRequest(jobs, named, done, execution=execution))

    def predict(
        self, execution: Execution, asked: Sequence[tuple[Weights, NDArray[np.int64]]]
    ) -> list[NDArray[np.float64]]:
        """As `Execution.predict`."""
        return self._ask(PredictionRequest(asked, execution=execution))

    def _ask(self, asked: Any) -> Any:
        self._asked = asked
        self._theirs.release()
        self._mine.acquire()
        if self._stopped:
            raise StoppedError("the run was stopped")
        if asked.error is not None:
            raise asked.error
        return asked.answer

    def _run(self) -> None:
        try:
            self._result = self._call(self)
        except BaseException as error:
            self._error = error
        finally:
            self._over = True
            self._theirs.release()

    def _move(self) -> None:
        """Let it go on until it asks for something or is over."""
        self._moving = True
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._mine.release()
        self._theirs.acquire()
        self._moving = False

    def _stop(self) -> None:
        """End it where it asks next."""
        if self._thread.ident is None:
            return
        if self._moving:
            self._theirs.acquire()
        self._stopped = True
        self._mine.release()
        self._thread.join()


class LockstepScheduler:
    """store: the images, which all share; the first run to need them puts them here."""

    store: DeviceDataset | None = None

    def hold(self, calls: Sequence[Callable[[LockstepRun], Any]]) -> list[Any]:
        """What each call(member) came to, in their order; the first failure, or an interrupt, ends all."""
        members = [LockstepRun(self, call) for call in calls]
        try:
            while going := [member for member in members if not member._over]:
                for member in going:
                    member._move()
                    if member._error is not None:
                        raise member._error
                serve([member._asked for member in going if not member._over])
        finally:
            for member in members:
                member._stop()
        return [member._result for member in members]


def serve(everything: Sequence[Request]) -> None:
    """Answer all, as many together as can be."""
    if not everything:
        return
    trainings = [asked for asked in everything if isinstance(asked, TrainingRequest)]
    predictions = [asked for asked in everything if isinstance(asked, PredictionRequest)]
    with threads_for(everything[0].execution.parameters, everything[0].execution.device):
        for group in _alike(trainings):
            _answer(_train, group)
        if predictions:
            _answer(_predict, predictions)


def _answer(call: Callable[[Any], None], group: Sequence[Request]) -> None:
    """What goes wrong is told to the first that is without an answer."""
    try:
        call(group)
    except Exception as error:
        next(asked for asked in group if asked.answer is None).error = error


def _train(group: Sequence[TrainingRequest]) -> None:
    jobs = [(asked, job) for asked in group for job in asked.jobs]
    whose = {id(job): asked for asked, job in jobs}

    def done(job: LocalJob, trained: Trained, go_on: Callable[[], None]) -> Trained:
        return whose[id(job)].done(job, trained, go_on)

    lead = group[0].execution
    if lead.serial.chance.layer is not None:  # whose draws are named by the seed of the run
        for asked in group:
            asked.answer = asked.execution.carry_out(asked.jobs, asked.named, asked.done)
        return
    found = iter(lead.carry_out([job for _, job in jobs], lambda job: whose[id(job)].named(job), done))
    for asked in group:
        asked.answer = [next(found) for _ in asked.jobs]
        asked.execution.used |= lead.used


def _predict(group: Sequence[PredictionRequest]) -> None:
    found = iter(group[0].execution.foretell([one for asked in group for one in asked.asked]))
    for asked in group:
        asked.answer = [next(found) for _ in asked.asked]


def _alike(trainings: Sequence[TrainingRequest]) -> Iterator[list[TrainingRequest]]:
    """Those whose steps are of one kind."""
    groups: list[list[TrainingRequest]] = []
    for asked in trainings:
        for group in groups:
            if asked.jobs and group[0].jobs and _one_kind(asked.jobs[0].work, group[0].jobs[0].work):
                group.append(asked)
                break
        else:
            groups.append([asked])
    return iter(groups)


def _one_kind(a: LocalTask, b: LocalTask) -> bool:
    if a.rule is not None or b.rule is not None:
        return False  # knows models by their places among one run's
    kinds = [(w.pull is None, w.shift is None, w.term is None, w.weights is None, w.decays, w.lr) for w in (a, b)]
    if kinds[0] != kinds[1] or (a.frozen is None) != (b.frozen is None):
        return False
    return a.frozen is None or b.frozen is None or torch.equal(a.frozen, b.frozen)
