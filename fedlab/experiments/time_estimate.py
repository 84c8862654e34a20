"""About how long a run will take, before its first round: a few steps of its model on its device are timed."""

import time

import torch

from fedlab.engine.devices import duration
from fedlab.experiments.experiment import Experiment
from fedlab.federation import Federation
from fedlab.learning.networks import network
from fedlab.learning.patches import input_shape

WORTH_SAYING = 10.0  # seconds: shorter runs need no estimate
STEPS, LONGEST = 4, 3.0  # steps that are timed at most, and the seconds after which no further one begins
FORWARD = 1 / 3  # of the time of a step: predictions for as many cases


def foresee(experiment: Experiment, fed: Federation) -> str:
    """Say about how long all rounds take; empty for short runs, and where many sites train as one batched model.

    What a method adds to plain local training, such as a second model at each site, is not counted.
    """
    try:
        seconds = expected_seconds(experiment, fed)
    except Exception:  # training itself says what is wrong with a model or a device
        return ""
    return f"about {duration(seconds)} for {experiment.rounds} rounds" if seconds >= WORTH_SAYING else ""


def expected_seconds(experiment: Experiment, fed: Federation) -> float:
    """Return the seconds of all rounds; 0 where sites train as one batched model, which takes little time."""
    if fed.execution.batches_sites:
        return 0.0
    steps = experiment.rounds * steps_of_a_round(experiment, fed)
    return steps * seconds_of_a_step(experiment, fed) / max(1, min(fed.execution.workers, len(fed.sites)))


def steps_of_a_round(experiment: Experiment, fed: Federation) -> float:
    """Return the optimizer steps of the sites of a round, and predictions for validation cases in such steps."""
    size, share = experiment.batch_size, len(fed.participation.at(1).available) / len(fed.sites)
    trained = sum(
        experiment.local_steps or experiment.local_epochs * -(-site.cases // (size or site.cases)) for site in fed.sites
    )
    validated = sum(len(fed.partition.index(site.name, "val")) for site in fed.sites)
    return share * trained + FORWARD * validated / _batch(experiment, fed)


def seconds_of_a_step(experiment: Experiment, fed: Federation) -> float:
    """Time one optimizer step: the fastest of a few, on a copy of the model, without the random numbers of the run."""
    shape = input_shape(fed.partition.cases.shape, experiment.crop)
    devices = [fed.device] if fed.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        made = network(experiment.model, experiment, shape, fed.task.outputs, seed=0, dense=fed.task.dense)
        net = made.model.to(fed.device)
        images = torch.full((_batch(experiment, fed), *shape), 0.5, device=fed.device)
        trained = [one for one in net.parameters() if one.requires_grad]  # `torch.optim` imports compilers for seconds
        begun, took = time.perf_counter(), list[float]()
        while len(took) < STEPS and (not took or time.perf_counter() - begun < LONGEST):
            start = time.perf_counter()
            net(images).float().square().mean().backward()
            for one in trained:
                if one.grad is not None:
                    one.data.add_(one.grad, alpha=-1e-6)
                    one.grad.zero_()
            if fed.device.type == "cuda":
                torch.cuda.synchronize(fed.device)
            took.append(time.perf_counter() - start)
    return min(took)


def _batch(experiment: Experiment, fed: Federation) -> int:
    """Return the cases in a batch of the largest site."""
    largest = max(site.cases for site in fed.sites)
    return min(experiment.batch_size or largest, largest)
