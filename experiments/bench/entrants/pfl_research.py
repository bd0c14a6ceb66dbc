"""pfl-research (Granqvist et al. 2024, arXiv:2404.06430): its simulator.

It uses a device's samples in the same order in every epoch: here, the order of the first epoch of the others.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PFL_PYTORCH_DEVICE", "cpu")

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

from experiments.bench.entrants.work import Stop, Turns, Work


class Network(torch.nn.Module):
    """The network with the methods that pfl needs."""

    def __init__(self, work: Work):
        super().__init__()
        self.network = work.network()

    def loss(self, x: torch.Tensor, y: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
        return F.cross_entropy(self.network(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


class Pause(TrainingProcessCallback):
    """Before every round the first process waits for the request, and the others wait for the first."""

    def __init__(self, turns: Turns | None):
        self.turns = turns

    def _next(self) -> bool:
        """Return whether to stop."""
        stop = torch.zeros(1)
        if self.turns is not None:
            try:
                self.turns.next()
            except Stop:
                stop += 1
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(stop, 0)
        return bool(stop)

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self._next()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        return self._next(), Metrics()


def main(folder: str, to: str) -> None:
    first = os.environ["RANK"] == "0"
    turns, work = Turns() if first else None, Work(folder)
    torch.set_num_threads(1)
    samples_of = {}
    # pfl's user numbers do not match cohorts that do not divide evenly, so each process counts its own users.
    mine = range(int(os.environ["RANK"]), work.cohorts.shape[1], int(os.environ["WORLD_SIZE"]))
    turn = ((round_, at) for round_ in range(len(work.cohorts)) for at in mine)

    def user(_: int) -> Dataset:
        round_, at = next(turn)
        device = int(work.cohorts[round_, at])
        if device not in samples_of:
            samples_of[device] = work.samples(device)
        order = torch.cat(work.batches(round_, at)[0])
        return Dataset([values[order] for values in samples_of[device]])

    network = Network(work)
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    data = FederatedDataset(user, lambda: 0)
    rounds, cohort = work.cohorts.shape
    FederatedAveraging().run(
        NNAlgorithmParams(rounds, evaluation_frequency=10 * rounds, train_cohort_size=cohort, val_cohort_size=0),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(local_num_epochs=work.epochs, local_learning_rate=work.lr, local_batch_size=work.batch_size),
        callbacks=[Pause(turns)],
    )
    if turns is not None:
        turns.finish(list(network.parameters()), to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
