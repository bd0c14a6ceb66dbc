"""Classification by a network that may be cut into modules: the workload of ECLM and its rivals.

One process may stand in for many devices, one after the other, so what is expensive (data set, networks) is kept per
process and overwritten in place; what belongs to a device lies in its `fl.workloads.state_store.Store`.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from fl.config.settings import Settings
from fl.devices.clock import BACKWARD
from fl.devices.hardware import Shares, Table, shares
from fl.engines.accelerator import of_cloud, of_devices
from fl.engines.batching import Fit, fitted
from fl.workloads.pretraining import prepare as prepare  # the cloud's side
from fl.workloads.state_store import NotHeld, Store
from fl.workloads.workload import Order, Scored, Trained
from fl.workloads.world import architectures, recipe, routing, selector, tensors, world
from models.aggregation.weighted_sum import WeightedSum
from models.costs import CostModel
from models.elastic.nested import ordered_dropout, recalibrate_batch_norm
from models.elastic.supernet import best_path
from models.modular.derive import Infeasible, choose, shift, smallest
from models.modular.model import ModularModel
from models.modular.selector import Selector, importance
from models.nn.body import Body, columns_coverage
from models.submodel import FULL, Coverage, State, covered_sizes, extract
from models.training.batched import ClientBatch
from models.training.loop import LogitCorrection, fit, score
from partitions import Purpose, apply, rng
from strategies.base import Limits, Strategy

MASKINGS: tuple[LogitCorrection, ...] = get_args(LogitCorrection)
MEASURES: dict[str, str] = {}


@dataclass
class Part:
    """What a device works with.

    Args:
        held: the parameters of everything that it holds.
        state: the present parameters of what it activates.
        body: a network for them, which other devices use too.
        rate: of the network.
        modules: numbers in the cloud model of the modules activated, per layer, as in `Order.held`.
        inside: where those lie in ``held``.
        trial_macs: as in `Scored`.
    """

    held: State
    state: State
    body: Body
    rate: float
    modules: Mapping[str, np.ndarray]
    inside: Coverage
    trial_macs: float = 0.0

    def network(self) -> Body:
        """The network with the present parameters."""
        self.body.load_state_dict(self.state)
        self.body.rate = self.rate
        return self.body

    @property
    def active(self) -> dict[str, int]:
        """What the cloud is told about a choice that the device made."""
        return {axis: len(at) for axis, at in self.inside.items()}

    def updated(self) -> State:
        """Everything held, with the present parameters of what is activated."""
        if not self.inside:
            return self.state
        whole = WeightedSum(self.body.axes(), self.held)
        whole.add(self.state, self.inside, 1.0)
        return whole.finish(self.held)


@lru_cache(maxsize=16)  # a network of this many sizes at once stays in memory
def _body(settings: Settings, architecture: str, sizes: tuple[tuple[str, int], ...]) -> Body:
    """A network of the given sizes, made once per process and overwritten by every device that uses it."""
    return architectures(settings)[architecture].build(dict(sizes), None).to(of_devices(settings))


@lru_cache(maxsize=4)
def _selector(settings: Settings, core: bool) -> Selector:
    return selector(settings, core=core).to(of_devices(settings))


@lru_cache(maxsize=4)
def _costs(settings: Settings, architecture: str) -> CostModel:
    how = recipe(settings)
    return CostModel(architectures(settings)[architecture], how.batch_size, how.slots)


def _load(settings: Settings, order: Order, store: Store, state: State | None) -> Part:
    """The part that was sent, or that the device kept; where it is to re-select, what fits of that now (ECLM 5.1)."""
    held = state if state is not None else store.load("model")
    modules = {layer: np.asarray(kept) for layer, kept in (order.held or {}).items()}
    whole = architectures(settings)[order.architecture].sizes
    sizes, inside, trial_macs = {**whole, **(order.sizes or {})}, FULL, 0.0
    if wrong := [axis for axis, n in sizes.items() if not 0 <= n <= whole.get(axis, -1)]:
        raise ValueError(f"a part of {sizes[wrong[0]]} {wrong[0]}: the {order.architecture} model has {whole}")
    if order.reselect:
        active = _select(settings, order, store, modules)
        inside = columns_coverage(
            sizes, {layer: np.searchsorted(modules[layer], kept) for layer, kept in active.items()}
        )
        modules = active
    if order.search:
        inside, trial_macs = _path(settings, order, held)
    body = _body(settings, order.architecture, tuple(sorted(covered_sizes(sizes, inside).items())))
    active_state = extract(held, body.axes(), inside) if inside else held
    if _shapes(active_state) != _shapes(body.state_dict()):  # in a stack it would be everybody's failure
        raise ValueError("the model does not have the shapes that its sizes call for")
    part = Part(held, active_state, body, order.rate, modules, inside, trial_macs)
    if order.search:
        recalibrate_batch_norm(part.network(), samples(settings, order, "train")[0])
        part.state = body.state()
    return part


def _shapes(state: State) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _select(settings: Settings, order: Order, store: Store, held: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which of the modules held a device activates now: by its data and limits, without the network."""
    scores, now = _importance(settings, order, store), spare(settings, order)
    limits = Limits.shares(_costs(settings, "dense").whole, now.link, now.compute, now.memory)
    try:
        return choose(_costs(settings, "modular"), scores, limits.vector, Limits.names, held)
    except Infeasible:
        return smallest(scores, held)


