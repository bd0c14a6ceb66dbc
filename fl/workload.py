"""The device's side of a round: profile, train, score. Knows no method and no engine.

One process may stand in for many devices, one after the other, so what is expensive (data set, networks) is kept per
process and overwritten in place; what belongs to a device lies in its `fl.store.Store`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fl.config import Settings
from fl.devices import Table, shares
from fl.store import Store
from fl.world import architectures, recipe, routing, selector, tensors, world
from models.axes import State
from models.body import Body
from models.selector import Selector, importance
from models.train import fit, score
from partitions import Purpose, apply, rng


@dataclass(frozen=True)
class Order:
    """What a message asks of a device.

    Args:
        device, seed, round, step: where in the experiment this is.
        architecture: 'dense' or 'modular'; sizes: the axis sizes in which the part differs from the whole.
        held: for each module layer the indices of the modules that the part consists of.
        epochs, masked, rate, keep: as in `strategies.base.Task`.
    """

    device: int
    seed: int
    round: int
    step: int
    architecture: str = "dense"
    sizes: Mapping[str, int] | None = None
    held: Mapping[str, Sequence[int]] | None = None
    epochs: int = 0
    masked: bool = False
    rate: float = 1.0
    keep: bool = False


@dataclass(frozen=True)
class Trained:
    """What local training gives."""

    state: State
    examples: int
    loss: float


@dataclass(frozen=True)
class Scored:
    """Scores before and after local adaptation; without adaptation they are the same."""

    samples: int
    delivered: tuple[float, float, float]  # accuracy, balanced accuracy, mean loss
    adapted: tuple[float, float, float]


@lru_cache(maxsize=64)
def _body(settings: Settings, architecture: str, sizes: tuple[tuple[str, int], ...]) -> Body:
    """A network of the given sizes, made once per process and overwritten by every device that uses it."""
    whole = architectures(settings)[architecture]
    return whole.build({**whole.sizes, **dict(sizes)}, None)


@lru_cache(maxsize=4)
def _selector(settings: Settings) -> Selector:
    return selector(settings)


def _load(settings: Settings, order: Order, state: State) -> Body:
    body = _body(settings, order.architecture, tuple(sorted((order.sizes or {}).items())))
    body.load_state_dict(state)
    body.rate = order.rate
    return body


def _data(settings: Settings, order: Order, split: str) -> tuple[Tensor, Tensor]:
    here = world(settings, order.seed)
    draw = here.draw(order.device, order.step)
    x, y = tensors(here.data, split, getattr(draw, split))
    return apply(x, getattr(draw, f"{split}_look")), y


def _logits(settings: Settings, store: Store, x: Tensor) -> list[Tensor]:
    chooser = _selector(settings)
    chooser.load_state_dict(store.load("selector"))
    return chooser.logits(x)


def _gates(settings: Settings, order: Order, store: Store, body: Body, x: Tensor) -> list[Tensor] | None:
    """Gates (n, M_l) over the modules held, None for a dense part."""
    if order.architecture == "dense":
        return None
    held, how = order.held or {}, routing(settings)
    logits = _logits(settings, store, x)
    columns = [torch.as_tensor(held[layer]) if layer in held else slice(None) for layer in body.layers]
    return [how.gates(layer[:, kept]) for layer, kept in zip(logits, columns, strict=True)]


def profile(settings: Settings, order: Order, store: Store, with_importance: bool) -> dict[str, float | list[float]]:
    """What the device can spare now and, if asked, how important each module is to its data (ECLM 5.1)."""
    table = Table.of(settings.hardware)
    spare = shares(
        table, table.draw(order.seed, order.device), order.seed, order.device, order.step,
        settings.limit_low, settings.limit_high, settings.background_load,
    )  # fmt: skip
    told: dict[str, float | list[float]] = {"link": spare.link, "compute": spare.compute, "memory": spare.memory}
    if with_importance:
        x, _ = _data(settings, order, "train")
        layers = architectures(settings)["modular"].part({}).layers
        scores = importance(_logits(settings, store, x))
        told |= {f"importance.{layer}": values.tolist() for layer, values in zip(layers, scores, strict=True)}
    return told


def train(settings: Settings, order: Order, store: Store, state: State | None) -> Trained:
    """Local epochs on the device's current data, from the state sent or from the model that the device kept."""
    body = _load(settings, order, state if state is not None else store.load("model"))
    x, y = _data(settings, order, "train")
    loss = _fit(settings, order, store, body, x, y)
    trained = body.state()
    if order.keep:
        store.save("model", trained)
    return Trained(trained, len(x), loss)


def evaluate(settings: Settings, order: Order, store: Store, state: State | None) -> Scored:
    """Score a model on the device's current distribution, as delivered and after ``order.epochs`` of adaptation."""
    body = _load(settings, order, state if state is not None else store.load("model"))
    x, y = _data(settings, order, "test")
    gates = _gates(settings, order, store, body, x)
    classes = world(settings, order.seed).data.num_classes

    def measured() -> tuple[float, float, float]:
        got = score(body, x, y, classes, gates)
        return got.accuracy, got.balanced_accuracy, got.loss_sum / max(1, len(x))

    delivered = measured()
    if not order.epochs:
        return Scored(len(x), delivered, delivered)
    _fit(settings, order, store, body, *_data(settings, order, "train"))
    return Scored(len(x), delivered, measured())


def _fit(settings: Settings, order: Order, store: Store, body: Body, x: Tensor, y: Tensor) -> float:
    absent = None
    if order.masked:
        absent = torch.ones(world(settings, order.seed).data.num_classes, dtype=torch.bool)
        absent[y] = False
    gates = _gates(settings, order, store, body, x)
    generator = rng(order.seed, Purpose.TRAIN, order.round, order.device)
    return fit(body, x, y, recipe(settings), order.epochs, generator, gates, absent)
