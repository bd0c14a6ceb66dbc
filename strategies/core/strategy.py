"""The server half of a method: who takes part, what each client is sent, how updates are aggregated.

The client half is `strategies.core.client.ClientTrainer`. Both halves of a method stand in one file. Between them
travels a `TrainTask`, whose ``options`` and ``tensors`` belong to the method. A strategy knows nothing of Flower, files
or clocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from models.aggregation.robust import Rule
from models.costs import Cost
from models.submodel import FULL, Coverage, State, extract
from partitions import Purpose, rng
from partitions.availability import Always, Availability
from partitions.components import Section, section_name
from strategies.core.client import ClientTrainer, Limits, Option
from strategies.core.pretrained import PretrainedModels

ALWAYS = Always()
Measure = Literal["delivered", "adapted"]
Architecture = Literal["dense", "modular", "supernet"]


@dataclass(frozen=True)
class Profile:
    """What a client answers to a query.

    Args:
        client: its number.
        limits: None if the method does not ask for them.
        values: what the method's client half adds, e.g. ECLM ``{"importance": {layer: (M,) importance of modules}}``.
    """

    client: int
    limits: Limits | None = None
    values: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class SubModel:
    """A part of a network, and its parameters.

    Args:
        architecture: one of the cloud's architectures.
        coverage: which part of it.
        state: parameters of that part; None if the client continues from the model that it kept.
    """

    architecture: Architecture
    coverage: Coverage
    state: State | None


@dataclass(frozen=True)
class TrainTask:
    """What one client is asked to do. The same type serves training and evaluation.

    Args:
        model: the sub-model to work on.
        epochs: local epochs; in evaluation, epochs of local adaptation before the second score.
        cost: cost of the sub-model, for the virtual clock.
        upload: whether the client sends the trained model back.
        keep: whether the client keeps the trained model.
        options: values for the method's client half.
        tensors: further tensors for the method's client half, by name.
        tensors_up: whether the client sends tensors of the same names and shapes back.
        weight: how an update counts in a mean: by its number of examples, or every client alike.
        index_weights: for an axis, one weight per index that the sub-model keeps, instead of ``weight``.
    """

    model: SubModel
    epochs: int
    cost: Cost
    upload: bool = True
    keep: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    tensors: Mapping[str, State] = field(default_factory=dict)
    tensors_up: bool = True
    weight: Literal["examples", "client"] = "examples"
    index_weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def without_state(self) -> "TrainTask":
        """The same task for a client that continues from the model that it kept."""
        return replace(self, model=replace(self.model, state=None))

    def start(self, report: Mapping[str, Any]) -> State | None:
        """Return the parameters that a client trained: the model, or those of ``tensors`` that it chose.

        A client half that chooses reports ``start``: 0 for the model, k for the tensors of name ``str(k)``.

        Raises:
            KeyError: it was sent no such tensors.
        """
        return self.tensors[str(report["start"])] if report.get("start") else self.model.state


@dataclass(frozen=True)
class Update:
    """What a client sends back after training.

    Args:
        client: its number.
        state: trained parameters, shaped as those that were sent; empty if nothing was uploaded.
        examples: training samples of the client.
        report: values that the method's client half added.
        tensors: further tensors that the method's client half added.
    """

    client: int
    state: State
    examples: int
    report: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What a run allows, the same for every method.

    Args:
        clients: how many exist; cohort: how many take part in a round.
        local_epochs: local epochs in a round; adapt_epochs: epochs of local adaptation and fine-tuning.
        rounds_per_step: rounds between two drifts.
        robust, trim: how updates are aggregated, see `models.aggregation.robust`; 'none' is a weighted mean.
        availability: which clients are online in a round.
    """

    clients: int
    cohort: int
    local_epochs: int
    adapt_epochs: int
    rounds_per_step: int
    robust: Rule = "none"
    trim: float = 0.2
    availability: Availability = ALWAYS

    def starts_step(self, server_round: int) -> bool:
        """Return whether data may have drifted since the round before; rounds count from 1."""
        return (server_round - 1) % self.rounds_per_step == 0


