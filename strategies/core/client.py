"""The client half of a method: how a client trains. A method overrides the hooks that it changes.

Hooks know nothing of a workload. A workload supplies data, network and loss as a `Client`; the client half of a method
changes how they are used. A workload that does not support a hook refuses methods that override it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.aggregation.weighted_sum import WeightedSum
from models.costs import Cost
from models.nn.body import Body
from models.submodel import FULL, Coverage, State
from models.training.loop import CorrectGradients, LogitCorrection, Recipe

Option = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True)
class Limits:
    """What a client can afford now.

    Args:
        bytes: of a sub-model on the link; macs: of one forward pass of one sample; memory: bytes in training.
    """

    bytes: float
    macs: float
    memory: float

    names: ClassVar = ("bytes on the link", "MACs a sample", "bytes of training memory")

    @classmethod
    def shares(cls, whole: Cost, link: float, compute: float, memory: float) -> "Limits":
        """Make limits from shares of what the large cloud model costs."""
        return cls(link * whole.bytes, compute * whole.macs, memory * whole.memory)

    @property
    def vector(self) -> np.ndarray:
        """(3,) bytes, MACs, memory."""
        return np.array([self.bytes, self.macs, self.memory])


@dataclass(frozen=True)
class ClientTask:
    """A `TrainTask` as the client receives it.

    Args:
        sizes: the axis sizes in which the sub-model differs from the whole model.
        modules: for each module layer, the numbers of the modules that the sub-model has
            (`models.nn.body.gate_columns`).
        state: parameters of the sub-model; None if the client continues from the model that it kept.
        architecture, epochs, upload, keep, options, tensors: as in `strategies.core.strategy.TrainTask`.
    """

    architecture: str = "dense"
    sizes: Mapping[str, int] = field(default_factory=dict)
    modules: Mapping[str, np.ndarray] = field(default_factory=dict)
    epochs: int = 0
    upload: bool = True
    keep: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    state: State | None = None
    tensors: Mapping[str, State] = field(default_factory=dict)

    def start(self, report: Mapping[str, Any]) -> State | None:
        """Return the parameters that the client trained, see `strategies.core.strategy.TrainTask.start`."""
        return self.tensors[str(report["start"])] if report.get("start") else self.state


@dataclass
class LocalModel:
    """The model that a client works with.

    Args:
        received: parameters of everything that the client has.
        state: current parameters of the part that it activates.
        network: a network of that part's sizes; other clients of this process use it too.
        modules: for each module layer, the numbers of the modules that are active.
        active: where those lie in ``received``.
        rate: HeteroFL's scaler of the network (`models.nn.body.Body.rate`).
        trial_macs: MACs that the client spent on choosing them.
    """

    received: State
    state: State
    network: Body
    modules: Mapping[str, np.ndarray] = field(default_factory=dict)
    active: Coverage = field(default_factory=lambda: FULL)
    rate: float = 1.0
    trial_macs: float = 0.0

    def loaded(self) -> Body:
        """Return the network with the current parameters."""
        self.network.load_state_dict(self.state)
        self.network.rate = self.rate
        return self.network

    def updated(self) -> State:
        """Return everything received, with the current parameters of the active part."""
        if not self.active:
            return self.state
        whole = WeightedSum(self.network.axes(), self.received)
        whole.add(self.state, self.active, 1.0)
        return whole.finish(self.received)


class ClientStore(Protocol):
    """Files in which a client keeps states between messages."""

    Missing: ClassVar[type[Exception]]  # what `load` raises

    def save(self, name: str, state: State) -> None: ...
    def load(self, name: str) -> State: ...
    def holds(self, name: str) -> bool: ...


class Client(Protocol):
    """What a workload supplies to the client half of a method, for one message.

    Attributes:
        number, seed, round, step: where in the experiment this message belongs.
        store: what the client keeps between messages.
    """

    number: int
    seed: int
    round: int
    step: int
    store: ClientStore

    def limits(self) -> Limits:
        """Return what the client can afford now."""

    def class_shares(self, reference: Sequence[float], step: int | None = None, smooth: bool = False) -> Tensor:
        """Return (classes,) the client's class shares in a step, by default the current one.

        They are relative to ``reference`` if that is given, and drawn to it with ``smooth``.
        """

    def load(self, task: ClientTask, state: State, active: Coverage = FULL) -> LocalModel:
        """Return a sub-model of the sizes in ``task``, or its part ``active``.

        Raises:
            ValueError: the parameters do not have the shapes that the sizes call for.
        """


class ClientTrainer:
    """The client half of a method. One object serves one message.

    Args:
        options: the method's options in the run-config.
        task: what the server asked.
        client: data and models of this client.
        training: a round of training; otherwise the client is queried or scored, perhaps after local adaptation.
    """

    HOOKS: ClassVar[tuple[str, ...]] = (
        "profile", "select", "gates", "training_network", "recipe", "begin", "correct_gradients", "stops",
        "adapted", "upload", "upload_tensors", "report", "keep",
    )  # fmt: skip

    requires: ClassVar[frozenset[str]] = frozenset()  # what a workload must offer beside these hooks
    model: LocalModel  # what `select` returned

    def __init__(self, options: Any, task: ClientTask, client: Any, training: bool = False):
        self.options, self.task, self.client, self.training = options, task, client, training
        self.correction: LogitCorrection = task.options.get("masked", "none")

    @classmethod
    def hooks(cls) -> set[str]:
        """Name the hooks that this client half overrides, which a workload must support."""
        return {name for name in cls.HOOKS if getattr(cls, name) is not getattr(ClientTrainer, name)}

    @property
    def corrects(self) -> CorrectGradients | None:
        """`correct_gradients`, if this client half overrides it."""
        return self.correct_gradients if "correct_gradients" in self.hooks() else None

    @property
    def batchable(self) -> bool:
        """Whether kernels that train several clients at once serve this client."""
        own = {"training_network", "begin", "correct_gradients", "stops"}
        return not own & self.hooks()

    def class_shares(self, step: int | None = None) -> Tensor | None:
        """Return the client's class shares (classes,) in a step, if its logits are corrected by them."""
        if self.correction == "none":
            return None
        reference, smooth = self.task.options.get("shares", ()), self.task.options.get("smooth", False)
        return self.client.class_shares(reference, step, smooth)

    def profile(self) -> dict[str, Any]:
        """Return what the server asked for in a query, beside the limits."""
        return {}

    def select(self, state: State | None) -> LocalModel:
        """Return the model to work with, given the parameters that were sent, or else those that were kept."""
        self.model = self.client.load(self.task, state if state is not None else self.client.store.load("model"))
        self.model.rate = self.task.options.get("rate", 1.0)
        return self.model

    def gates(self, model: LocalModel, x: Tensor) -> list[Tensor] | None:
        """Return gates (n, M) of samples (n, ...) for each module layer; None for a network without modules."""
        return None

    def training_network(self, network: Body, generator: np.random.Generator) -> Body:
        """Return the network that is trained, which shares its parameters with ``network``."""
        return network

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return how the client trains, given how the run-config says it does."""
        return recipe

    def begin(self) -> None:
        """Prepare for local training."""

    def correct_gradients(self, parameters: Mapping[str, nn.Parameter], epoch: int) -> None:
        """Change gradients in place before an optimiser's step.

        Args:
            parameters: those that have a gradient, by their names in the model's state; epoch: counted from 0.
        """

    def stops(self, epoch: int, loss: float) -> bool:
        """Return whether local training ends before its last epoch.

        Args:
            epoch: how many epochs have ended; loss: mean training loss of the last of them.
        """
        return False

    def adapted(self, before: State, after: State) -> State:
        """Return what the client uses after local adaptation: interpolate between both states (``blend``)."""
        weight = self.task.options.get("blend", 1.0)
        return interpolate(before, after, weight) if weight < 1 else after

    def upload(self, before: State, after: State) -> State:
        """Return the parameters that go back to the server, given those that training started from."""
        return after

    def report(self, model: LocalModel, classes: Sequence[int]) -> dict[str, Any]:
        """Return values for the server half, given the classes of the client's samples."""
        return {f"active.{axis}": len(kept) for axis, kept in model.active.items()}

    def upload_tensors(self) -> Mapping[str, State]:
        """Return further tensors for the server half, after training."""
        return {}

    def keep(self, model: LocalModel, state: State) -> None:
        """Keep ``state``, that of the whole sub-model, for later messages."""
        self.client.store.save("model", state)


def interpolate(before: State, after: State, weight: float) -> State:
    """Return ``before + weight * (after - before)``; entries that are no floating-point numbers are as after."""
    return {k: torch.lerp(before[k], v, weight) if v.is_floating_point() else v for k, v in after.items()}


def add_to_gradient(parameter: nn.Parameter, term: Tensor) -> None:
    """Add a term to the gradient of a parameter, in place."""
    assert parameter.grad is not None
    parameter.grad += term.to(parameter.device)
