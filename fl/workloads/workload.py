"""What a workload is: what the cloud prepares, and the client's side of a round. It knows no method and no engine."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from fl.config import Settings, SettingsError
from fl.devices.hardware import Shares
from fl.devices.machine import Machine
from fl.workloads.state_store import ClientStateStore, StateMissing
from fl.workloads.world import Worlds
from models.costs import Cost
from models.modular.model import Progress
from models.submodel import State
from partitions import Purpose, rng
from partitions.components import Section
from strategies.core.client import ClientTask, ClientTrainer
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Measure, Strategy

R = TypeVar("R")
OPEN_ROUNDS = 64  # split rounds that a process keeps in memory; others are read from their stores


@dataclass(frozen=True)
class ClientContext:
    """Where in the experiment a message belongs, and what its client has.

    Args:
        client, seed, round, step: address of the message.
        store: what the client keeps between messages.
        look_back: also score on the test draw of the step before.
        machine: the device that is the client; None if it is simulated.
    """

    client: int
    seed: int
    round: int
    step: int
    store: ClientStateStore
    look_back: bool = False
    machine: Machine | None = None

    @property
    def of_round(self) -> ClientStateStore:
        """What the client needs to continue a split round. A round that is repeated starts from nothing."""
        return ClientStateStore(self.store.folder / "split")

    def noise(self, what: int) -> np.random.Generator:
        """Return a generator of noise. A real device draws it from its system, so the server cannot repeat it."""
        if self.machine is not None:
            return np.random.default_rng()
        return rng(self.seed, Purpose.NOISE, what, self.round, self.client)


class Method(NamedTuple):
    """A method of a run.

    Args:
        name: in messages and file names; strategy: its class; options: of its section, with those of the variant.
    """

    name: str
    strategy: type[Strategy]
    options: Section


Half = Callable[[Any], ClientTrainer]
"""Makes the client half of the method, given what the workload supplies to it."""


@dataclass(frozen=True)
class Trained:
    """The result of local training.

    Args:
        state: what is uploaded; None if it changed too little.
        examples: training samples; loss: their mean loss in the last epoch.
        report: values of the method's client half; tensors: its further tensors.
        measures: some of the workload's `measures`.
    """

    state: State | None
    examples: int
    loss: float
    report: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, State] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores before and after local adaptation; without adaptation they are the same.

    Args:
        samples: in the test draw; examples: in the training data.
        delivered, adapted: accuracy, balanced accuracy, mean loss.
        former: accuracy on the test draw of the step before, delivered and adapted.
        report: values of the method's client half.
        trial_macs: MACs that the client spent on choosing what to activate.
        measures: some of the workload's `measures`, of each of the two models.
    """

    samples: int
    delivered: tuple[float, float, float]
    adapted: tuple[float, float, float]
    examples: int
    former: tuple[float, float] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    trial_macs: float = 0.0
    measures: Mapping[Measure, Mapping[str, float]] = field(default_factory=dict)


class Workload(ABC):
    """What clients do with their data.

    One process may simulate many clients, one after the other. What a client must remember lies in its store, and every
    random choice is drawn from `partitions.rng` at an address that holds the client.

    Class attributes:
        measures: name and meaning, with its unit, of what clients report beside loss and accuracy; the means over
            clients go to ``measures.csv``.
        provides: what it offers to methods: pretrained models, 'class-shares', hooks of `ClientTrainer`.
        ignores: general keys and sections that it does not read; setting one of them is an error.
        Options: run-config keys ``<workload>.<option>``.

    Attributes:
        worlds: the data of every client at every step, by seed.
    """

    worlds: Worlds
    measures: ClassVar[Mapping[str, str]] = {}
    provides: frozenset[str] = frozenset({"dense"})
    ignores: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[Section]] = Section

    @property
    def digests(self) -> list[str]:
        """Hashes of the data that this machine reads, for config.toml; generated data have none."""
        return self.worlds.digests

    def check(self, methods: Mapping[str, Method]) -> None:
        """Raise SettingsError if methods and workload do not fit together."""

    @abstractmethod
    def prepare(self, seed: int, progress: Progress | None = None) -> PretrainedModels:
        """Return what methods start from. Check that data, model and settings fit; training is left to later.

        Raises:
            SettingsError, partitions.DataError: they do not fit.
        """

    @abstractmethod
    def global_accuracy(self, method: Strategy) -> float:
        """Return the accuracy of a method's cloud model on the whole test set."""

    def saved(self, seed: int, model: State) -> tuple[State, dict[str, Any]]:
        """Return what is kept of a final model: its tensors, and what else its users need, as plain values by name."""
        return model, {}

    def limits(self, context: ClientContext) -> Shares:
        """Return what the client can afford now, as shares of what the large cloud model costs.

        Raises:
            SettingsError: no method of this workload asks for it.
        """
        raise SettingsError("this workload has no model that is cut to a client's limits")

    def profile(self, context: ClientContext, half: Half) -> dict[str, Any]:
        """Return what the method's client half adds to the limits."""
        return {}

    def measure(self) -> tuple[float, Cost]:
        """Return MAC/s of local training on this machine, and the cost of the large cloud model.

        Raises:
            SettingsError: it cannot be measured.
        """
        raise SettingsError("node-config lacks mac-per-s, which is timed in workload 'classify' only: give it")

    @abstractmethod
    def train(self, context: ClientContext, task: ClientTask, half: Half) -> Trained:
        """Train on the client's current data, from the state in the task or from the model that the client kept."""

    @abstractmethod
    def evaluate(self, context: ClientContext, task: ClientTask, half: Half) -> Scored:
        """Score a model on the client's current distribution, as delivered and after ``task.epochs`` of adaptation."""