class Aggregator(ABC):
    """Collects the updates of a round. A monoid: any grouping and order of `add` and `merge` gives the same result.

    It is pickled to worker processes, which aggregate the updates of their own clients.

    Attributes:
        in_workers: whether it can be filled in worker processes; otherwise the server adds updates one by one, in the
            order of client numbers.
    """

    in_workers: bool = True

    @abstractmethod
    def add(self, task: TrainTask, update: Update) -> None:
        """Add an update. In a worker process ``task`` has no parameters."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Add everything that another aggregator of this type has collected."""

    def check(self, task: TrainTask, update: Update) -> None:
        """Raise ValueError if values that the client half reported are impossible. Called before `add`."""


class Strategy(ABC):
    """The server half of a method.

    Class attributes:
        reports: the rows of a run in the CSVs: name -> which of a client's two scores it reads, 'delivered' (the model
            as it was sent) or 'adapted' (after `Budget.adapt_epochs` local epochs). One run scores both.
        architecture: the cloud model that the method aggregates.
        starts_from: the pretrained model that it starts from, see `PretrainedModels.train`.
        asks: what a client is queried for before a round: nothing, its 'limits', or its limits and 'importance' of
            modules or 'losses' of models.
        asks_once: a client is queried once; otherwise at every step.
        shares_once: a client keeps what `shared_state` returns; otherwise every query carries it anew.
        Client: the client half.
        Options: run-config keys ``<section>.<option>``; section: name of that section, by default that of the class.
        preset: options that a named variant of the method fixes.
        offline: clients train without the server, so they take part whether or not they are online.
    """

    reports: ClassVar[Mapping[str, Measure]]
    architecture: ClassVar[Architecture] = "dense"
    starts_from: ClassVar[str] = "dense"
    asks: ClassVar[Literal["nothing", "limits", "importance", "losses"]] = "nothing"
    asks_once: ClassVar[bool] = False
    shares_once: ClassVar[bool] = True
    Client: ClassVar[type[ClientTrainer]] = ClientTrainer
    section: ClassVar[str] = ""
    preset: ClassVar[Mapping[str, Any]] = {}
    offline: ClassVar[bool] = False

    class Options(Section):
        """No options."""

    def __init_subclass__(cls) -> None:
        if "Options" in cls.__dict__ and "section" not in cls.__dict__:
            cls.section = section_name(f":{cls.__name__}")

    def __init__(self, models: PretrainedModels, budget: Budget, seed: int, options: Section | None = None):
        self.models, self.budget, self.seed = models, budget, seed
        self.options: Any = options if options is not None else self.Options(**self.preset)
        self.model: State = {name: value.clone() for name, value in self.initial_model().items()}
        self.axes = models.architectures[self.architecture].part(FULL).axes()

    @classmethod
    def needs(cls, options: Any) -> set[str]:
        """Name what the workload must offer: pretrained models, 'class-shares', what the client half needs."""
        prior = {"class-shares"} if getattr(options, "prior", False) else set()
        return {cls.starts_from} | cls.Client.hooks() | cls.Client.requires | prior

    @classmethod
    def check(cls, options: Any, budget: Budget) -> None:
        """Raise ValueError if the options are impossible together or within the budget."""

    def initial_model(self) -> State:
        """Return the cloud model that the method starts from."""
        return self.models.state(self.starts_from)

    def sample_clients(self, server_round: int) -> list[int]:
        """Draw the cohort of a round from the clients that are online, by the seed and the round alone.

        If fewer than a cohort are online, all of them take part.
        """
        online = self.online(np.arange(self.budget.clients), server_round)
        cohort = rng(self.seed, Purpose.COHORT, server_round).choice(
            online, min(self.budget.cohort, len(online)), replace=False
        )
        return sorted(int(client) for client in cohort)

    def online(self, clients: np.ndarray, server_round: int) -> np.ndarray:
        """Return those of ``clients`` (n,) that can take part in a round."""
        if self.offline:
            return clients
        return clients[self.budget.availability.online(self.seed, server_round, clients)]

    @abstractmethod
    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        """Return what each client trains; a client without a task skips the round."""

    @abstractmethod
    def aggregator(self) -> Aggregator:
        """Return an empty aggregator for the updates of a round."""

    @abstractmethod
    def server_update(self, server_round: int, aggregate: Any) -> None:
        """Replace ``self.model`` given the filled aggregator. Never write into the old tensors."""

    @abstractmethod
    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        """Return the model that each client is given for use now. Called for some clients at a time."""

    def shared_state(self) -> Mapping[str, State]:
        """Return tensors that the answer to a query needs, by the name of a file of the client (ECLM: the selector)."""
        return {}

    def read_profile(self, client: int, limits: Limits, report: Mapping[str, Any]) -> Profile:
        """Read a client's answer to a query.

        Raises:
            ValueError, KeyError, TypeError: a value is impossible.
        """
        return Profile(client, limits)

    def trial_macs(self, task: TrainTask | None) -> float:
        """Return the most MACs per sample that a client may report for trying out models before it uses one.

        Args:
            task: what it was asked; None for a query.
        """
        return 0.0

    def cost(self, task: TrainTask, report: Mapping[str, Any]) -> Cost:
        """Return what the task cost a client, which may have chosen a part of the sub-model itself.

        `Aggregator.check` must refuse reports for which this raises, if the task uploads: workers may have aggregated
        the update already.

        Raises:
            ValueError, KeyError, TypeError: the reported choice is impossible.
        """
        return task.cost

    def present(self, task: TrainTask, update: Update) -> State:
        """Return the present model in the place of the one from which a late update was trained."""
        return self.model

    def on_state_lost(self, client: int) -> None:
        """Note that a client no longer has the model that it kept. It must be sent one again."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must outlive a round: plain values, tensors, tasks, and containers of them.

        A method that remembers more than its model adds it here and reads it in `load_state_dict`.
        """
        return {"model": self.model}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, in a new process."""
        self.model = state["model"]

    @property
    def has_global_model(self) -> bool:
        """Whether the score of ``self.model`` on the global test set means anything for this method."""
        return True

    def final_models(self) -> dict[str, State]:
        """Return the models that a run may save, by name; the only one has an empty name."""
        return {"": self.model} if self.has_global_model else {}

    def client_options(self, **options: Option) -> dict[str, Option]:
        """Return the options of a task: those that every client half reads, and ``options``."""
        prior = getattr(self.options, "prior", False)
        chosen: dict[str, Option] = {"masked": "prior" if prior else "none", "rate": 1.0, "blend": 1.0, **options}
        if chosen["masked"] == "prior":
            smooth = {"smooth": True} if getattr(self.options, "smooth", False) else {}
            chosen |= {"shares": list(self.models.class_shares), **smooth}
        return chosen

    def full_model(
        self, clients: Sequence[int], epochs: int, model: State | None = None, **task: Any
    ) -> dict[int, TrainTask]:
        """Return a task over the dense model for each client, or over the part that it needs.

        Clients with the same part share one object, so that its parameters are packed once.

        Args:
            model: parameters of the dense model; None: ``self.model``.
            task: further fields of `TrainTask`.
        """
        made: dict[int, TrainTask] = {}
        parts, model = self.models.parts, self.model if model is None else model
        task = {"options": self.client_options(), "cost": self.models.costs["dense"].whole, **task}
        for part in {client % len(parts) for client in clients}:
            coverage = parts[part]
            state = extract(model, self.axes, coverage) if coverage else model
            made[part] = TrainTask(SubModel("dense", coverage, state), epochs, **task)
        return {client: made[client % len(parts)] for client in clients}
