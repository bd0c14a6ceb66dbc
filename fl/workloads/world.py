"""The clients' data and the networks of a run: what the cloud and every client build alike, once per process."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl.config import SettingsError
from fl.config.sections import Client, Data, Drift, Model
from models.elastic.supernet import elastic
from models.modular.selector import Routing, Selector
from models.nn.any_module import architecture_of
from models.nn.body import Architecture, Family, gate_columns
from models.training.loop import Precision, Recipe
from partitions import Dataset, LocalData, Schedule, World, load, source_of
from partitions.components import Section
from partitions.drifts.drift import Drift as DriftKind
from partitions.partitioners.partitioner import Partition
from strategies.eclm import ModularOptions

# Keys of `Data` for a `World` alone.
SIMULATED = ("samples_skew", "labelled", "proxy_domains", "client_domains", "unseen_classes")
Tokenise = Callable[[Dataset, np.ndarray | None], Dataset]
"""Turns text into tokens, given the data set and the indices of the cloud's samples, which decide the vocabulary; None:
on this machine there are no others' samples, and its own must not decide it."""


@dataclass(frozen=True, eq=False)
class Worlds:
    """The data of every client at every step, by seed.

    Args:
        data, drift: sections of the run-config.
        partition, kind: how data are split over clients, and how they drift.
        source: options of the data set; None: its defaults.
        own: whether this machine is a client with a folder of its own data.
        size: how many clients and steps the run has; 0: unknown.
        tokenise: for text.
    """

    data: Data
    drift: Drift
    partition: Partition
    kind: DriftKind
    source: Section | None = None
    own: bool = False
    size: tuple[int, int] = (0, 0)
    tokenise: Tokenise | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, loaded once per process; text is still text.

        Raises:
            partitions.DataError: it is missing; the message says which command fetches it.
            SettingsError: its samples cannot be shrunk to ``data.image-size``.
        """
        try:
            return load(self.data.name, self.data.root or None, self.data.image_size, self.source)
        except ValueError as error:
            raise SettingsError(str(error)) from error

    @property
    def digests(self) -> list[str]:
        """Hashes of the data set and of the files that the drift reads."""
        return [self.dataset.digest, *(self.kind.digests if self.kind else [])]

    @property
    def relabels(self) -> bool:
        """Whether labels depend on client and step, so that no labels of the global test set are right for all."""
        return self.kind is not None and self.kind.relabels

    @cached_property
    def _worlds(self) -> dict[int, World | LocalData]:
        return {}

    def __call__(self, seed: int) -> World | LocalData:
        """Return the world of a seed; on a machine with data of its own, those data.

        Raises:
            SettingsError: partition or drift do not fit the data set.
        """
        if seed not in self._worlds:
            self._worlds[seed] = self._make(seed)
        return self._worlds[seed]

    def most_samples(self, seed: int) -> int:
        """Return how many training samples a client has at most, to bound what it may report."""
        if self.own or self.partition is None:
            return self.data.samples_max
        world = self(seed)
        return world.most_samples if isinstance(world, World) else self.data.samples_max

    def newcomers(self, seed: int, clients: Iterable[int], step: int) -> set[int]:
        """Return those of the clients that have a class, domain or concept now that is new to them, as far as known."""
        world = self(seed) if self.partition is not None else None
        return {client for client in clients if world.encounters(client, step)} if isinstance(world, World) else set()

    def _make(self, seed: int) -> World | LocalData:
        data, drift = self.data, self.drift
        if self.own and source_of(data.name).of_machine:
            for key in SIMULATED:
                if getattr(data, key) != Data.model_fields[key].default:
                    raise SettingsError(
                        f"data.{key.replace('_', '-')} is for simulated data: leave it out with devices.placement = "
                        f"'own' and data.name = '{data.name}'"
                    )
            texts = self.dataset.text and self.tokenise
            here = texts(self.dataset, None) if texts else self.dataset
            return LocalData(here, data.samples_max, data.test_samples)
        if self.dataset.proxy is not None and "proxy_fraction" in data.model_fields_set:
            raise SettingsError(
                f"data.proxy-fraction = {data.proxy_fraction:g} is not read, because the cloud has its own data (the "
                f"server file of {data.name}): leave it out"
            )
        try:
            world = World(
                self.dataset,
                self.partition,
                self.kind,
                seed,
                samples=(data.samples_min, data.samples_max),
                test_samples=data.test_samples,
                proxy_fraction=data.proxy_fraction,
                samples_skew=data.samples_skew,
                labelled=data.labelled,
                proxy_domains=data.proxy_domains,
                unseen_classes=data.unseen_classes,
                client_domains=data.client_domains,
                drift_fraction=drift.fraction,
                schedule=Schedule(drift.schedule, drift.groups, drift.stagger),
                drift_steps=drift.steps,
                devices=self.size[0],
                steps=self.size[1],
            )
            if not len(world.proxy()):
                raise ValueError(
                    f"data.proxy-fraction = {data.proxy_fraction:g} leaves the cloud none of the "
                    f"{len(world.data.y_train)} training samples of {data.name}: choose a larger one, or fewer "
                    "data.unseen-classes and more data.proxy-domains if these are set"
                )
            if world.data.text and self.tokenise:
                return replace(world, data=self.tokenise(world.data, world.proxy()))
            return world
        except (ValueError, ModuleNotFoundError) as error:
            raise SettingsError(str(error)) from error


def tensors(data: Dataset, split: str, indices: np.ndarray | slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Return inputs (n, ...) of chosen samples and their classes (n,) in the data set; a client's may differ."""
    x = data.inputs(split, indices)  # type: ignore[arg-type]
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.array(data.labels(split, indices)))  # type: ignore[arg-type]