Messages = Mapping[str, bytes]
"""What crosses the cut of a split model, in one direction."""

Answer = dict[str, bytes] | Trained
"""A client's messages, or at the end what it trained."""

Moment = tuple[Any, ...]
"""A point within a round: completed steps, and anything else that tells points apart."""


class Replica(Protocol):
    """The server's side of one client's round of split training."""

    @property
    def for_client(self) -> State:
        """The part of the model that the client starts with."""

    @property
    def steps(self) -> int:
        """How many steps the round has had so far."""

    def turn(self, up: Messages) -> dict[str, bytes]:
        """Return what goes down next, given what came up. ValueError: what came up does not belong here."""

    def whole(self, trained: State) -> State:
        """Return the whole model after the round, given the part that the client trained."""

    def measures(self, examples: int) -> dict[str, float]:
        """Return what this side adds to the client's measures."""


class SplitWorkload(Workload):
    """A workload whose model has a cut; `fl.server.split` runs the two sides over messages.

    Attributes:
        rounds: the clients' sides of split rounds that this process is in the middle of.
    """

    def __init__(self, settings: Settings, worlds: Worlds):
        self.settings, self.worlds = settings, worlds
        self.rounds: dict[Path, Any] = {}

    @abstractmethod
    def replica(self, context: ClientContext, epochs: int, state: State) -> Replica:
        """Return the server's side of a round that starts from the whole model ``state``."""

    def turn(self, context: ClientContext, task: ClientTask, half: Half, steps: int, down: Messages) -> Answer:
        """Return the client's answer to what came down; at the end what it trained.

        Each turn may run in another process, or in one that was just started.

        Args:
            steps: that the server has behind it.
        """
        folder = context.of_round.folder
        if task.state is not None:
            self.rounds.pop(folder, None)  # of a round that broke off
        answer = self.answer(context, task, half, steps, down)
        if isinstance(answer, Trained):
            del self.rounds[folder]
            shutil.rmtree(folder)
        return answer

    @abstractmethod
    def answer(self, context: ClientContext, task: ClientTask, half: Half, steps: int, down: Messages) -> Answer:
        """Return what `turn` returns, and keep in `ClientContext.of_round` what the client needs to continue."""

    def opened(self, context: ClientContext, at: Moment, reached: Callable[[R], Moment], rebuild: Callable[[], R]) -> R:
        """Return the client's side as it was when the server sent its message, rebuilt if this process lacks it.

        Another process may have taken the turns since this one had the last.

        Args:
            at: that moment; reached: the moment of a side.

        Raises:
            StateMissing: the store holds no such moment.
        """
        folder = context.of_round.folder
        found: R | None = self.rounds.get(folder)
        if found is None or reached(found) != at:
            found = rebuild()
            if (now := reached(found)) != at:
                raise StateMissing(f"client {context.client} has {now[0]} steps behind it, not {at[0]}")
            if len(self.rounds) >= OPEN_ROUNDS:
                self.rounds.clear()
            self.rounds[folder] = found
        return found


def refuse_whole_models(settings: Settings, methods: Mapping[str, Method]) -> None:
    """Raise SettingsError if training is really split and something looks at whole models."""
    client = settings.client
    if settings.split != "messages":
        return
    if client.upload_change or client.update_clip:
        key = "client.upload-change" if client.upload_change else "client.update-clip"
        raise SettingsError(f"{key} looks at whole models, split = 'messages' sends parts: set it to 0")
    for name, method in methods.items():
        if "correct_gradients" in method.strategy.Client.hooks():
            raise SettingsError(
                f"strategy '{name}' corrects gradients of the whole model, split = 'messages' trains a part on the "
                "client: use split = 'simulated'"
            )


def scored_steps(context: ClientContext) -> Sequence[int]:
    """Return the steps on whose test draws a client is scored: the current one, and the one before if asked."""
    return [context.step, context.step - 1] if context.look_back else [context.step]
