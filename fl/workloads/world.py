"""The settings' world, architectures and recipe: what the cloud and every device build alike, once per process."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from inspect import signature

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from fl.config.settings import Settings, SettingsError
from models.elastic.supernet import elastic
from models.modular.selector import Routing, Selector
from models.nn.body import Architecture, gate_columns
from models.nn.registry import MODELS
from models.training.loop import Recipe
from partitions import DRIFTS, PARTITIONS, Dataset, LocalData, Schedule, World, load
from partitions.tokens import tokenised

PARTITION_KEYS = {"m-classes": ("classes_per_device",), "dirichlet": ("alpha",)}
DRIFT_KEYS = {
    "label-shift": ("alpha",),
    "recurring": ("contexts",),
    "feature": ("corruption", "severity_step"),
}


def _minilm() -> Tokenizer:
    from models.vq.network.presets import minilm_tokenizer  # takes seconds

    return minilm_tokenizer()


TOKENIZERS: dict[str, Callable[[], Tokenizer | None]] = {"tiny": lambda: None, "minilm": _minilm}
"""By vq-preset; None: one that is trained on the proxy."""


def dataset(settings: Settings) -> Dataset:
    """The data set, loaded once per process; text is still text.

    Raises:
        partitions.DataError: it is missing; the message says which command fetches it.
        SettingsError: its samples cannot be shrunk to ``image-size``.
    """
    try:
        return load(settings.dataset, settings.data_root or None, settings.image_size)
    except ValueError as error:
        raise SettingsError(str(error)) from error


@lru_cache(maxsize=8)
def world(settings: Settings, seed: int) -> World | LocalData:
    """What every device holds at every step; text as tokens, whose vocabulary the proxy decides.

    On a machine of its own with a folder of its own: what lies there.

    Raises:
        SettingsError: the partition or the drift does not fit the data set.
    """
    if settings.placement == "own" and settings.dataset == "folder":
        return LocalData(dataset(settings), settings.samples_max, settings.test_samples)
    own = {key: getattr(settings, key) for key in PARTITION_KEYS.get(settings.partition, ())}
    moves = {key: getattr(settings, key) for key in DRIFT_KEYS.get(settings.drift, ())}
    try:
        here = World(
            dataset(settings),
            PARTITIONS[settings.partition](**own),
            DRIFTS[settings.drift](**moves),
            seed,
            samples=(settings.samples_min, settings.samples_max),
            test_samples=settings.test_samples,
            proxy_fraction=settings.proxy_fraction,
            drift_fraction=settings.drift_fraction,
            schedule=Schedule(settings.schedule),
            drift_steps=settings.drift_steps,
        )
        if here.data.text:
            there = TOKENIZERS[settings.vq_preset]()
            here = replace(here, data=tokenised(here.data, here.proxy(), settings.vocabulary, settings.tokens, there))
        return here
    except (ValueError, ModuleNotFoundError) as error:
        raise SettingsError(str(error)) from error


def tensors(data: Dataset, split: str, indices: np.ndarray | slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Inputs (n, ...) and classes (n,) of chosen samples."""
    x = data.inputs(split, indices)  # type: ignore[arg-type]
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.array(data.labels(split, indices)))  # type: ignore[arg-type]


def hyper(settings: Settings) -> dict[str, int | str]:
    """The hyper-parameters of the dense model; what is left out takes the model's own default.

    Raises:
        SettingsError: it has no stages to choose.
    """
    own: dict[str, int | str] = {"width": settings.width} if settings.width else {}
    if _convolves(settings):
        own["norm"] = settings.norm
        if settings.module_layers:
            own["layers"] = settings.module_layers
    elif settings.module_layers:
        raise SettingsError(
            f"module-layers chooses stages of a convolutional model, model = '{settings.model}' has none"
        )
    return own


def _convolves(settings: Settings) -> bool:
    return "norm" in signature(MODELS[settings.model]).parameters


@lru_cache(maxsize=8)
def architectures(settings: Settings) -> dict[str, Architecture]:
    """The dense cloud model, and the modular one and the supernet made from it.

    Raises:
        SettingsError: the model does not fit the data or cannot be cut as asked.
    """
    data = dataset(settings)
    if data.text:
        raise SettingsError(f"model = '{settings.model}' needs numbers, {data.name} holds text: choose workload = 'vq'")
    if _convolves(settings) and len(data.input_shape) != 3:
        raise SettingsError(
            f"model = '{settings.model}' needs images, {data.name} has samples of shape {data.input_shape}"
        )
    try:
        dense = MODELS[settings.model](data.input_shape, data.num_classes, **hyper(settings))
        modular = dense.modular(settings.modules, settings.shrink, settings.residual)
        return {"dense": dense, "modular": modular, "supernet": elastic(dense, settings.shrink)}
    except ValueError as error:
        raise SettingsError(str(error)) from error


def selector(settings: Settings, seed: int | None = None, core: bool = False) -> Selector:
    """The module selector; without a seed its weights are to be loaded."""
    modular = architectures(settings)["modular"]
    layers = {layer: len(gate_columns(modular.sizes, layer)) for layer in modular.part({}).layers}
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Selector(modular.input_shape, layers, settings.selector_width, generator, core)


def routing(settings: Settings, chooser: Selector) -> Routing:
    """How gates follow from the selector."""
    return Routing(settings.top_k, float(settings.shrink), chooser.core is not None)


def recipe(settings: Settings) -> Recipe:
    """How devices train."""
    return Recipe(
        lr=settings.lr,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        precision=settings.precision,
    )
