"""Pretraining: the cloud models that are trained on proxy data, each when a method first asks for it.

    early     the dense model for ``pretrain.dense-epochs``
    dense     early, trained for as many more epochs as the modular model gets
    modular   body, selector and mappings of ECLM, made from early (ECLM 4.3)
    tailored  the same, its ability enhanced on sub-models as clients get them, with dense as its teacher
    nested    the dense model trained so that its prefixes work alone (FjORD)
    rolling   the same for windows that start anywhere (FedRolex)
    supernet  branches grown from dense, trained for as many more epochs (AdaptiveNet)

All of them see the same data for the same number of epochs, except the supernet, which starts from a trained dense
model, and tailored, which learns from one; a step of tailored, nested and rolling takes two passes. Each is kept in the
cache folder under the hash of everything that decides *it*: experiments share models, and a new option of one model
leaves the others valid.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.common.logger import log
from safetensors import SafetensorError
from torch import Tensor

from fl.config import SettingsError
from fl.config.sections import Pretrain
from fl.workloads.state_file import read_state, write_state
from fl.workloads.world import build_selector, class_frequencies, routing, tensors
from models.costs import CostModel
from models.elastic.nested import RATES, ordered_dropout, recalibrate_batch_norm, self_distillation
from models.elastic.supernet import distillation, grow, random_paths
from models.modular.model import ModularModel, Progress, enhance, mapping, train_end_to_end
from models.modular.modularize import modularize
from models.modular.selector import Selector
from models.modular.subtasks import co_occurring
from models.modular.tailor import tailor
from models.nn.body import Architecture, Body, cpu_state
from models.nn.find_axes import NARROW
from models.submodel import FULL, Coverage, State, under
from models.training.loop import Augment, Extra, Precision, Recipe, fit, flip_and_shift
from partitions import LocalData, Purpose, World, rng
from partitions.root import cache_folder
from strategies.core.pretrained import PretrainedModels
from strategies.eclm import ModularOptions

SURVEYED = 500  # most clients whose data are looked at
TAKEOVER_SAMPLES = 2000  # that centre the selector's first logits
UNKNOWN = 4  # modules per sub-task if nothing is known of the clients' data
OURS = ("models", "partitions", "strategies", "fl")
VERSION = 6  # raise it when the code that trains a model changes what it computes


def cached(
    name: str, decides: Mapping[str, Any], seed: int, train: Callable[[], State], rate: str = "pretrain.lr"
) -> State:
    """Return a cloud model from the cache, or train it now.

    Args:
        name: of the model; decides: everything that decides its parameters, as plain values.
        rate: key of the learning rate.

    Raises:
        SettingsError: its training diverged.
    """
    path = address(name, decides, seed)
    try:
        return read_state(path)
    except Exception as error:  # safetensors has an error type of its own for a damaged file
        if path.exists():
            log(WARNING, "the cached cloud model %s is unreadable (%s): it is trained again", path, error)
    trained = train()
    if odd := [entry for entry, value in trained.items() if not torch.isfinite(value).all()]:
        raise SettingsError(
            f"the cloud model '{name}' diverged in pretraining: {odd[0]} is not finite; choose a lower {rate}"
        )
    _keep(path, trained)
    return trained


def address(name: str, decides: Mapping[str, Any], seed: int) -> Path:
    """Return the file of a cloud model: its name and the hash of everything that decides it."""
    what = {**decides, "seed": seed, "version": VERSION, "torch": torch.__version__}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
    return cache_folder() / "offline" / f"{name}-{digest}.safetensors"


def code_of(component: Callable[..., Any]) -> str:
    """Return a hash of the file that defines a component of the user's own; empty for one of this project.

    A change in this project that changes what is computed raises `VERSION` instead.
    """
    module = sys.modules[component.__module__]
    if component.__module__.partition(".")[0] in OURS or not getattr(module, "__file__", None):
        return ""
    return hashlib.blake2b(Path(str(module.__file__)).read_bytes(), digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False)
class Pretraining:
    """Pretraining of one seed: each cloud model is a method of its name that trains it.

    Args:
        world: data of the seed; architectures: by name; family: options of the dense model.
        section: the run-config section ``pretrain``; modular: how the modular model is made.
        slices: widths of a block in AdaptiveNet's supernet; batch_size, slots: of local training, for costs.
        clients: how many exist, for what is asked of their data; held: returns how many modules of a layer an
            average client can hold.
        place, precision: where and how networks compute.
    """

    world: World | LocalData
    seed: int
    architectures: Mapping[str, Architecture]
    family: Mapping[str, Any]
    section: Pretrain
    modular: ModularOptions
    slices: int
    clients: int
    held: Callable[[], float]
    place: torch.device
    precision: Precision
    progress: Progress | None = None

    def models(self, costs: Mapping[str, CostModel]) -> PretrainedModels:
        """Return the cloud models, each read from the cache or trained when it is first used."""
        states = {name: partial(self.artefact, name) for name in ("dense", "nested", "rolling", "supernet")}
        modular = {name: partial(self.modular_model, name) for name in ("modular", "tailored")}
        return PretrainedModels(
            architectures=self.architectures,
            costs=costs,
            train={**states, **modular},
            class_shares=class_frequencies(self.world),
            recalibrate=self.recalibrated,
        )

    @cached_property
    def _early(self) -> dict[str, Any]:
        """What decides the early dense model."""
        proxy = hashlib.blake2b(np.ascontiguousarray(self.world.proxy()).data, digest_size=16).hexdigest()
        return {
            "pretrain": self.section.model_dump(exclude={"modular_epochs", "ability_epochs"}),
            "data": self.world.data.digest,
            "proxy": proxy,
            "model": self.family,
            "arithmetic": [self.place.type, self.precision],
        }

    def decides(self, name: str) -> dict[str, Any]:
        """Return everything that decides a cloud model, as plain values."""
        if name == "early":
            return self._early
        what = self._early | {"later": [self.section.modular_epochs, self.section.ability_epochs]}
        if name == "supernet":
            what |= {"slices": self.slices, "statistics": "of the paths"}
        if name in ("modular", "tailored"):
            what["modular"] = self.modular.model_dump(include=set(ModularOptions.model_fields))
            what["modular"]["kappa2"] = self.kappa2
            if self.modular.subtasks == "groups":
                world = self.world
                assert isinstance(world, World)
                what["clients"] = [repr(world.partition), list(world.samples), self.clients]
                if world.samples_skew:
                    what["clients"].append(world.samples_skew)
                if world.client_domains:
                    what["clients"].append(world.client_domains)
                if not np.array_equal(world.start, world.frequencies):
                    what["clients"].append(world.start.tolist())
        return what

    def artefact(self, name: str) -> State:
        """Return a cloud model from the cache, or train it now."""
        return cached(name, self.decides(name), self.seed, getattr(self, f"train_{name}"))

    def train_early(self) -> State:
        """Train the dense model before it is cut into modules."""
        body = self.architectures["dense"].whole(self._integer(Purpose.INIT)).to(self.place)
        self._fit(body, self.section.dense_epochs, 0, "dense model")
        return body.state()

    def train_dense(self) -> State:
        """Train the dense model for as many more epochs as the modular one."""
        body = self._body("dense", self.artefact("early"))
        self._fit(body, self._later, 1, "dense model, continued")
        return body.state()

    def train_nested(self, rolling: bool = False) -> State:
        """Train the dense model with narrower widths that learn from the widest, for as many epochs as dense."""
        architecture, epochs = self.architectures["dense"], self.section.dense_epochs + self._later
        body = architecture.whole(self._integer(Purpose.INIT)).to(self.place)
        narrower = self_distillation(ordered_dropout(architecture, body, RATES[1:], self._generator(5), rolling))
        self._fit(body, epochs, 4, "rolling widths" if rolling else "nested widths", narrower)
        return body.state()

    def train_rolling(self) -> State:
        """Train the nested model for windows that start anywhere."""
        return self.train_nested(rolling=True)

    def train_supernet(self) -> State:
        """Train AdaptiveNet's supernet: branches grown from the dense model, which then teaches random paths.

        Raises:
            SettingsError: the model has no module layers.
        """
        self._require_layers("AdaptiveNet")
        built, slices = self.architectures, self.slices
        teacher = self._body("dense", self.artefact("dense"))
        body = self._body("supernet", grow(built["dense"], teacher.state(), slices))
        paths = random_paths(built["supernet"], body, slices, self._generator(7))
        self._fit(paths, self._later, 6, "supernet", distillation(teacher))
        return body.state()

    def train_modular(self, tailored: bool = False) -> State:
        """Train body, selector and mappings of ECLM: end to end from the early dense model, then ability enhancing."""
        how, recipe, (x, y) = self.modular, self._recipe, self._proxy()
        cut = how.modules, how.shrink, how.residual
        _, taken = modularize(self.architectures["dense"], self.artefact("early"), *cut)
        body = self._body("modular", taken)
        selector = self._selector(tailored, self._integer(Purpose.INIT, 1))
        if how.takeover == "one-of-each":
            first = torch.Generator().manual_seed(self._integer(Purpose.INIT, 2))
            selector.choose_one_copy_of_each(x[:TAKEOVER_SAMPLES], how.shrink, first)
        model = ModularModel(body, selector, routing(how, selector))
        train_end_to_end(
            model, x, y, recipe, self.section.modular_epochs, self._generator(2), how.balance, self.progress,
            self._augment,
        )  # fmt: skip
        subtask, subtasks = self._subtasks
        enhancing = partial(tailor, teacher=self._body("dense", self.artefact("dense"))) if tailored else enhance
        found, wanted = enhancing(
            model, x=x, y=y, subtask=subtask, subtasks=subtasks, recipe=recipe, epochs=self.section.ability_epochs,
            generator=self._generator(3), strength=how.ability, slack=how.kappa1, kappa2=self.kappa2,
            progress=self.progress, augment=self._augment,
        )  # fmt: skip
        reached = mapping([selector.specialists(layer) for layer in model.logits(x)], subtask, subtasks)
        state = {f"body.{k}": v for k, v in body.state().items()}
        state |= {f"selector.{k}": v for k, v in cpu_state(selector).items()}
        for name, matrices in (("found", found), ("wanted", wanted), ("reached", reached)):
            state |= {f"mapping.{name}.{i}": torch.from_numpy(np.ascontiguousarray(m)) for i, m in enumerate(matrices)}
        return state

    def train_tailored(self) -> State:
        """Train the modular model and enhance its ability on sub-models as clients get them."""
        return self.train_modular(tailored=True)

    def modular_model(self, name: str) -> ModularModel:
        """Return the cloud model ``modular`` or ``tailored`` as networks.

        Raises:
            SettingsError: the model has no module layers.
        """
        self._require_layers("ECLM")
        state = self.artefact(name)
        selector = self._selector(name == "tailored")
        selector.load_state_dict(under(state, "selector."))
        return ModularModel(self._body("modular", under(state, "body.")), selector, routing(self.modular, selector))

    def recalibrated(self, coverage: Coverage, state: State) -> State:
        """Return a part of the dense model with batch-norm statistics estimated on the proxy data."""
        body = self._body("dense", state, coverage)
        recalibrate_batch_norm(body, self._proxy()[0])
        return body.state()

    # what the models share

    @property
    def _later(self) -> int:
        """Epochs of the modular model after it was cut."""
        return self.section.modular_epochs + self.section.ability_epochs

    @property
    def _recipe(self) -> Recipe:
        s = self.section
        return Recipe(s.lr, s.batch_size, s.optimizer, s.momentum, s.weight_decay, 1.0, self.precision)

    @property
    def _augment(self) -> Augment | None:
        return flip_and_shift if self.section.augment and len(self.world.data.input_shape) == 3 else None

    def _proxy(self) -> tuple[Tensor, Tensor]:
        return tensors(self.world.data, "train", self.world.proxy())

    def _selector(self, core: bool, seed: int | None = None) -> Selector:
        return build_selector(self.architectures["modular"], self.modular, seed, core).to(self.place)

    @cached_property
    def kappa2(self) -> int:
        """The most modules per sub-task (ECLM 4.3): given, or such that an average client can hold those that it needs.

        The rule divides the modules of a layer that an average client can hold by the sub-tasks of the median client
        (the exponential of their entropy, at the start), and rounds down. A cloud that does not know the clients' data
        takes `UNKNOWN`.
        """
        from scipy.stats import entropy  # slow import; clients do not need it

        if self.modular.kappa2:
            return self.modular.kappa2
        if isinstance(self.world, LocalData):
            return UNKNOWN
        of_sample, _ = self._subtask_of
        each = [entropy(np.bincount(of_sample[rows])) for rows in self._samples]
        return max(1, math.floor(self.held() / np.exp(np.median(each)) + 1e-9))

    @property
    def _subtasks(self) -> tuple[Tensor, int]:
        """The sub-task of each proxy sample, and their number (ECLM 4.3, step 1)."""
        of_sample, count = self._subtask_of
        return torch.from_numpy(of_sample[self.world.proxy()]).long(), count

    @cached_property
    def _subtask_of(self) -> tuple[np.ndarray, int]:
        """The sub-task of each training sample, and their number."""
        data = self.world.data
        labels = data.labels("train")
        if self.modular.subtasks == "domain":
            assert data.domain_train is not None  # `Classify.pretraining` has looked
            return data.domain_train, len(data.domains)
        if self.modular.subtasks == "groups":
            counts = [np.bincount(labels[rows], minlength=data.num_classes) for rows in self._samples]
            group = co_occurring(np.array(counts))
            return group[labels], int(group.max()) + 1
        return labels, data.num_classes

    @cached_property
    def _samples(self) -> list[np.ndarray]:
        """The training samples of each client at the start."""
        return [self.world.draw(client, 0).train for client in range(min(self.clients, SURVEYED))]

    def _require_layers(self, method: str) -> None:
        if not self.architectures["modular"].part(FULL).layers:
            raise SettingsError(
                f"{method} needs a model with module layers, and this model has none: choose another model or other "
                f"strategies, or give a network of your own a layer of at least {NARROW} channels, a multiple of 8 "
                "(`python -m experiments inspect` shows what can be cut)"
            )

    def _generator(self, phase: int) -> np.random.Generator:
        return rng(self.seed, Purpose.OFFLINE, phase)

    def _integer(self, *where: int) -> int:
        return int(rng(self.seed, *where).integers(2**31))

    def _body(self, architecture: str, state: State, coverage: Coverage = FULL) -> Body:
        body = self.architectures[architecture].part(coverage).to(self.place)
        body.load_state_dict(state)
        return body

    def _fit(self, body: Body, epochs: int, phase: int, what: str, extra: Extra | None = None) -> None:
        """Train on the proxy data; ``phase`` addresses the order of the samples, ``extra`` adds to the loss."""

        def report(epoch: int, of: int) -> None:
            if self.progress:
                self.progress(what, epoch, of)

        x, y = self._proxy()
        fit(
            body, x, y, self._recipe, epochs, self._generator(phase),
            cosine=True, on_epoch=report, augment=self._augment, extra=extra,
        )  # fmt: skip


def _keep(path: Path, state: State) -> None:
    """Write the file whole or not at all: two runs may write it at once, and a run works without it."""
    try:
        write_state(path, state)
    except (OSError, SafetensorError) as error:
        log(WARNING, "the cloud model is not kept in %s (%s): the next run trains it again", path, error)
