"""Multi-seed batching: runs that differ only in their seed train and predict in lock-step, as one batch.

Each run moves until it requests training or predictions; then the requests of all runs are answered in one batch, so
that twenty runs of eight sites train as one stack of 160 models. One run moves at a time, in its own thread, so that
results do not depend on timing.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedlab.core.typing import Floats, Ints
from fedlab.core.weights import Weights
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.dispatch import Execution
from fedlab.engine.local_task import CheckStopped, ErrorContext, LocalJob, LocalTask, OnTrained, Trained
from fedlab.engine.loop import StoppedError
from fedlab.engine.thread_pool import threads_for


@dataclass(kw_only=True)
class Request:
    """What a run requests, and the answer or the error."""

    execution: Execution
    answer: Any = None
    error: Exception | None = None


@dataclass(kw_only=True)
class TrainingRequest(Request):
    """The arguments of `Execution.train`."""

    jobs: Sequence[LocalJob]
    error_context: ErrorContext
    on_trained: OnTrained


@dataclass(kw_only=True)
class PredictionRequest(Request):
    """The arguments of `Execution.predict`."""

    models: Sequence[tuple[Weights, Ints]]


class LockstepRun:
    """One of the runs. Its methods are for its own thread, except those whose names begin with an underscore."""

    def __init__(self, scheduler: "LockstepScheduler", call: Callable[["LockstepRun"], Any]) -> None:
        self.scheduler, self._call = scheduler, call
        self._request: Any = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._finished = self._moving = self._stopped = False
        self._resume, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="fedlab run", daemon=True)

    def train(
        self, execution: Execution, jobs: Sequence[LocalJob], error_context: ErrorContext, on_trained: OnTrained
    ) -> list[Trained]:
        """As `Execution.train`."""
        return self._wait_for(
            TrainingRequest(execution=execution, jobs=jobs, error_context=error_context, on_trained=on_trained)
        )

    def predict(self, execution: Execution, requests: Sequence[tuple[Weights, Ints]]) -> list[Floats]:
        """As `Execution.predict`."""
        return self._wait_for(PredictionRequest(execution=execution, models=requests))

    def _wait_for(self, request: Request) -> Any:
        """Pause this run until the request is answered."""
        self._request = request
        self._paused.release()
        self._resume.acquire()
        if self._stopped:
            raise StoppedError("the run was stopped")
        if request.error is not None:
            raise request.error
        return request.answer

    def _run(self) -> None:
        try:
            self._result = self._call(self)
        except BaseException as error:
            self._error = error
        finally:
            self._finished = True
            self._paused.release()

    def _move(self) -> None:
        """Resume the run until its next request or its end."""
        self._moving = True
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._resume.release()
        self._paused.acquire()
        self._moving = False

    def _stop(self) -> None:
        """End the run at its next request."""
        if self._thread.ident is None:
            return
        if self._moving:
            self._paused.acquire()
        self._stopped = True
        self._resume.release()
        self._thread.join()


class LockstepScheduler:
    """Moves runs in lock-step. dataset: the device dataset that all runs share, set by the first one that needs it."""

    dataset: DeviceDataset | None = None

    def run(self, calls: Sequence[Callable[[LockstepRun], Any]]) -> list[Any]:
        """The result of each call(run), in their order; the first failure, or an interrupt, ends all runs."""
        runs = [LockstepRun(self, call) for call in calls]
        try:
            while active := [run for run in runs if not run._finished]:
                for run in active:
                    run._move()
                    if run._error is not None:
                        raise run._error
                answer_all([run._request for run in active if not run._finished])
        finally:
            for run in runs:
                run._stop()
        return [run._result for run in runs]


def answer_all(requests: Sequence[Request]) -> None:
    """Answer all requests, in as few batches as possible."""
    if not requests:
        return
    trainings = [request for request in requests if isinstance(request, TrainingRequest)]
    predictions = [request for request in requests if isinstance(request, PredictionRequest)]
    with threads_for(requests[0].execution.parameters, requests[0].execution.device):
        for group in _groups(trainings):
            _answer(_train, group)
        if predictions:
            _answer(_predict, predictions)


def _answer(call: Callable[[Any], None], group: Sequence[Request]) -> None:
    """Answer a group; an error is raised in the first run of the group without an answer."""
    try:
        call(group)
    except Exception as error:
        next(request for request in group if request.answer is None).error = error


def _train(group: Sequence[TrainingRequest]) -> None:
    """Train the jobs of all runs in one batch."""
    first = group[0].execution
    if first.engine.layer_rng.layer is not None or first.engine.needs.seeded:  # they use the seed of their own run
        for request in group:
            request.answer = request.execution.train_now(request.jobs, request.error_context, request.on_trained)
        return
    jobs = [(request, job) for request in group for job in request.jobs]
    request_of = {id(job): request for request, job in jobs}

    def on_trained(job: LocalJob, trained: Trained, check_stopped: CheckStopped) -> Trained:
        return request_of[id(job)].on_trained(job, trained, check_stopped)

    found = first.train_now([job for _, job in jobs], lambda job: request_of[id(job)].error_context(job), on_trained)
    results = iter(found)
    for request in group:
        request.answer = [next(results) for _ in request.jobs]
        request.execution.used |= first.used


def _predict(group: Sequence[PredictionRequest]) -> None:
    """Predict with the models of all runs in one batch."""
    if group[0].execution.engine.needs.seeded:
        for request in group:
            request.answer = request.execution.predict_now(request.models)
        return
    found = iter(group[0].execution.predict_now([model for request in group for model in request.models]))
    for request in group:
        request.answer = [next(found) for _ in request.models]


def _groups(trainings: Sequence[TrainingRequest]) -> list[list[TrainingRequest]]:
    """Requests whose steps have the same kinds of corrections."""
    groups: list[list[TrainingRequest]] = []
    for request in trainings:
        for group in groups:
            first = group[0].jobs
            if request.jobs and first and _same_kind(request.jobs[0].local_task, first[0].local_task):
                group.append(request)
                break
        else:
            groups.append([request])
    return groups


def _same_kind(a: LocalTask, b: LocalTask) -> bool:
    """Whether the steps of two tasks can be one batch."""
    if a.rule is not None or b.rule is not None:
        return False  # a rule identifies models by their rows in one run
    kinds = [(t.pull is None, t.shift is None, t.term is None, t.weights is None, t.decays, t.lr) for t in (a, b)]
    if kinds[0] != kinds[1] or (a.frozen is None) != (b.frozen is None):
        return False
    return a.frozen is None or b.frozen is None or torch.equal(a.frozen, b.frozen)
