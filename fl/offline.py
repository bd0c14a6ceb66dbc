"""The offline stage: the cloud trains a dense model on its proxy data and makes the modular one from it (ECLM 4).

Both models see the same data for the same number of epochs: the dense one goes on training for as long as the modular
one is trained after the take-over. What comes out is kept in the cache folder under the hash of everything that
decides it, so that experiments share it and a second run starts at once.
"""

import hashlib
import json
import os
from collections.abc import Callable
from logging import WARNING
from pathlib import Path

import numpy as np
import torch
from flwr.common.logger import log
from safetensors.torch import load_file, save_file

from fl.config import Settings
from fl.world import architectures, recipe, routing, selector, tensors, world
from models.axes import State
from models.cloud import ModularModel, Progress, enhance, mapping, train_end_to_end
from models.costs import CostModel
from models.modularize import modularize
from models.train import Recipe, fit, flip_and_shift
from partitions import Purpose, rng
from strategies.base import Cloud

# What decides the outcome; anything else (rounds, drift, devices) leaves the cached models valid.
KEYS = [
    "dataset",
    "image-size",
    "proxy-fraction",
    "model",
    "width",
    "norm",
    "modules",
    "module-layers",
    "shrink",
    "top-k",
    "selector-width",
    "dense-epochs",
    "modular-epochs",
    "ability-epochs",
    "offline-lr",
    "offline-batch",
    "augment",
    "balance",
    "ability",
    "subtasks",
    "kappa1",
    "kappa2",
    "optimizer",
    "momentum",
    "weight-decay",
]
VERSION = 3  # raise it when the training code changes what it computes


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/driftfed``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftfed"


def address(settings: Settings, seed: int) -> str:
    """The hash under which the outcome is kept."""
    flat = settings.flat()
    what = {key: flat[key] for key in KEYS} | {"seed": seed, "version": VERSION, "torch": torch.__version__}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]


def prepare(settings: Settings, seed: int, progress: Progress | None = None) -> Cloud:
    """The trained cloud models, from the cache or made now.

    Raises:
        SettingsError, partitions.DataError: as `fl.world` raises them.
    """
    path = cache_folder() / "offline" / f"{address(settings, seed)}.safetensors"
    try:
        kept = load_file(path)
    except Exception as error:  # safetensors has an error of its own for a torn file
        if path.exists():
            log(WARNING, "the cached cloud model %s is unreadable (%s): it is trained again", path, error)
        kept = _train(settings, seed, progress)
        _keep(path, kept)
    built = architectures(settings)
    body, chooser = built["modular"].part({}), selector(settings)
    body.load_state_dict(_under(kept, "body."))
    chooser.load_state_dict(_under(kept, "selector."))
    local = recipe(settings)
    return Cloud(
        dense=built["dense"],
        dense_state=_under(kept, "dense."),
        dense_costs=CostModel(built["dense"], local.batch_size, local.slots),
        modular=built["modular"],
        modular_model=ModularModel(body, chooser, routing(settings)),
        modular_costs=CostModel(built["modular"], local.batch_size, local.slots),
    )


def _train(settings: Settings, seed: int, progress: Progress | None) -> State:
    here = world(settings, seed)
    x, y = tensors(here.data, "train", here.proxy())
    built, classes = architectures(settings), here.data.num_classes
    how = Recipe(
        settings.offline_lr,
        settings.offline_batch,
        settings.optimizer,
        settings.momentum,
        settings.weight_decay,
        clip=1.0,
    )

    augment = flip_and_shift if settings.augment and len(here.data.input_shape) == 3 else None

    def generator(phase: int) -> np.random.Generator:
        return rng(seed, Purpose.OFFLINE, phase)

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda epoch, epochs: progress(stage, epoch, epochs) if progress else None

    dense = built["dense"].whole(int(rng(seed, Purpose.INIT).integers(2**31)))
    fit(
        dense,
        x,
        y,
        how,
        settings.dense_epochs,
        generator(0),
        cosine=True,
        on_epoch=report("dense model"),
        augment=augment,
    )
    _, state = modularize(built["dense"], dense.state(), settings.modules, settings.shrink)
    body = built["modular"].part({})
    body.load_state_dict(state)
    later = settings.modular_epochs + settings.ability_epochs
    fit(dense, x, y, how, later, generator(1), cosine=True, on_epoch=report("dense model, continued"), augment=augment)

    chooser = selector(settings, int(rng(seed, Purpose.INIT, 1).integers(2**31)))
    model = ModularModel(body, chooser, routing(settings))
    train_end_to_end(model, x, y, how, settings.modular_epochs, generator(2), settings.balance, progress, augment)
    subtask, subtasks = y, classes
    if settings.subtasks == "domain" and here.data.domain_train is not None:
        subtask, subtasks = torch.from_numpy(here.data.domain_train[here.proxy()]).long(), len(here.data.domains)
    found, wanted = enhance(
        model, x, y, subtask, subtasks, how, settings.ability_epochs, generator(3),
        settings.ability, settings.kappa1, settings.kappa2, progress, augment,
    )  # fmt: skip
    reached = mapping(model.logits(x), subtask, subtasks)
    kept = {f"dense.{k}": v for k, v in dense.state().items()} | {f"body.{k}": v for k, v in body.state().items()}
    kept |= {f"selector.{k}": v.detach().clone() for k, v in chooser.state_dict().items()}
    for name, matrices in (("found", found), ("wanted", wanted), ("reached", reached)):
        kept |= {f"mapping.{name}.{i}": torch.from_numpy(np.ascontiguousarray(m)) for i, m in enumerate(matrices)}
    return kept


def _keep(path: Path, state: State) -> None:
    """Write whole or not at all: two runs may make the same file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({k: v.contiguous() for k, v in state.items()}, temporary)
    temporary.replace(path)


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