def _path(settings: Settings, order: Order, held: State) -> tuple[Coverage, float]:
    """The path through the supernet that suits the device's data best under what it can spare now (AdaptiveNet).

    And the MACs that it took to find it.
    """
    now, whole = spare(settings, order), _costs(settings, "dense").whole
    return best_path(
        held,
        _costs(settings, "supernet"),
        settings.shrink,
        now.compute * whole.macs,
        now.memory * whole.memory,
        *samples(settings, order, "train"),
        world(settings, order.seed).data.num_classes,
        rng(order.seed, Purpose.SEARCH, order.step, order.device),
        of_devices(settings),
    )


def samples(settings: Settings, order: Order, split: str) -> tuple[Tensor, Tensor]:
    here = world(settings, order.seed)
    draw = here.draw(order.device, order.step)
    x, y = tensors(here.data, split, getattr(draw, split))
    return apply(x, getattr(draw, f"{split}_look")), y


def class_shares(settings: Settings, order: Order) -> Tensor:
    """(classes,) How often each class occurs in the device's training data, relative to the cloud's where it told."""
    here = world(settings, order.seed)
    labels = here.data.labels("train", here.draw(order.device, order.step).train)
    own = torch.from_numpy(np.bincount(labels, minlength=here.data.num_classes) / len(labels))
    return (own / torch.tensor(order.shares, dtype=own.dtype).clamp(min=1e-6) if len(order.shares) else own).float()


def _chooser(settings: Settings, store: Store) -> Selector:
    """The selector that the device was sent."""
    state = store.load("selector")
    chooser = _selector(settings, core="core" in state)
    chooser.load_state_dict(state)
    return chooser


def _gates(settings: Settings, order: Order, store: Store, part: Part, x: Tensor) -> list[Tensor] | None:
    """Gates (n, M_l) over the modules activated, None where every module counts 1."""
    if order.architecture != "modular":
        return None
    chooser, own = _chooser(settings, store), part.modules
    how, logits = routing(settings, chooser), chooser.logits(x)
    columns = [torch.from_numpy(own[layer]) if layer in own else slice(None) for layer in part.body.layers]
    return [how.gates(layer[:, kept]) for layer, kept in zip(logits, columns, strict=True)]


def _importance(settings: Settings, order: Order, store: Store) -> dict[str, np.ndarray]:
    """Importance of each module of a layer to the device's data (ECLM 5.1)."""
    x, _ = samples(settings, order, "train")
    layers = architectures(settings)["modular"].part({}).layers
    scores = importance(_chooser(settings, store).logits(x))
    return {layer: values.double().numpy() for layer, values in zip(layers, scores, strict=True)}


