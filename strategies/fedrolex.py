"""FedRolex: HeteroFL whose sub-models are windows that roll on every round, so that all of the model gets trained.

Alam, Liu, Yan, Zhang, "FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model Extraction", NeurIPS
2022, arXiv:2212.01548.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.elastic.nested import width
from models.submodel import Coverage, State
from strategies.base import Profile, Task
from strategies.heterofl import HeteroFL


@dataclass
class FedRolex(HeteroFL):
    """Scaler, masked loss and merge are HeteroFL's, as in the authors' code.

    The window advances by one channel a round (eq. 3), by one norm group where there are groups. A device is served
    the window that was trained last.
    """

    reports = {"fedrolex": "delivered", "fedrolex+ft": "adapted"}
    turn: int = field(default=0, init=False)  # how far the window has rolled

    def initial(self) -> State:
        return self.cloud.rolling_state

    def coverage(self, rate: float) -> Coverage:
        return width(self.cloud.dense, rate, self.turn)

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        self.turn = round_ - 1
        return super().tasks(round_, profiles)
