"""FedRolex: HeteroFL whose sub-models are windows that roll on every round, so that all of the model gets trained.

Alam, Liu, Yan, Zhang, "FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model Extraction", NeurIPS
2022, arXiv:2212.01548.
"""

from collections.abc import Sequence
from typing import Any

from models.elastic.nested import width
from models.submodel import Coverage
from strategies.core.strategy import Profile, TrainTask
from strategies.heterofl import HeteroFL


class FedRolex(HeteroFL):
    """Scaler, masked loss and aggregation are HeteroFL's, as in the authors' code.

    The window advances by one channel a round (eq. 3), by one norm group if there are groups. A client is served the
    window that was trained last.
    """

    reports = {"fedrolex": "delivered", "fedrolex+ft": "adapted"}
    starts_from = "rolling"
    section = "fedrolex"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.turn = 0  # channels that the window has advanced

    def coverage(self, rate: float) -> Coverage:
        return width(self.models.architectures["dense"], rate, self.turn)

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        self.turn = server_round - 1
        return super().configure_train(server_round, profiles)


class FedRolexAdam(FedRolex):
    """FedRolex whose server makes a step of Adam towards the mean."""

    reports = {"fedrolex-adam": "delivered", "fedrolex-adam+ft": "adapted"}
    preset = {"step": "adam"}