def spare(settings: Settings, order: Order) -> Shares:
    """What the device can spare now, as shares of the large cloud model."""
    if order.node is not None:
        return order.node.spare(settings)
    table = Table.of(settings.hardware)
    return shares(
        table, table.draw(order.seed, order.device), order.seed, order.device, order.step,
        settings.limit_low, settings.limit_high, settings.background_load,
    )  # fmt: skip


def profile(settings: Settings, order: Order, store: Store, with_importance: bool) -> dict[str, float | list[float]]:
    """What the device can spare now and, if asked, how important each module is to its data.

    A device that holds candidate modules also says which, unless it asks for others: see `_content`.
    """
    now = spare(settings, order)
    told: dict[str, float | list[float]] = {"link": now.link, "compute": now.compute, "memory": now.memory}
    if with_importance:
        found = _importance(settings, order, store)
        told |= {f"importance.{layer}": scores.tolist() for layer, scores in found.items()}
        if store.holds("held"):
            with suppress(NotHeld):  # the file is torn: the device holds nothing, and gets it anew
                held, macs = _content(settings, order, store)
                told |= {f"held.{layer}": kept.tolist() for layer, kept in held.items()} | {"macs": macs}
    return told


def _content(settings: Settings, order: Order, store: Store) -> tuple[dict[str, np.ndarray], float]:
    """The modules that the device can do with, none if it turns to the cloud; and the MACs that it took to find out.

    The device turns to the cloud if (ECLM 6, iii)
        1. its data shifted: importance is further from that at derivation than ``shift-threshold``, and
        2. it cannot help itself: re-selected and trained on four fifths of its data, its accuracy on the other fifth
           is below ``required-accuracy``.
    """
    kept = store.load("held")
    held = {name.removeprefix("held."): v.numpy() for name, v in kept.items() if name.startswith("held.")}
    then = {name.removeprefix("then."): v.numpy() for name, v in kept.items() if name.startswith("then.")}
    if shift(_importance(settings, order, store), then) <= settings.shift_threshold:
        return held, 0.0
    whole = architectures(settings)["modular"].sizes
    trial = replace(
        order,
        round=0,
        architecture="modular",
        sizes=covered_sizes(whole, columns_coverage(whole, held)),
        held=held,
        epochs=settings.adapt_epochs,
        masked=MASKINGS[int(kept["masked"])],
        shares=kept["shares"].tolist(),
        reselect=True,
    )
    part = _load(settings, trial, store, None)
    x, y = samples(settings, trial, "train")
    if len(x) < 2:  # nothing to learn from, or nothing to be judged on
        return {}, 0.0
    out = torch.arange(len(x)) % 5 == 0
    _fit(settings, trial, store, part, x[~out], y[~out])
    classes = world(settings, order.seed).data.num_classes
    shares = class_shares(settings, trial) if trial.masked == "prior" else None
    got = score(part.network(), x[out], y[out], classes, _gates(settings, trial, store, part, x[out]), shares)
    macs = float(BACKWARD * _costs(settings, "modular").of(part.active).macs * int((~out).sum()) * trial.epochs)
    return (held if got.accuracy >= settings.required_accuracy else {}), macs


def train(settings: Settings, order: Order, store: Store, state: State | None) -> Trained:
    """Local epochs on the device's current data, from the state sent or from the model that the device kept."""
    part = _load(settings, order, store, state)
    before = part.state
    x, y = samples(settings, order, "train")
    loss = _fit(settings, order, store, part, x, y)
    if order.keep:
        _keep(settings, order, store, part, fresh=state is not None)
    worth = not settings.upload_change or change(before, part.state) >= settings.upload_change
    return Trained(part.state if worth else None, len(x), loss, np.unique(y.numpy()).tolist(), part.active)


