"""What a method is: who takes part, what each device is sent, how replies merge, what a device is given for use.

A strategy knows nothing of Flower, files or clocks; `fl.server.adapter` turns any of them into a Flower strategy.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from models.aggregation.robust import Robust, Rule
from models.aggregation.weighted_sum import WeightedSum
from models.costs import Cost, CostModel
from models.modular.model import ModularModel
from models.nn.body import Architecture
from models.submodel import FULL, Axes, Coverage, State, covered_sizes, extract
from models.training.loop import LogitCorrection
from partitions import Purpose, rng

Measure = Literal["delivered", "adapted"]


@dataclass(frozen=True)
class Limits:
    """What a device can bear right now.

    Args:
        bytes: of a sub-model on the link; macs: of one forward pass of one sample; memory: bytes while training.
    """

    bytes: float
    macs: float
    memory: float

    @classmethod
    def shares(cls, whole: Cost, link: float, compute: float, memory: float) -> "Limits":
        """Limits given as shares of what the large cloud model costs."""
        return cls(link * whole.bytes, compute * whole.macs, memory * whole.memory)

    @property
    def vector(self) -> np.ndarray:
        return np.array([self.bytes, self.macs, self.memory])

    names: ClassVar = ("bytes on the link", "MACs a sample", "bytes of training memory")


@dataclass(frozen=True)
class Profile:
    """What a device tells the cloud when it is queried.

    Args:
        device: its number.
        limits: None where the method does not ask.
        importance: of the module behind each of a layer's gates (`models.nn.body.gate_columns`), None where the method
            does not ask.
        held: the modules that it holds and can do with, by the same numbers; None if it asks for others.
    """

    device: int
    limits: Limits | None = None
    importance: Mapping[str, np.ndarray] | None = None
    held: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Task:
    """What one device is asked to do with which parameters.

    Args:
        architecture: which of the cloud's architectures the part belongs to.
        coverage: which part of it.
        state: the parameters; None asks the device to go on from the model that it kept.
        epochs: local epochs; when scoring, epochs of adaptation before the second score.
        masked: what the device does with the logits, knowing how often each class occurs in its data.
        rate: HeteroFL's scaler.
        keep: the device keeps the trained model; what is kept in delivery is kept for good at the end of a step only.
        reselect: the part is a set of candidate modules, for use and not for upload; the device activates those that
            fit its limits now.
        upload: the device sends the trained model back.
        rates: widths of which the device draws one per batch (FjORD); none: it trains the part as it is.
        blend: weight of the adapted model in the mean, with the delivered one, that a device serves.
        search: the device looks for the best path through the supernet before it is scored.
        cost: of the sub-model, for the clock and the ledger.
        weight: how much the update counts in a mean: by the examples it was trained on, or as one device.
        index_weights: for an axis, one weight per kept index instead (`models.aggregation.weighted_sum.WeightedSum.add`).
    """

    architecture: Literal["dense", "modular", "supernet"]
    coverage: Coverage
    state: State | None
    epochs: int
    cost: Cost
    masked: LogitCorrection = "none"
    rate: float = 1.0
    keep: bool = False
    upload: bool = True
    rates: Sequence[float] = ()
    blend: float = 1.0
    search: bool = False
    reselect: bool = False
    weight: Literal["examples", "device"] = "examples"
    index_weights: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """What came back from one device.

    Args:
        classes: those that it holds; a device tells them only where the task zeroes the logits of the others.
    """

    device: int
    state: State
    examples: int
    classes: Sequence[int] | None = None


@dataclass(frozen=True)
class Plan:
    """The budget, the same for every method.

    Args:
        devices: how many exist; cohort: how many take part in a round.
        local_epochs: a round's local epochs; adapt_epochs: epochs of local adaptation (fine-tuning, LA).
        rounds_per_step: rounds between two shifts of the world.
        candidates: how many times its link budget a device may hold in modules; 0: only what it activates.
        robust, trim: how updates merge, see `models.aggregation.robust`; 'none': a weighted mean.
    """

    devices: int
    cohort: int
    local_epochs: int
    adapt_epochs: int
    rounds_per_step: int
    candidates: float = 0.0
    robust: Rule = "none"
    trim: float = 0.2

    def starts_step(self, round_: int) -> bool:
        """Whether the world has just moved on when ``round_`` (1, 2, ...) begins."""
        return (round_ - 1) % self.rounds_per_step == 0


@dataclass
class Cloud:
    """What the offline stage hands to every method. A model that no method touches is never made.

    Args:
        dense, modular: architectures; dense_costs, modular_costs: what their sub-models cost.
        supernet, supernet_costs: the same of AdaptiveNet's.
        shares: (classes,) how often each class occurs in the cloud's data.
        make_dense: gives the trained model, from a cache or by training it now; make_modular: that of ECLM, as in the
            paper or tailored (`models.modular.tailor`).
        make_nested: the dense model with slices that work on their own: prefixes, or rolling windows.
        make_supernet: the supernet.
        settled: ``settled(coverage, state)`` is a part of the dense model with norm statistics of the proxy data; the
            same without batch norm.
        parts: what of the dense model concerns a device at all, e.g. what its task needs: device d has the part
            ``parts[d % len(parts)]``.
        merged: ``merged(before, after)`` is what becomes of a dense model that was just merged, where the server moves
            something in it by itself.
    """

    dense: Architecture
    dense_costs: CostModel
    modular: Architecture
    modular_costs: CostModel
    supernet: Architecture
    supernet_costs: CostModel
    shares: Sequence[float]
    make_dense: Callable[[], State]
    make_modular: Callable[[bool], ModularModel]
    make_nested: Callable[[bool], State]
    make_supernet: Callable[[], State]
    settled: Callable[[Coverage, State], State]
    parts: Sequence[Coverage] = (FULL,)
    merged: Callable[[State, State], State] = lambda before, after: after

    @property
    def architectures(self) -> dict[str, Architecture]:
        return {"dense": self.dense, "modular": self.modular, "supernet": self.supernet}

    @property
    def costs(self) -> dict[str, CostModel]:
        return {"dense": self.dense_costs, "modular": self.modular_costs, "supernet": self.supernet_costs}

    @cached_property
    def dense_state(self) -> State:
        return self.make_dense()

    @cached_property
    def modular_model(self) -> ModularModel:
        return self.make_modular(False)

    @cached_property
    def tailored_model(self) -> ModularModel:
        return self.make_modular(True)

    @cached_property
    def nested_state(self) -> State:
        return self.make_nested(False)

    @cached_property
    def rolling_state(self) -> State:
        return self.make_nested(True)

    @cached_property
    def supernet_state(self) -> State:
        return self.make_supernet()


@dataclass
class Strategy(ABC):
    """One method.

    Class attributes:
        reports: the rows that a run of the method yields: name -> which of a device's two scores it reads, 'delivered'
            (the model as given) or 'adapted' (after `Plan.adapt_epochs` local epochs). One run scores both, so that a
            method and its fine-tuned variant share their training rounds.
        architecture: which cloud model the method works on.
        asks: what a device is queried for: nothing, its 'limits', or its limits and 'importance'.
        asks_once: a device's first answer is used for good; otherwise it is queried anew at every step.
        masked: as in `Task`, where a task of the method does not say otherwise.
        least_active: fewest modules per layer that a sample must be able to activate.
    """

    reports: ClassVar[Mapping[str, Measure]]
    architecture: ClassVar[Literal["dense", "modular", "supernet"]] = "dense"
    asks: ClassVar[Literal["nothing", "limits", "importance"]] = "nothing"
    asks_once: ClassVar[bool] = False
    masked: ClassVar[LogitCorrection] = "none"
    least_active: ClassVar[int] = 1

    cloud: Cloud
    plan: Plan
    seed: int
    model: State = field(init=False)
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        self.model = {name: value.clone() for name, value in self.initial().items()}
        self.axes = self.cloud.architectures[self.architecture].part(FULL).axes()

    def initial(self) -> State:
        """The cloud model that the method starts from."""
        return self.cloud.dense_state if self.architecture == "dense" else self.modular_model.body.state()

    @property
    def modular_model(self) -> ModularModel:
        """The modular cloud model and its selector, for a method that works on one."""
        return self.cloud.modular_model

    def cohort(self, round_: int) -> list[int]:
        """The devices of a round (1, 2, ...): drawn without replacement, from the seed and the round alone."""
        drawn = rng(self.seed, Purpose.COHORT, round_).choice(self.plan.devices, self.plan.cohort, replace=False)
        return sorted(int(device) for device in drawn)

    @abstractmethod
    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        """What each queried device is asked to train; a device left out sits the round out."""

    @abstractmethod
    def absorb(
        self, round_: int, tasks: Mapping[int, Task], updates: Sequence[Update], profiles: Sequence[Profile]
    ) -> None:
        """Merge what came back: put a new state in place of ``self.model``, never write into the old one."""

    @abstractmethod
    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        """What each device is given for use at this moment; it is scored on that. Asked for some devices at a time."""

    def lost(self, device: int) -> None:
        """A device no longer holds what it kept: it cannot go on from that, and is to be sent a model again."""

    def saved(self) -> dict[str, Any]:
        """What must outlive a round: plain values, tensors, `Task`s, and lists, sets and mappings of them.

        A method that remembers more than its model adds it here and takes it back in `load`; what follows from the
        seed, the plan or the round is not saved.
        """
        return {"model": self.model}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave, in a new process."""
        self.model = saved["model"]

    @property
    def has_global_model(self) -> bool:
        """Whether scoring the cloud model on the global test set means anything for this method."""
        return True

    def empty_sum(self) -> WeightedSum | Robust:
        """What the updates of a merge are added to, by the plan's rule."""
        if self.plan.robust == "none":
            return WeightedSum(self.axes, self.model)
        return Robust(self.axes, self.plan.robust, self.plan.trim)

    def _whole(self, devices: Sequence[int], epochs: int, **how: Any) -> dict[int, Task]:
        """For each device a task over all of the dense model that concerns it (`Cloud.parts`): one object for those of
        the same part, so that it is packed once."""
        made: dict[int, Task] = {}
        for part in {device % len(self.cloud.parts) for device in devices}:
            coverage = self.cloud.parts[part]
            state = extract(self.model, self.axes, coverage) if coverage else self.model
            made[part] = Task(
                "dense", coverage, state, epochs, self.cloud.dense_costs.whole, masked=self.masked, **how
            )  # fmt: skip
        return {device: made[device % len(self.cloud.parts)] for device in devices}


