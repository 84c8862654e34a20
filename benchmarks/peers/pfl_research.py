"""The work by pfl-research: pfl_research.py FOLDER [threads=2], with several processes by torch.distributed.run."""

import os

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from turns import Turn
from work import LR, MOMENTUM, arguments


class Net(torch.nn.Module):
    """The network with the loss that pfl asks for."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, images: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(self.net(images)[:, 0], labels)

    def metrics(self, *_: object, **__: object) -> dict:
        return {}


class Rounds(TrainingProcessCallback):
    """Counts rounds, each of which waits for its turn in every process."""

    def __init__(self) -> None:
        self.done, self.turn = 0, Turn()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
        self.done += 1
        self.turn.wait()
        return False, type(aggregate_metrics)()


def main() -> None:
    work, options = arguments()
    torch.set_num_threads(int(options.get("threads", 1)))
    images, labels = work.data()
    rounds = Rounds()

    def user(site: int) -> Dataset:
        order = torch.cat(work.batches(site, rounds.done + 1))
        return Dataset([images[order], labels[order]], user_id=str(site))

    sites = list(range(work.sites))
    data = FederatedDataset(user, get_user_sampler("minimize_reuse", sites))
    net = Net(work.network())
    model = PyTorchModel(
        net, lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=MOMENTUM),
        torch.optim.SGD(net.parameters(), 1.0),
    )  # fmt: skip
    training = NNTrainHyperParams(local_batch_size=32, local_num_epochs=1, local_learning_rate=LR)
    settings = NNAlgorithmParams(
        central_num_iterations=work.rounds, evaluation_frequency=10**6, train_cohort_size=work.sites, val_cohort_size=0
    )
    rounds.turn.wait()
    FederatedAveraging().run(
        settings, SimulatedBackend(data, None, [WeightByDatapoints()]), model, training, None,
        callbacks=[rounds],
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        work.finish(net.net.state_dict())


if __name__ == "__main__":
    main()