def evaluate(settings: Settings, order: Order, store: Store, state: State | None) -> Scored:
    """Score a model on the device's current distribution, as delivered and after ``order.epochs`` of adaptation."""
    part = _load(settings, order, store, state)
    steps = [order.step, order.step - 1] if order.look_back else [order.step]
    tests = [samples(settings, replace(order, step=step), "test") for step in steps]
    gates = [_gates(settings, order, store, part, x) for x, _ in tests]
    classes = world(settings, order.seed).data.num_classes
    shares = class_shares(settings, order) if order.masked == "prior" else None

    def measured() -> list[tuple[float, float, float]]:
        """For the current test draw, and the former one where that is asked."""
        body = part.network()
        scores = [score(body, x, y, classes, g, shares) for (x, y), g in zip(tests, gates, strict=True)]
        return [(s.accuracy, s.balanced_accuracy, s.loss_sum / max(1, s.samples.sum())) for s in scores]

    delivered = adapted = measured()
    x, y = samples(settings, order, "train")
    if order.epochs:
        before = part.state
        _fit(settings, order, store, part, x, y)
        if order.blend < 1:
            part.state = blend(before, part.state, order.blend)
        adapted = measured()
    if order.keep:
        _keep(settings, order, store, part, fresh=state is not None)
    former = (delivered[1][0], adapted[1][0]) if order.look_back else None
    return Scored(len(tests[0][0]), delivered[0], adapted[0], len(x), former, part.active, part.trial_macs)


def blend(before: State, after: State, weight: float) -> State:
    """``before + weight * (after - before)``, entry by entry; what is not a floating-point number is as after."""
    return {k: torch.lerp(before[k], v, weight) if v.is_floating_point() else v for k, v in after.items()}


def change(before: State, after: State) -> float:
    """The relative change of a state: the norm of the difference over the norm of what was."""
    moved = sum(float((after[name] - value).double().square().sum()) for name, value in before.items())
    norm = sum(float(value.double().square().sum()) for value in before.values())
    return math.sqrt(moved / max(norm, 1e-24))


def global_accuracy(settings: Settings, method: Strategy) -> float:
    """The accuracy of a method's cloud model on the whole test set."""
    here = world(settings, method.seed)
    x, y = tensors(here.data, "test")
    cloud, classes = method.cloud, here.data.num_classes
    body = cloud.architectures[method.architecture].part(FULL).to(of_cloud(settings))
    body.load_state_dict(method.model)
    if method.architecture == "dense":
        return score(body, x, y, classes).accuracy
    whole = ModularModel(body, method.modular_model.selector, method.modular_model.routing)
    return whole.score(x, y, classes).accuracy


def _keep(settings: Settings, order: Order, store: Store, part: Part, fresh: bool) -> None:
    """Keep everything held; of fresh candidates also which they are, their loss, and the importance of all modules."""
    store.save("model", part.updated())
    if fresh and order.reselect:
        held = {f"held.{layer}": torch.as_tensor(kept) for layer, kept in (order.held or {}).items()}
        then = {f"then.{layer}": torch.from_numpy(v) for layer, v in _importance(settings, order, store).items()}
        own = {"masked": torch.tensor(MASKINGS.index(order.masked)), "shares": torch.tensor(order.shares)}
        store.save("held", held | then | own)


def _fit(settings: Settings, order: Order, store: Store, part: Part, x: Tensor, y: Tensor) -> float:
    """Train the part; the mean loss of the last epoch."""
    shares = None if order.masked == "none" else class_shares(settings, order)
    gates = _gates(settings, order, store, part, x)
    generator, how = rng(order.seed, Purpose.TRAIN, order.round, order.device), recipe(settings)
    if order.rates:
        dropped = ordered_dropout(architectures(settings)[order.architecture], part.network(), order.rates, generator)
        loss = fit(dropped, x, y, how, order.epochs, generator, gates, shares, order.masked)
        part.state = part.body.state()
    else:
        lesson = ClientBatch(part.state, x, y, generator, gates, shares)
        part.state, loss = fitted(Fit(part.body, order.rate, lesson, how, order.epochs, order.masked))
    return loss