class Averaging(Strategy):
    """A method that merges by a weighted mean over coverages.

    How an update counts is said by its task alone, so updates may be added up wherever they are, in any order and in
    parts (`fl.server.sums`).
    """

    def absorb(
        self, round_: int, tasks: Mapping[int, Task], updates: Sequence[Update], profiles: Sequence[Profile]
    ) -> None:
        total = self.empty_sum()
        for update in sorted(updates, key=lambda u: u.device):
            count(total, self.axes, tasks[update.device], update)
        self.adopt(total)

    def adopt(self, total: WeightedSum | Robust) -> None:
        """The mean becomes the model."""
        self.model = self.cloud.merged(self.model, total.finish(self.model))


def count(total: WeightedSum | Robust, axes: Axes, task: Task, update: Update) -> None:
    """Add one update. A device that tells its classes covers only their rows of the classifier (HeteroFL)."""
    held = {} if update.classes is None else {"classes": torch.tensor(update.classes)}
    state = extract(update.state, axes, held) if held else update.state
    weight = update.examples if task.weight == "examples" else 1.0
    total.add(state, {**task.coverage, **held}, weight, task.index_weights)


def discount(staleness: int) -> float:
    """How much a late update still counts: s(t) = 1 / sqrt(1 + t) after t merges (FedBuff, arXiv:2106.06639)."""
    return (1 + staleness) ** -0.5


def rebase(strategy: Strategy, task: Task, update: Update, staleness: int) -> Update:
    """A late update as one of the present model: present part + s(staleness) * (trained - sent).

    Any `Strategy.absorb` can merge it; for FedAvg the outcome is FedBuff's, w + mean_k s_k delta_k, with
    the mean weighted by examples. An update that is not late is returned as it is.
    """
    if not staleness or task.state is None:
        return update
    now, s = extract(strategy.model, strategy.axes, task.coverage), discount(staleness)
    state = {
        name: value + s * (update.state[name] - task.state[name]) if value.is_floating_point() else update.state[name]
        for name, value in now.items()
    }
    return replace(update, state=state)


def sub_sizes(architecture: Architecture, coverage: Coverage) -> dict[str, int]:
    """Only the axis sizes in which a sub-model differs from the whole."""
    return {a: n for a, n in covered_sizes(architecture.sizes, coverage).items() if n != architecture.sizes[a]}