def class_frequencies(world: World | LocalData) -> list[float]:
    """Return (classes,) how often each class occurs in the cloud's data."""
    counts = np.bincount(world.data.labels("train", world.proxy()), minlength=world.data.num_classes)
    return (counts / counts.sum()).tolist()


def build_architectures(
    data: Dataset, section: Model, family: Family, options: Section, modular: ModularOptions, slices: int
) -> dict[str, Architecture]:
    """Return the dense cloud model, and the modular model and the supernet made from it.

    Args:
        section: the run-config section ``model``; family: the function that it names; options: of that function.
        slices: widths of a block in AdaptiveNet's supernet.

    Raises:
        SettingsError: the model does not fit the data or cannot be cut as asked.
    """
    own = model_options(data, section, family, options)
    try:
        dense = architecture_of(family, data.input_shape, data.num_classes, **own)
        cut = dense.modular(modular.modules, modular.shrink, modular.residual)
        return {"dense": dense, "modular": cut, "supernet": elastic(dense, slices)}
    except ValueError as error:
        raise SettingsError(str(error)) from error


def model_options(data: Dataset, section: Model, family: Family, options: Section) -> dict[str, Any]:
    """Return the keyword arguments of ``family`` for the dense cloud model.

    Raises:
        SettingsError: the model does not fit the data, or does not have an option of ``section``.
    """
    name = section.name
    if data.text:
        raise SettingsError(f"model.name = '{name}' needs numbers, {data.name} holds text: choose workload = 'vq'")
    takes, own = inspect.signature(family).parameters, dict(options)
    of_modules = {"module_layers": "layers", "module_names": "module_names"}
    for key, parameter in {"width": "width", "norm": "norm", **of_modules}.items():
        value, default = getattr(section, key), Model.model_fields[key].default
        if (parameter in takes or (key in of_modules and "input_shape" not in takes)) and (
            value or parameter == "norm"
        ):
            own[parameter] = value
        elif value != default:
            raise SettingsError(
                f"model.{key.replace('_', '-')} = {value!r} is not an option of model.name = '{name}': leave it out"
            )
    if "norm" in takes and len(data.input_shape) != 3:
        raise SettingsError(
            f"model.name = '{name}' needs images, {data.name} has samples of shape {data.input_shape}: choose 'mlp'"
        )
    return own


def build_selector(
    modular: Architecture, options: ModularOptions, seed: int | None = None, core: bool = False
) -> Selector:
    """Return the module selector; without a seed its weights are to be loaded."""
    layers = {layer: len(gate_columns(modular.sizes, layer)) for layer in modular.part({}).layers}
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Selector(modular.input_shape, layers, options.selector_width, generator, core)


def routing(options: ModularOptions, selector: Selector) -> Routing:
    """Return how gates follow from the selector."""
    return Routing(options.top_k, float(options.shrink), selector.core is not None)


def local_recipe(client: Client, precision: Precision) -> Recipe:
    """Return how clients train."""
    names = ("lr", "batch_size", "optimizer", "momentum", "weight_decay", "clip", "frozen_statistics")
    values: dict[str, Any] = {name: getattr(client, name) for name in names}
    return Recipe(**values, precision=precision)
