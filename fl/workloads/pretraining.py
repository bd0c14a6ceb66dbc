"""The offline stage: what the cloud trains on its proxy data, each model made when a method first asks for it.

    early     the dense model for ``dense-epochs``
    dense     early, trained for as many epochs more as the modular model gets
    modular   body, selector and mappings of ECLM, made from early (ECLM 4.3)
    tailored  the same, its ability enhanced on sub-models as devices get them, with dense as its teacher
    nested    the dense model trained so that its prefixes work on their own (FjORD)
    rolling   the same for windows that start anywhere (FedRolex)
    supernet  branches grown from dense, trained for as many epochs more (AdaptiveNet)
    split     both halves and the codebook of workload vq, for ``dense-epochs``

All of them see the same data for the same number of epochs, but for the supernet, which starts from a trained dense
model, and for tailored, which learns from one; a step of tailored, nested and rolling takes two passes. Each is kept in
the cache folder under the hash of what decides *it*: experiments share them, and a new setting of one leaves the others
valid.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from logging import WARNING
from pathlib import Path

import numpy as np
import torch
from flwr.common.logger import log
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl.config.settings import Settings
from fl.engines.accelerator import of_cloud
from fl.workloads.world import architectures, recipe, routing, selector, tensors, world
from models.costs import CostModel
from models.elastic.nested import RATES, distilled, ordered_dropout, recalibrate_batch_norm
from models.elastic.supernet import grow, random_paths, taught
from models.modular.model import ModularModel, Progress, enhance, mapping, train_end_to_end
from models.modular.modularize import modularize
from models.modular.subtasks import co_occurring
from models.modular.tailor import tailor
from models.nn.body import Body, fetched
from models.submodel import FULL, Coverage, State
from models.training.loop import Augment, Extra, Recipe, fit, flip_and_shift
from partitions import Purpose, rng
from partitions.root import cache_folder
from strategies.base import Cloud

# What decides the outcome; anything else (rounds, drift, devices) leaves the cached models valid.
EARLY = """
    dataset image-size proxy-fraction model width norm dense-epochs offline-lr offline-batch augment optimizer momentum
    weight-decay
