"""What a workload is: what the cloud prepares, and the device's side of a round. Knows no method and no engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from fl.config.settings import Settings, SettingsError
from fl.devices.machine import Node
from fl.workloads.state_store import Store
from models.modular.model import Progress
from models.submodel import State
from models.training.loop import LogitCorrection
from strategies.base import Cloud, Measure, Strategy


@dataclass(frozen=True)
class Order:
    """What a message asks of a device.

    Args:
        device, seed, round, step: where in the experiment this is.
        architecture: of `fl.workloads.world.architectures`; sizes: the axis sizes in which the part differs from the whole.
        held: for each module layer the modules that the part consists of, numbered as `models.nn.body.gate_columns` does.
        look_back: also score on the test draw of the step before.
        shares: of the classes in the cloud's data, where ``masked`` is 'prior'.
        node: the machine that is the device; None where a host stands in for it.
        epochs, masked, rate, keep, reselect, rates, blend, search: as in `strategies.base.Task`.
    """

    device: int
    seed: int
    round: int
    step: int
    architecture: str = "dense"
    sizes: Mapping[str, int] | None = None
    held: Mapping[str, Sequence[int] | np.ndarray] | None = None
    epochs: int = 0
    masked: LogitCorrection = "none"
    shares: Sequence[float] = ()
    rate: float = 1.0
    keep: bool = False
    reselect: bool = False
    rates: Sequence[float] = ()
    blend: float = 1.0
    search: bool = False
    look_back: bool = False
    node: Node | None = None


@dataclass(frozen=True)
class Trained:
    """What local training gives.

    Args:
        state: of the modules activated; None where it changed too little to be uploaded.
        classes: of which the device has samples.
        active: how many modules were activated, by their axis, where the device chose them.
        measures: some of the workload's `MEASURES`.
    """

    state: State | None
    examples: int
    loss: float
    classes: Sequence[int] = ()
    active: Mapping[str, int] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores before and after local adaptation; without adaptation they are the same.

    Args:
        samples: in the test draw; examples: in the training data.
        former: accuracy on the test draw of the step before, delivered and adapted.
        active: as in `Trained`.
        trial_macs: multiply-accumulates that the device spent on choosing what to activate.
        measures: some of the workload's `MEASURES`, of each of the two models.
    """

    samples: int
    delivered: tuple[float, float, float]  # accuracy, balanced accuracy, mean loss
    adapted: tuple[float, float, float]
    examples: int
    former: tuple[float, float] | None = None
    active: Mapping[str, int] = field(default_factory=dict)
    trial_macs: float = 0.0
    measures: Mapping[Measure, Mapping[str, float]] = field(default_factory=dict)


class Workload(Protocol):
    """A module of `fl.workloads`: two functions of the cloud, three of a device, called once per message of their kind.

    One process may stand in for many devices, one after the other: what a device must remember lies in its ``store``,
    and every random choice is drawn from `partitions.rng` at an address that holds the device.

    Attributes:
        MEASURES: name and meaning, with its unit, of what devices report beside loss and accuracy; their means over
            devices go to ``measures.csv``.
    """

    MEASURES: Mapping[str, str]

    def prepare(self, settings: Settings, seed: int, progress: Progress | None = None) -> Cloud:
        """What methods start from. Checks that data, model and settings fit; what takes long is left to `Cloud`.

        Raises:
            SettingsError, partitions.DataError: they do not.
        """

    def global_accuracy(self, settings: Settings, method: Strategy) -> float:
        """The accuracy of a method's cloud model on the whole test set."""

    def profile(
        self, settings: Settings, order: Order, store: Store, with_importance: bool
    ) -> dict[str, float | list[float]]:
        """What the device can spare now (``link``, ``compute``, ``memory``, as shares of what the large cloud model
        costs) and, if asked, how important each module is to its data (``importance.<layer>``)."""

    def train(self, settings: Settings, order: Order, store: Store, state: State | None) -> Trained:
        """Local epochs on the device's current data, from the state sent or from the model that the device kept."""

    def evaluate(self, settings: Settings, order: Order, store: Store, state: State | None) -> Scored:
        """Score a model on the device's current distribution, as delivered and after ``order.epochs`` of adaptation."""


class Replica(Protocol):
    """The cloud's side of one device's round of split training.

    Attributes:
        for_device: the part of the model that the device begins with.
        steps: behind it, since the round began.
    """

    for_device: State
    steps: int

    def turn(self, up: Mapping[str, bytes]) -> dict[str, bytes]:
        """What goes down next, given what came up. ValueError: what came up does not belong here."""

    def whole(self, trained: State) -> State:
        """The whole model after the round, given the part that the device trained."""

    def measures(self, examples: int) -> dict[str, float]:
        """What this side adds to the device's measures."""


def refuse_whole_models(settings: Settings) -> None:
    """For a workload with a cut. SettingsError: training is really split, and something looks at whole models."""
    if settings.split == "messages" and (settings.upload_change or settings.update_clip):
        key = "upload-change" if settings.upload_change else "update-clip"
        raise SettingsError(f"{key} looks at whole models, split = 'messages' sends parts: set it to 0")


@runtime_checkable
class SplitWorkload(Workload, Protocol):
    """A workload whose model has a cut; `fl.server.split` plays the two sides over messages."""

    def replica(self, settings: Settings, order: Order, state: State) -> Replica:
        """The cloud's side of a round that begins with the whole model ``state``."""

    def turn(
        self, settings: Settings, order: Order, store: Store, steps: int, down: Mapping[str, bytes], state: State | None
    ) -> dict[str, bytes] | Trained:
        """The device's answer to what came down; at the end what it trained.

        It may be asked in another process each time, or in one that was started anew.

        Args:
            steps: that the cloud has behind it.
            state: the device's part of the model, where the round begins.
        """
