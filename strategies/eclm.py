"""ECLM: a personal sub-model for every client, made of the modules that matter to its data and fit its limits.

Zhuang et al., "ECLM: Efficient Edge-Cloud Collaborative Learning with Continuous Environment Adaptation".

ECLM+ is ECLM with three changes of ours (docs/results/eclm.md, ablation), each an option:

    prior      a client corrects logits by its class shares, in training and in use: it knows its sub-task, and need
               not learn from few samples how often each class occurs (Menon et al. 2021, arXiv:2007.07314)
    tailored   module ability is enhanced on sub-models as clients get them, and every layer has a core module that all
               clients hold (`models.modular.tailor`)
    smooth     with the prior: class shares by empirical Bayes (`models.training.class_shares`); not in ECLM+
    blend      a client uses the mean of its sub-model as delivered and as adapted (Wortsman et al. 2022,
               arXiv:2109.01903): a hundred samples teach, but they also overwrite
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models.costs import BACKWARD, Cost
from models.modular.derive import Infeasible, choose, choose_many, importance_shift, smallest_submodel
from models.modular.model import ModularModel
from models.modular.selector import Selector, importance
from models.nn.body import by_axis, columns_coverage, cpu_state, gate_columns
from models.submodel import State, covered_sizes, extract
from partitions.components import Section
from strategies.core.averaging import Averaging
from strategies.core.client import ClientTask, ClientTrainer, Limits, LocalModel
from strategies.core.server_step import ServerStep
from strategies.core.strategy import Budget, Profile, SubModel, TrainTask
from strategies.core.subset import active_cost
from strategies.fedavg import Prior

CANDIDATES = "held"  # file of the candidate modules that a client holds


class ModularOptions(Section):
    """How the modular cloud model is made and trained."""

    modules: int = Field(16, ge=1, description="modules in each module layer of the cloud model (N)")
    shrink: int = Field(8, ge=1, description="how many times narrower a module is than the block that it comes from")
    residual: bool = Field(False, description="one more module in every layer, that passes its input through (4.1)")
    top_k: int = Field(6, ge=1, description="modules active per sample in each layer")
    takeover: Literal["random", "one-of-each"] = Field(
        "random",
        description="with twice as many modules as shrink, which copies of the dense model's slices a sample begins "
        "with: any, or one of each slice, so that training begins from the dense model (ours)",
    )
    selector_width: int = Field(16, ge=4, description="width of the selector's embedding")
    balance: float = Field(0.1, ge=0, description="weight of the load-balance loss (lambda, 4.3)")
    ability: float = Field(1.0, ge=0, description="weight of the KL term in ability enhancing (lambda, 4.3)")
    subtasks: Literal["class", "groups", "domain"] = Field(
        "class", description="what a sub-task is: a class, classes that occur together on clients, or a subject"
    )
    kappa1: float = Field(1.25, gt=0, description="load limit of a module, as a multiple of the even load")
    kappa2: int = Field(
        0,
        ge=0,
        description="most modules per sub-task; 0: as many as an average client can hold of a layer, divided by the "
        "sub-tasks of the median client",
    )


class SelectiveClient(ClientTrainer):
    """Measures module importance, and may choose among candidate modules that it holds."""

    def profile(self) -> dict[str, Any]:
        """Return the importance of each module to the client's data (5.1).

        A client that holds candidate modules also says which, unless it asks the server for others.
        """
        found = self._importance()
        answer: dict[str, Any] = {f"importance.{layer}": scores.tolist() for layer, scores in found.items()}
        if self.client.store.holds(CANDIDATES):
            with suppress(self.client.store.Missing):  # a damaged file: the client holds nothing and gets new modules
                usable, macs = self._usable_candidates()
                answer |= {f"held.{layer}": kept.tolist() for layer, kept in usable.items()} | {"macs": macs}
        if self.options.importance_noise:
            answer |= self._private(found)
        return answer

    def select(self, state: State | None) -> LocalModel:
        """Activate the candidates that fit the client's data and limits now, without the network (5.1)."""
        if not self.task.options.get("reselect"):
            return super().select(state)
        received, held = state if state is not None else self.client.store.load("model"), self.task.modules
        try:
            active = choose(
                self.client.costs("modular"), self._importance(), self.client.limits().vector, Limits.names, held,
                self.options.reserves,
            )  # fmt: skip
        except Infeasible:
            active = smallest_submodel(self._importance(), held)
        sizes = {**self.client.architecture(self.task).sizes, **self.task.sizes}
        inside = {layer: np.searchsorted(held[layer], kept) for layer, kept in active.items()}
        self.model = self.client.load(self.task, received, columns_coverage(sizes, inside))
        self.model.modules = active
        return self.model

    def gates(self, model: LocalModel, x: Tensor) -> list[Tensor] | None:
        if self.task.architecture != "modular":
            return None
        selector = self._selector()
        routing, logits = self.client.routing(selector), selector.logits(x)
        columns = [
            torch.from_numpy(model.modules[layer]) if layer in model.modules else slice(None)
            for layer in model.network.layers
        ]
        return [routing.gates(layer[:, kept]) for layer, kept in zip(logits, columns, strict=True)]

    def keep(self, model: LocalModel, state: State) -> None:
        """Keep everything received. Of new candidates also keep which they are and the importance of all modules."""
        super().keep(model, state)
        if self.task.state is not None and self.task.options.get("reselect"):
            held = {f"held.{layer}": torch.as_tensor(kept) for layer, kept in self.task.modules.items()}
            then = {f"then.{layer}": torch.from_numpy(v) for layer, v in self._importance().items()}
            shares = torch.tensor(self.task.options.get("shares", []))
            flags = self.task.options["masked"] == "prior", self.task.options.get("smooth", False)
            self.client.store.save(CANDIDATES, held | then | {"prior": torch.tensor(flags), "shares": shares})

    def _selector(self) -> Selector:
        state = self.client.store.load("selector")
        selector = self.client.selector(core="core" in state)
        selector.load_state_dict(state)
        return selector

    def _importance(self) -> dict[str, np.ndarray]:
        """(M,) per layer: mean gate of each module over the client's training samples (5.1)."""
        x, _ = self.client.samples("train")
        scores = importance(self._selector().logits(x))
        return {layer: values.double().numpy() for layer, values in zip(self.client.module_layers, scores, strict=True)}

    def _usable_candidates(self) -> tuple[dict[str, np.ndarray], float]:
        """Return the modules that the client holds, none if it asks for others; and the MACs spent to find out.

        The client asks the server for other modules if (6, iii)
            1. its data drifted: importance is further from that at derivation than ``shift-threshold``, and
            2. it cannot help itself: with re-selected modules, trained on four fifths of its data, its accuracy on the
               other fifth is below ``required-accuracy``.
        """
        kept = self.client.store.load(CANDIDATES)
        held = {name.removeprefix("held."): v.numpy() for name, v in kept.items() if name.startswith("held.")}
        then = {name.removeprefix("then."): v.numpy() for name, v in kept.items() if name.startswith("then.")}
        if importance_shift(self._importance(), then) <= self.options.shift_threshold:
            return held, 0.0
        whole = self.client.costs("modular").architecture.sizes
        prior, smooth = kept["prior"].tolist()
        options = {"masked": "prior" if prior else "none", "smooth": smooth, "reselect": True}
        task = ClientTask(
            architecture="modular",
            sizes=covered_sizes(whole, columns_coverage(whole, held)),
            modules=held,
            epochs=self.client.adapt_epochs,
            options=options | {"shares": kept["shares"].tolist()},
        )
        trial = type(self)(self.options, task, self.client.at_round(0))
        x, y = self.client.samples("train")
        if len(x) < 2:  # too few samples to train on some and score on others
            return {}, 0.0
        model, out = trial.select(None), torch.arange(len(x)) % 5 == 0
        trial.client.fit(trial, model, x[~out], y[~out])
        accuracy = trial.client.score(trial, model, x[out], y[out]).accuracy
        sizes = {axis: len(kept) for axis, kept in model.active.items()}
        macs = float(BACKWARD * self.client.costs("modular").of(sizes).macs * int((~out).sum()) * task.epochs)
        return (held if accuracy >= self.options.required_accuracy else {}), macs

    def _private(self, found: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
        """Return noisy importance: two clients' distributions over L layers differ by at most sqrt(2 L)."""
        deviation, noise = self.options.importance_noise * (2 * len(found)) ** 0.5, self.client.noise(1)
        private = {}
        for layer, values in found.items():
            noisy = np.maximum(values + deviation * noise.standard_normal(len(values)), 0) + 1e-12
            private[f"importance.{layer}"] = (noisy / noisy.sum()).tolist()
        return private


class ECLM(Averaging):
    """Query, derive (5.1), train locally, aggregate module by module (5.2).

    'eclm' is scored after local adaptation; 'eclm-derive' is the paper's ECLM w/o local adaptation (7.3).
    """

    reports = {"eclm-derive": "delivered", "eclm": "adapted"}
    architecture = "modular"
    starts_from = "modular"
    asks = "importance"
    section = "eclm"
    Client = SelectiveClient

    class Options(ModularOptions, Prior, ServerStep):
        tailored: bool = Field(False, description="enhance module ability on sub-models as clients get them (ours)")
        blend: float = Field(
            1.0,
            ge=0,
            le=1,
            description="weight of the adapted model in the mean with the delivered one, for use (ours)",
        )
        candidates: float = Field(
            0.0,
            ge=0,
            description="a client holds modules for so many times its link budget; 0: those that it activates",
        )
        shift_threshold: float = Field(
            0.15, ge=0, le=1, description="candidates: total variation of module importance that is a drift"
        )
        required_accuracy: float = Field(
            1.0, ge=0, le=1, description="candidates: local accuracy below which a client asks the server for others"
        )
        importance_noise: float = Field(
            0.0, ge=0, description="Gaussian noise on importance, standard deviation over sqrt(2 x module layers)"
        )
        reserve: bool = Field(
            False,
            description="with residual modules: first reserve the most important module of each layer, as the paper "
            "does, although another one may fit better",
        )

        @property
        def reserves(self) -> bool:
            """Whether the most important module of each layer is reserved: every tailored sub-model has the core."""
            return self.reserve or self.tailored

    @classmethod
    def check(cls, options: Any, budget: Budget) -> None:
        if options.top_k > options.modules:
            raise ValueError(
                f"eclm.top-k = {options.top_k} is more than there are modules per layer "
                f"(eclm.modules = {options.modules})"
            )
        if options.tailored and options.top_k < 2:
            raise ValueError(
                f"eclm.top-k = {options.top_k}: tailored sub-models need 2 active modules per layer, one is the core"
            )
        if 0 < options.candidates < 1:
            raise ValueError(
                f"eclm.candidates = {options.candidates} is less than what a client activates; use 0 or at least 1"
            )

    @classmethod
    def needs(cls, options: Any) -> set[str]:
        return super().needs(options) | {"class-shares", "tailored" if options.tailored else "modular"}

    def initial_model(self) -> State:
        return self.modular_model.body.state()

    @property
    def modular_model(self) -> ModularModel:
        """The modular cloud model and its selector."""
        return self.models.modular("tailored" if self.options.tailored else "modular")

    def shared_state(self) -> Mapping[str, State]:
        return {"selector": cpu_state(self.modular_model.selector)}

    def read_profile(self, client: int, limits: Limits, report: Mapping[str, Any]) -> Profile:
        """Read importance and the candidates that a client holds.

        Raises:
            ValueError: importance is no distribution, or the modules do not exist.
        """
        sizes, layers = self.models.architectures["modular"].sizes, self.models.costs["modular"].layers
        modules = {layer: len(gate_columns(sizes, layer)) for layer in layers}
        values: dict[str, dict[str, np.ndarray]] = {"importance": {}}
        for layer, count in modules.items():
            scores = np.asarray(report[f"importance.{layer}"], dtype=float)
            valid = scores.shape == (count,) and np.isfinite(scores).all() and (scores >= 0).all()
            if not valid or abs(scores.sum() - 1) > 1e-3:
                raise ValueError(f"importance of {layer} is not a distribution over {count} modules")
            if self.modular_model.routing.core:
                scores[0] = scores.max()  # every sub-model has the core, whatever noise or a false report says
            values["importance"][layer] = scores
        if any(name.startswith("held.") for name in report):
            values["held"] = {}
            for layer, count in modules.items():
                held = np.asarray(report[f"held.{layer}"], dtype=int)
                if not len(held) or not np.isin(held, np.arange(count)).all() or (np.diff(held) <= 0).any():
                    raise ValueError(f"modules held of {layer} are not rising numbers below {count}: {held}")
                values["held"][layer] = held
        return Profile(client, limits, values)

    def derive(self, profiles: Sequence[Profile]) -> list[dict[str, np.ndarray] | None]:
        """Return the module numbers that each client activates, per layer; None if its limits admit no sub-model."""
        scores = [p.values["importance"] for p in profiles]
        limits = [p.limits.vector for p in profiles if p.limits is not None]
        return choose_many(self.models.costs["modular"], scores, limits, Limits.names, self.options.reserves)

    def candidates(self, profile: Profile) -> dict[str, np.ndarray]:
        """Return the module numbers that a client holds and chooses from: inactive modules take only the link.

        Raises:
            Infeasible: the link does not admit one module per layer.
        """
        assert profile.limits is not None
        link_alone = np.array([self.options.candidates * profile.limits.bytes, np.inf, np.inf])
        scores = profile.values["importance"]
        return choose(self.models.costs["modular"], scores, link_alone, Limits.names, reserve=self.options.reserves)

    def part(self, modules: Mapping[str, np.ndarray], epochs: int) -> TrainTask:
        """Return a task over the sub-model of some modules."""
        coverage = columns_coverage(self.models.architectures["modular"].sizes, modules)
        price = self.models.costs["modular"].of({axis: len(kept) for axis, kept in coverage.items()})
        model = SubModel("modular", coverage, extract(self.model, self.axes, coverage))
        return TrainTask(model, epochs, price, options=self.client_options(blend=self.options.blend))

    def serve(self, profile: Profile, epochs: int, derived: Mapping[str, np.ndarray] | None) -> TrainTask | None:
        """Return a sub-model for use; None if nothing fits.

        With candidates, a client that can use the modules that it holds continues with them; any other client is sent
        new ones. Either way it selects among them by itself.

        Args:
            derived: what `derive` returned; not used with candidates.
        """
        if not self.options.candidates:
            return self.part(derived, epochs) if derived else None
        held = profile.values.get("held")
        try:
            modules = held or self.candidates(profile)
        except Infeasible:
            return None
        task = self.part(modules, epochs)
        task = replace(task, keep=True, options={**task.options, "reselect": True})
        return task.without_state() if held else task

    def train_task(self, profile: Profile, modules: Mapping[str, np.ndarray]) -> TrainTask:
        """Return what a client trains, and how that counts: w_i <- sum_k a_ik w_ik (5.2).

        a_ik is the importance of module i on client k, normalised over those that have it; entries that every
        sub-model has (stem, norms, head) are averaged by examples.
        """
        task = self.part(modules, self.budget.local_epochs)
        scores = by_axis(self.models.architectures["modular"].sizes, profile.values["importance"])
        weights = {axis: torch.from_numpy(scores[axis])[kept].float() for axis, kept in task.model.coverage.items()}
        return replace(task, index_weights=weights)

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return {
            profile.client: self.train_task(profile, modules)
            for profile, modules in zip(profiles, self.derive(profiles), strict=True)
            if modules is not None  # otherwise no sub-model fits: the client skips the round
        }

    def served(self, profiles: Sequence[Profile], epochs: int) -> dict[int, TrainTask]:
        """Return what `serve` gives each client, without those that nothing fits."""
        derived = [None] * len(profiles) if self.options.candidates else self.derive(profiles)
        tasks = {p.client: self.serve(p, epochs, modules) for p, modules in zip(profiles, derived, strict=True)}
        return {client: task for client, task in tasks.items() if task}

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return self.served(profiles, self.budget.adapt_epochs)

    def cost(self, task: TrainTask, report: Mapping[str, Any]) -> Cost:
        return active_cost(self.models.costs["modular"], task, report) if task.options.get("reselect") else task.cost

    def trial_macs(self, task: TrainTask | None) -> float:
        return BACKWARD * self.budget.adapt_epochs * self.models.costs["modular"].whole.macs if task is None else 0.0


class ECLMPrior(ECLM):
    """ECLM with the class prior."""

    reports = {"eclm-prior-derive": "delivered", "eclm-prior": "adapted"}
    preset = {"prior": True}


class ECLMTailored(ECLM):
    """ECLM with tailored ability training."""

    reports = {"eclm-tailored-derive": "delivered", "eclm-tailored": "adapted"}
    preset = {"tailored": True}


class ECLMBlended(ECLM):
    """ECLM with interpolation after adaptation."""

    reports = {"eclm-blend": "adapted"}
    preset = {"blend": 0.5}


class ECLMSmooth(ECLM):
    """ECLM with tailored ability training and the class prior from smoothed shares; no interpolation.

    Where clients' data are strange to the cloud, half of a model that is not adapted is a bad half.
    """

    reports = {"eclm-smooth-derive": "delivered", "eclm-smooth": "adapted"}
    preset = {"prior": True, "smooth": True, "tailored": True}


class ECLMAdam(ECLMSmooth):
    """The same, and the server makes a step of Adam towards the merged modules."""

    reports = {"eclm-adam-derive": "delivered", "eclm-adam": "adapted"}
    preset = {**ECLMSmooth.preset, "step": "adam"}


class ECLMPlus(ECLM):
    """ECLM with all three."""

    reports = {"eclm-plus-derive": "delivered", "eclm-plus": "adapted"}
    preset = {"prior": True, "tailored": True, "blend": 0.5}