""".split()
LATER = ["modular-epochs", "ability-epochs"]
MODULAR = "modules module-layers shrink residual top-k selector-width balance ability subtasks kappa1 kappa2".split()
KEYS: dict[str, list[str]] = {
    "early": EARLY,
    "dense": EARLY + LATER,
    "nested": EARLY + LATER,
    "rolling": EARLY + LATER,
    "modular": EARLY + LATER + MODULAR,
    "tailored": EARLY + LATER + MODULAR,
    "supernet": EARLY + LATER + ["module-layers", "shrink"],
    "split": """
        dataset proxy-fraction tokens vocabulary dense-epochs offline-batch vq-codes vq-groups vq-hidden vq-width
        vq-preset vq-frozen vq-cloud-layers vq-pool vq-beta vq-decay vq-estimator vq-lr vq-tasks vq-gradnorm
    """.split(),
}
# What decides who holds which class, for sub-tasks of classes that occur together; most devices that tell it.
SURVEY = "partition classes-per-device alpha devices samples-min samples-max".split()
SURVEYED = 500
# What decides the last bits, and a default for which an artefact from before it was a setting stays valid.
ROUNDING = ["accelerator", "precision"]
DEFAULT = Settings.parse({}).flat()

# Raise one when the code that makes the artefact changes what it computes.
VERSIONS = dict.fromkeys(KEYS, 3) | {"modular": 4, "nested": 4, "rolling": 4, "tailored": 5, "split": 4}


def address(settings: Settings, seed: int, artefact: str) -> Path:
    """Where an artefact is kept: its name and the hash of what decides it."""
    flat = settings.flat()
    what = {key: flat[key] for key in KEYS[artefact]}
    if what.get("subtasks") == "groups":
        what |= {key: flat[key] for key in SURVEY}
    what |= {key: flat[key] for key in ROUNDING if flat[key] != DEFAULT[key]}
    what |= {"seed": seed, "version": VERSIONS[artefact], "torch": torch.__version__}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
    return cache_folder() / "offline" / f"{artefact}-{digest}.safetensors"


def cached(settings: Settings, seed: int, artefact: str, make: Callable[[], State]) -> State:
    """An artefact from the cache, or made now."""
    path = address(settings, seed, artefact)
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an error of its own for a torn file
        if path.exists():
            log(WARNING, "the cached cloud model %s is unreadable (%s): it is trained again", path, error)
    made = make()
    _keep(path, made)
    return made


def prepare(settings: Settings, seed: int, progress: Progress | None = None) -> Cloud:
    """The cloud; its models come from the cache, or are made when they are first used.

    Raises:
        SettingsError, partitions.DataError: as `fl.workloads.world` raises them.
    """
    here = world(settings, seed)
    of_cloud(settings)  # or say now that there is no such place
    classes = np.bincount(here.data.labels("train", here.proxy()), minlength=here.data.num_classes)
    built, local, stage = architectures(settings), recipe(settings), Stage(settings, seed, progress)
    return Cloud(
        dense=built["dense"],
        dense_costs=CostModel(built["dense"], local.batch_size, local.slots),
        modular=built["modular"],
        modular_costs=CostModel(built["modular"], local.batch_size, local.slots),
        supernet=built["supernet"],
        supernet_costs=CostModel(built["supernet"], local.batch_size, local.slots),
        shares=(classes / classes.sum()).tolist(),
        make_dense=partial(stage.artefact, "dense"),
        make_modular=stage.modular_model,
        make_supernet=partial(stage.artefact, "supernet"),
        settled=stage.settled,
        make_nested=lambda rolling: stage.artefact("rolling" if rolling else "nested"),
    )


@dataclass(frozen=True)
class Stage:
    """The offline stage of one seed: each artefact is a method of its name that computes it."""

    settings: Settings
    seed: int
    progress: Progress | None = None

    def artefact(self, name: str) -> State:
        """An artefact, from the cache or made now."""
        return cached(self.settings, self.seed, name, getattr(self, name))

    def early(self) -> State:
        """The dense model before it is cut into modules."""
        body = architectures(self.settings)["dense"].whole(self._integer(Purpose.INIT)).to(self._place)
        self._fit(body, self.settings.dense_epochs, 0, "dense model")
        return body.state()

    def dense(self) -> State:
        """The dense model after as many epochs as the modular one."""
        body = self._body("dense", self.artefact("early"))
        self._fit(body, self._later, 1, "dense model, continued")
        return body.state()

    def nested(self, rolling: bool = False) -> State:
        """The dense model with narrower widths that learn from the widest, for as many epochs as the dense one."""
        architecture, epochs = architectures(self.settings)["dense"], self.settings.dense_epochs + self._later
        body = architecture.whole(self._integer(Purpose.INIT)).to(self._place)
        narrower = distilled(ordered_dropout(architecture, body, RATES[1:], self._generator(5), rolling))
        self._fit(body, epochs, 4, "rolling widths" if rolling else "nested widths", narrower)
        return body.state()

    def rolling(self) -> State:
        """The nested model for windows that start anywhere."""
        return self.nested(rolling=True)

    def supernet(self) -> State:
        """AdaptiveNet's supernet: branches grown from the dense model, which then teaches random paths."""
        built, slices = architectures(self.settings), self.settings.shrink
        teacher = self._body("dense", self.artefact("dense"))
        body = self._body("supernet", grow(built["dense"], teacher.state(), slices))
        paths = random_paths(built["supernet"], body, slices, self._generator(7))
        self._fit(paths, self._later, 6, "supernet", taught(teacher))
        return body.state()

    def modular(self, tailored: bool = False) -> State:
        """Body, selector and mappings of ECLM, made from the early dense model: end to end, then ability enhancing."""
        settings, how = self.settings, self._recipe
        x, y = self._proxy()
        built = architectures(settings)
        cut = settings.modules, settings.shrink, settings.residual
        _, taken = modularize(built["dense"], self.artefact("early"), *cut)
        body = self._body("modular", taken)
        chooser = selector(settings, self._integer(Purpose.INIT, 1), core=tailored).to(self._place)
        model = ModularModel(body, chooser, routing(settings, chooser))
        train_end_to_end(
            model,
            x,
            y,
            how,
            settings.modular_epochs,
            self._generator(2),
            settings.balance,
            self.progress,
            self._augment,
        )
        subtask, subtasks = self._subtasks(y)
        enhancing = partial(tailor, teacher=self._body("dense", self.artefact("dense"))) if tailored else enhance
        found, wanted = enhancing(
            model, x=x, y=y, subtask=subtask, subtasks=subtasks, recipe=how, epochs=settings.ability_epochs,
            generator=self._generator(3), strength=settings.ability, slack=settings.kappa1, kappa2=settings.kappa2,
            progress=self.progress, augment=self._augment,
        )  # fmt: skip
        reached = mapping([chooser.specialists(layer) for layer in model.logits(x)], subtask, subtasks)
        kept = {f"body.{k}": v for k, v in body.state().items()}
        kept |= {f"selector.{k}": v for k, v in fetched(chooser).items()}
        for name, matrices in (("found", found), ("wanted", wanted), ("reached", reached)):
            kept |= {f"mapping.{name}.{i}": torch.from_numpy(np.ascontiguousarray(m)) for i, m in enumerate(matrices)}
        return kept

    def tailored(self) -> State:
        """The modular model, its ability enhanced on sub-models as devices get them."""
        return self.modular(tailored=True)

    def modular_model(self, tailored: bool) -> ModularModel:
        """The modular or the tailored artefact as networks."""
        kept = self.artefact("tailored" if tailored else "modular")
        chooser = selector(self.settings, core=tailored).to(self._place)
        chooser.load_state_dict(_under(kept, "selector."))
        return ModularModel(self._body("modular", _under(kept, "body.")), chooser, routing(self.settings, chooser))

    def settled(self, coverage: Coverage, state: State) -> State:
        """A part of the dense model with its norm statistics estimated on the proxy data."""
        body = self._body("dense", state, coverage)
        recalibrate_batch_norm(body, self._proxy()[0])
        return body.state()

    # what the stages share

    @property
    def _later(self) -> int:
        """Epochs of the modular model after the take-over."""
        return self.settings.modular_epochs + self.settings.ability_epochs

    @property
    def _recipe(self) -> Recipe:
        s = self.settings
        return Recipe(s.offline_lr, s.offline_batch, s.optimizer, s.momentum, s.weight_decay, 1.0, s.precision)

    @property
    def _augment(self) -> Augment | None:
        images = len(world(self.settings, self.seed).data.input_shape) == 3
        return flip_and_shift if self.settings.augment and images else None

    def _proxy(self) -> tuple[Tensor, Tensor]:
        here = world(self.settings, self.seed)
        return tensors(here.data, "train", here.proxy())

    def _subtasks(self, y: Tensor) -> tuple[Tensor, int]:
        """The sub-task of each proxy sample, whose classes are y (n,), and how many there are (ECLM 4.3, step 1)."""
        settings, here = self.settings, world(self.settings, self.seed)
        if settings.subtasks == "domain" and here.data.domain_train is not None:
            return torch.from_numpy(here.data.domain_train[here.proxy()]).long(), len(here.data.domains)
        if settings.subtasks == "groups":
            held = (here.draw(device, 0).train for device in range(min(settings.devices, SURVEYED)))
            counts = [np.bincount(here.data.labels("train", own), minlength=here.data.num_classes) for own in held]
            group = torch.from_numpy(co_occurring(np.array(counts)))
            return group[y], int(group.max()) + 1
        return y, here.data.num_classes

    def _generator(self, phase: int) -> np.random.Generator:
        return rng(self.seed, Purpose.OFFLINE, phase)

    def _integer(self, *where: int) -> int:
        return int(rng(self.seed, *where).integers(2**31))

    @property
    def _place(self) -> torch.device:
        return of_cloud(self.settings)

    def _body(self, architecture: str, state: State, coverage: Coverage = FULL) -> Body:
        body = architectures(self.settings)[architecture].part(coverage).to(self._place)
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
    """Write whole or not at all: two runs may make the same file at once, and a run can do without."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in state.items()}, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        log(WARNING, "the cloud model is not kept in %s (%s): the next run trains it again", path, error)
    finally:
        temporary.unlink(missing_ok=True)


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
