"""The VQ split transformer on text devices: a device half, codes across the cut, a cloud half (DCCT).

Here a device trains both halves itself, every tensor passing the boundary's codec and its ledger, and returns the
whole. With ``split = "messages"`` `fl.server.split` keeps the cloud's half in the ServerApp, and sends what crosses. Both are
the same two sides of `models.vq.session`, so they give the same numbers.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fl.config.settings import Settings, SettingsError
from fl.workloads import vq_tasks as tasks
from fl.workloads.classify import blend, change, class_shares, samples, spare
from fl.workloads.pretraining import cached
from fl.workloads.state_store import NotHeld, Store
from fl.workloads.workload import Order, Scored, Trained, refuse_whole_models
from fl.workloads.world import LocalData, dataset, tensors, world
from models.modular.model import Progress
from models.nn.body import Architecture
from models.submodel import FULL, Coverage, State, extract
from models.training.loop import graded, mask
from models.vq.ends import CloudEnd, DeviceEnd, Recipe
from models.vq.network.body import CODEBOOK, SplitBody, SplitCosts, device_state, of_ids, split_body
from models.vq.network.halves import Shape
from models.vq.network.pooling import pooled_lengths
from models.vq.network.presets import DEEP, PRESETS, minilm, tiny
from models.vq.network.task_body import TaskBody, paced, parts, side_by_side, task_body
from models.vq.network.tokens import Tokens
from models.vq.quantiser.boundary import LENGTH, Boundary, Ledger, Line, lines
from models.vq.quantiser.codebook import ESTIMATORS, Statistics, perplexity
from models.vq.quantiser.codebook_ema import CodebookEMA
from models.vq.quantiser.codec import Codes, Float32
from models.vq.session import CloudSide, DeviceSide, Where, infer
from models.vq.session import train as train_sides
from models.vq.training.tasks import Task as Lesson
from models.vq.training.tasks import fit as fit_tasks
from models.vq.training.train import Plan, Quantiser, Split
from partitions import Purpose, rng
from partitions.world import World
from strategies import FULL_MODEL
from strategies.base import Cloud, Measure, Strategy

OF_TASKS = {f"task_{k}": f"accuracy of the devices of task {k} of vq-tasks" for k in range(tasks.MOST)} | {
    f"weight_{k}": f"of the loss of task {k} in training" for k in range(tasks.MOST)
}
MEASURES = {
    "train_up": "payload bytes per example and epoch that a device sends across the cut in training",
    "train_down": "payload bytes per example and epoch that a device receives across the cut in training",
    "infer_up": "payload bytes per example that a device sends across the cut to have it answered",
    "infer_down": "payload bytes per example that a device receives across the cut as an answer",
    "tokens_up": "bytes per example that the packed token ids of the same texts would take instead",
    "perplexity": "vectors of a codebook that training used, 1 to K; mean over the codebooks",
} | OF_TASKS
STUDIED = ("vq_residual", "vq_pretrain", "vq_late", "vq_learn")  # settings that rounds have no use for

# the cloud's side


@lru_cache(maxsize=8)
def architecture(settings: Settings) -> Architecture:
    """Both halves, from scratch, and the head; where devices have different tasks, for each of these.

    Raises:
        SettingsError: the data are no text, or the model cannot be built as asked.
    """
    texts = [dataset(one) for one in tasks.of(settings)]
    if not texts[0].text:
        raise SettingsError(
            f"workload = 'vq' needs text, {texts[0].name} holds none: choose e.g. dataset = 'questions'"
        )
    for key in STUDIED:
        if getattr(settings, key) != Settings.model_fields[key].default:
            raise SettingsError(f"{key.replace('_', '-')} is for studies: leave it out with workload 'vq'")
    try:
        codes = (settings.vq_codes, settings.vq_groups) if settings.vq_codes else None
        like = (
            shape_of(settings),
            max(of.num_classes for of in texts),
            codes,
            settings.tokens,
            PRESETS[settings.vq_preset],
        )
        return split_body(*like) if len(texts) == 1 else task_body(len(texts), *like)
    except (ValueError, ModuleNotFoundError) as error:
        raise SettingsError(str(error)) from error


def shape_of(settings: Settings) -> Shape:
    """What both halves are built from. ValueError: impossible."""
    common = {"cloud_layers": settings.vq_cloud_layers, "pool": settings.vq_pool, "width": settings.vq_width}
    if settings.vq_preset == "minilm":
        return minilm(frozen=settings.vq_frozen, **common)
    return tiny(
        settings.vocabulary, hidden=settings.vq_hidden, inner=4 * settings.vq_hidden, tokens=settings.tokens, **common
    )


def learning_rates(settings: Settings) -> tuple[float, float]:
    """Learning rates of the layers, and of projections and head."""
    return settings.vq_lr * DEEP[settings.vq_preset], settings.vq_lr


def prepare(settings: Settings, seed: int, progress: Progress | None = None) -> Cloud:
    """Both halves, trained on the cloud's texts with the codebook scheduled in.

    Raises:
        SettingsError, partitions.DataError: data, model or methods do not fit.
    """
    if cutting := [name for name in settings.methods if name not in FULL_MODEL]:
        raise SettingsError(
            f"strategy '{cutting[0]}' cuts the model, workload 'vq' cannot: use {', '.join(FULL_MODEL)}"
        )
    masking = [name for name in settings.methods if FULL_MODEL[name].masked != "none"]
    if masking and settings.vq_labels == "shared":
        raise SettingsError(f"strategy '{masking[0]}' changes the loss on the device: use vq-labels = 'device'")
    refuse_whole_models(settings)
    if settings.split == "messages" and settings.vq_merge == "nothing":
        raise SettingsError("vq-merge = 'nothing': with split = 'messages' the cloud has to know every codebook")
    if not settings.dense_epochs:
        raise SettingsError(
            "dense-epochs = 0: workload 'vq' needs at least 1, for its codebook starts from trained states"
        )
    if settings.vq_tasks and masking:
        raise SettingsError(f"strategy '{masking[0]}' knows how often classes occur in one task: leave vq-tasks out")
    if settings.vq_gradnorm and (not settings.vq_tasks or settings.vq_labels == "shared"):
        raise SettingsError("vq-gradnorm weighs the losses of tasks on devices: set vq-tasks, and vq-labels = 'device'")
    whole_model, own = architecture(settings), tasks.of(settings)
    here = world(own[0], seed)
    classes = np.bincount(here.data.labels("train", here.proxy()), minlength=here.data.num_classes)
    costs = SplitCosts(whole_model, settings.batch_size, optimizer_slots=2, held=_held(settings))

    def uncut(*_: object) -> State:
        raise SettingsError("workload 'vq' has no model that can be cut")

    return Cloud(
        dense=whole_model,
        dense_costs=costs,
        modular=whole_model,
        modular_costs=costs,
        supernet=whole_model,
        supernet_costs=costs,
        shares=(classes / classes.sum()).tolist(),
        make_dense=lambda: cached(
            settings, seed, "split", partial(_offline if len(own) == 1 else _offline_tasks, settings, seed, progress)
        ),
        make_modular=uncut,  # type: ignore[arg-type]
        make_nested=uncut,
        make_supernet=uncut,
        settled=uncut,
        parts=parts(len(own)) if len(own) > 1 else (FULL,),
        merged=paced if settings.vq_gradnorm else lambda before, after: after,
    )


def _offline(settings: Settings, seed: int, progress: Progress | None) -> State:
    """Training on the proxy: float for a fifth of the steps, k-means over a whole pass, then codes."""

    def tick(step: int, steps: int) -> None:
        epoch, before = (settings.dense_epochs * at // steps for at in (step, step - 1))
        if progress and epoch > before:
            progress("split model", epoch, settings.dense_epochs)

    here, body = world(settings, seed), architecture(settings).whole(int(rng(seed, Purpose.INIT).integers(2**31)))
    assert isinstance(body, SplitBody)
    split, (tokens, y) = Split(body.device, body.cloud, body.head, _plan(settings)), _proxy(here)
    split.fit(tokens, y, seed, tick)
    _keep(settings, body, split, tokens)
    return body.state()


def _offline_tasks(settings: Settings, seed: int, progress: Progress | None) -> State:
    """The same of all tasks together, on one stack (`models.vq.training.tasks`)."""

    def tick(step: int, steps: int) -> None:
        if progress:
            progress("split models, step", step, steps)

    whole, own, init = architecture(settings), tasks.of(settings), int(rng(seed, Purpose.INIT).integers(2**31))
    bodies, learn = [], []
    for one in own:
        body = whole.build({**whole.sizes, "tasks": 1}, torch.Generator().manual_seed(init))
        assert isinstance(body, TaskBody)
        bodies.append(body)
        body.cloud = bodies[0].cloud
        learn.append(Lesson(Split(body.device, body.cloud, body.head, _plan(settings)), *_proxy(world(one, seed))))
    fit_tasks(learn, seed, settings.vq_gradnorm, tick)
    for body, lesson in zip(bodies, learn, strict=True):
        _keep(settings, body, lesson.split, lesson.tokens)
    return side_by_side([body.state() for body in bodies], bodies[0].axes())


def _proxy(here: World | LocalData) -> tuple[Tokens, Tensor]:
    """The cloud's texts and their classes."""
    ids, y = tensors(here.data, "train", here.proxy())
    return of_ids(ids), y


def _plan(settings: Settings) -> Plan:
    quantiser = Quantiser(
        settings.vq_codes,
        settings.vq_groups,
        beta=settings.vq_beta,
        estimator=settings.vq_estimator,
        decay=settings.vq_decay,
    )
    return Plan(
        settings.dense_epochs,
        settings.offline_batch,
        *learning_rates(settings),
        quantiser=quantiser if settings.vq_codes else None,
    )


def _keep(settings: Settings, body: SplitBody, split: Split, tokens: Tokens) -> None:
    """The statistics that the codebook of a training on ``tokens`` follows from, per example."""
    if split.keeper:
        per_example = pooled_lengths(tokens.lengths, settings.vq_pool).double().mean()
        body.keep(split.keeper.weighing(float(per_example)).running)


def global_accuracy(settings: Settings, method: Strategy) -> float:
    """The accuracy of a method's cloud model on the whole test set, mean over tasks."""
    found = []
    for own, part in zip(tasks.of(settings), method.cloud.parts, strict=True):
        ids, y = tensors(world(own, method.seed).data, "test")
        one, two, _ = ends(settings, _load(settings, extract(method.model, method.axes, part)))
        found.append(float(graded(infer(one, two, of_ids(ids)), y)[0].float().mean()))
    return float(np.mean(found))


# a device's side


def _held(settings: Settings) -> Coverage:
    """What of the whole a device holds, as far as its size goes: that of any task is as large."""
    return parts(1)[0] if settings.vq_tasks else FULL


def _fresh(settings: Settings) -> SplitBody:
    """What a device has, to be loaded."""
    body = architecture(settings).part(_held(settings))
    assert isinstance(body, SplitBody)
    return body


_body = lru_cache(maxsize=4)(_fresh)  # one per process, overwritten by every device that uses it


def _load(settings: Settings, state: State, store: Store | None = None) -> SplitBody:
    """The model, with the codebook of the device's own where devices have one."""
    body = _body(settings)
    body.load_state_dict(state)
    if settings.vq_merge == "nothing" and store and store.holds("codebook"):
        body.keep(Statistics(**store.load("codebook")))
    return body


def boundary(settings: Settings, body: SplitBody) -> Boundary:
    """What may cross, and its ledger."""
    down = settings.vq_down
    edge = lines(body.shape.wire, body.head.width, body.head.per, body.codes, settings.vq_up, down, answer=down)
    shared = Line("labels", "up", Codes(body.head.width), 1, "example"), Line("loss", "down", Float32(), 1, "example")
    return Boundary((*edge, *shared), body.shape.pool)


def ends(settings: Settings, body: SplitBody) -> tuple[DeviceEnd, CloudEnd, CodebookEMA | None]:
    """Both ends over one boundary, with the codebook that the body's statistics make."""
    edge, recipe, keeper = boundary(settings, body), Recipe(*learning_rates(settings)), body.keeper()
    codebook = keeper.codebook if keeper else None
    one = DeviceEnd(body.device, edge, recipe, codebook, settings.vq_beta, ESTIMATORS[settings.vq_estimator])
    two = CloudEnd(body.cloud, body.head, edge, recipe, codebook)
    two.watched = settings.vq_gradnorm
    return one, two, keeper


def side(settings: Settings, order: Order, end: DeviceEnd, weight: float = 1.0) -> DeviceSide:
    """A device's round with its texts and labels; ``weight``: of the loss."""
    ids, y = samples(tasks.task(settings, order.device), order, "train")
    own = None if order.masked == "none" else class_shares(settings, order)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return weight * F.cross_entropy(mask(logits, own, order.masked), labels)

    where, share = Where(order.seed, order.round, order.device), settings.vq_labels == "shared"
    return DeviceSide(end, of_ids(ids), y, loss, order.epochs, settings.batch_size, where, share)


def profile(settings: Settings, order: Order, store: Store, with_importance: bool) -> dict[str, float | list[float]]:
    """What the device can spare now; nothing here has modules."""
    now = spare(settings, order)
    return {"link": now.link, "compute": now.compute, "memory": now.memory}


def train(settings: Settings, order: Order, store: Store, state: State | None) -> Trained:
    """Local epochs of both halves on the device's current texts; the statistics of the codes move along."""
    sent = state if state is not None else store.load("model")
    body = _load(settings, sent, store)
    before = body.state() if settings.upload_change else {}
    one, two, keeper = ends(settings, body)
    device = side(settings, order, one, body.weight)
    train_sides(device, CloudSide(two, device.where))
    _heard(body, two)
    trained = finished(settings, body, device, keeper)
    if keeper and settings.vq_merge == "nothing":
        store.save("codebook", {name: getattr(body, name).clone() for name in CODEBOOK})
        body.keep(Statistics(*(sent[name].view_as(getattr(body, name)) for name in CODEBOOK)))
    if order.keep:
        store.save("model", body.state())
    worth = not settings.upload_change or change(before, body.state()) >= settings.upload_change
    return replace(trained, state=body.state() if worth else None)


def finished(settings: Settings, body: SplitBody, device: DeviceSide, keeper: CodebookEMA | None) -> Trained:
    """What a round gave, but for the parameters; the statistics of ``body`` move."""
    examples, passed = len(device.labels), len(device.labels) * device.epochs
    measures = measured(device.end.boundary.ledger, "train", passed)
    if keeper and passed:
        assert device.end.statistics is not None
        body.moved(keeper, device.end.statistics, passed, settings.vq_decay, settings.vq_merge)
        measures["perplexity"] = float(perplexity(device.end.statistics.counts).mean())
    loss = device.losses[-1] / examples / body.weight if device.losses else float("nan")
    if isinstance(body, TaskBody):
        body.pace[2] = loss
        measures[f"weight_{tasks.number(settings, device.where.device)}"] = body.weight
    return Trained(None, examples, loss, device.labels.unique().tolist(), measures=measures)


def _heard(body: SplitBody, end: CloudEnd) -> None:
    """What GradNorm has to know of the cloud's side of a round."""
    if isinstance(body, TaskBody) and end.norms:
        body.pace[1] = float(np.mean(end.norms)) / body.weight


# really split


class Replica:
    """The cloud's side of one device's round."""

    def __init__(self, settings: Settings, order: Order, state: State):
        body = _fresh(settings)
        body.load_state_dict(state)
        _, end, _ = ends(settings, body)
        self.body, self.epochs = body, order.epochs
        self.for_device = {name: state[name] for name in body.on_device()}
        self.side = CloudSide(end, Where(order.seed, order.round, order.device))

    @property
    def steps(self) -> int:
        return self.side.step

    def turn(self, up: Mapping[str, bytes]) -> dict[str, bytes]:
        """What goes down, given what came up. ValueError, StaleCodebook: what came up does not belong here."""
        return self.side.turn(up)

    def whole(self, trained: State) -> State:
        """What the device trained, and the cloud's half and head."""
        _heard(self.body, self.side.end)
        own = self.body.state()
        whole = {name: trained.get(name, value) for name, value in own.items()}
        if "pace" in own and whole["pace"].shape == own["pace"].shape:  # else it is refused like any wrong shape
            whole["pace"] = torch.cat([own["pace"][:, :2], whole["pace"][:, 2:]], 1)
        return whole

    def measures(self, examples: int) -> dict[str, float]:
        return measured(self.side.end.boundary.ledger, "train", examples * self.epochs)


def replica(settings: Settings, order: Order, state: State) -> Replica:
    return Replica(settings, order, state)


AT_ONCE = 64  # rounds that a process keeps in memory; the others are read from their stores
_SIDES: dict[
    Path, tuple[DeviceSide, SplitBody, CodebookEMA | None]
] = {}  # rounds that this process is in the middle of


def turn(
    settings: Settings, order: Order, store: Store, steps: int, down: Mapping[str, bytes], state: State | None
) -> dict[str, bytes] | Trained:
    """The device's answer to what came down; what it needs to go on lies in its store after every step."""
    store = Store(store.folder / "split")  # a round that the cloud goes back to begins anew
    if state is not None:
        store.save("start", state)
        _SIDES.pop(store.folder, None)  # of a round that broke off
    device, body, keeper = _side(settings, order, store, steps, down)
    if up := device.turn(down):
        if "logits" in down:
            store.save("tally", device.tally())
        return up
    _SIDES.pop(store.folder)
    shutil.rmtree(store.folder)
    trained = finished(settings, body, device, keeper)
    return replace(trained, state=device_state(body, body.state()))


def _side(
    settings: Settings, order: Order, store: Store, steps: int, down: Mapping[str, bytes]
) -> tuple[DeviceSide, SplitBody, CodebookEMA | None]:
    """The device's side as it was when the cloud sent ``down``, built anew where this process has not got it.

    Another process may have taken the turns since this one had the last.

    Raises:
        fl.workloads.state_store.NotHeld: the store holds no such moment.
    """
    answered = "gradient" in down and settings.vq_labels == "device"
    moment = Where(order.seed, order.round, order.device), steps - ("gradient" in down), bool(down), answered
    found = _SIDES.get(store.folder)
    if len(_SIDES) > AT_ONCE:
        _SIDES.clear()
    if found is None or found[0].moment != moment:
        body = _fresh(settings)
        body.load_state_dict(store.load("start"), strict=False)
        end, _, keeper = ends(settings, body)
        device = side(settings, order, end, body.weight)
        if moment[1]:
            device.restore(store.load("side"))
        if down:
            device.turn({})
        if answered:
            device.recount(store.load("tally"))
        if device.moment != moment:
            raise NotHeld(f"device {order.device} has {device.learned} steps behind it, not {moment[1]}")
        device.keep = lambda own: store.save("side", own.state())
        found = _SIDES[store.folder] = device, body, keeper
    return found


def measured(ledger: Ledger, phase: str, examples: int) -> dict[str, float]:
    """Payload bytes per example of a phase, those of the directions in which anything went."""
    found = {f"{phase}_{way}": ledger.total(direction=way, phase=phase) / max(1, examples) for way in ("up", "down")}
    return {name: value for name, value in found.items() if value}


def evaluate(settings: Settings, order: Order, store: Store, state: State | None) -> Scored:
    """Score a model on the device's current distribution, as delivered and after ``order.epochs`` of adaptation.

    The codebook is the cloud's: adaptation leaves it as it is.
    """
    body = _load(settings, state if state is not None else store.load("model"), store)
    steps = [order.step, order.step - 1] if order.look_back else [order.step]
    task = tasks.task(settings, order.device)
    tests = [samples(task, replace(order, step=step), "test") for step in steps]
    own = class_shares(settings, order) if order.masked == "prior" else None
    found: dict[Measure, list[tuple[float, float, float]]] = {}
    measures: dict[Measure, Mapping[str, float]] = {}

    def score(which: Measure) -> None:
        one, two, _ = ends(settings, body)
        logits = [mask(infer(one, two, of_ids(ids)), own, "prior") for ids, _ in tests]
        found[which] = [_score(of, y) for of, (_, y) in zip(logits, tests, strict=True)]
        lengths = [n for ids, _ in tests for n in of_ids(ids).lengths.tolist()]
        told = measured(one.boundary.ledger, "infer", len(lengths))
        told["tokens_up"] = Codes(body.shape.vocabulary).size(lengths, 1) / len(lengths) + LENGTH.size
        if settings.vq_tasks:
            told[f"task_{tasks.number(settings, order.device)}"] = found[which][0][0]
        measures[which] = told

    score("delivered")
    found["adapted"], measures["adapted"] = found["delivered"], measures["delivered"]
    examples = len(samples(task, order, "train")[1])
    if order.epochs:
        before = body.state()
        one, two, _ = ends(settings, body)
        device = side(settings, order, one)
        train_sides(device, CloudSide(two, device.where))
        if order.blend < 1:
            body.load_state_dict(blend(before, body.state(), order.blend))
        score("adapted")
    if order.keep:
        store.save("model", body.state())
    former = (found["delivered"][1][0], found["adapted"][1][0]) if order.look_back else None
    return Scored(len(tests[0][1]), found["delivered"][0], found["adapted"][0], examples, former, measures=measures)


def _score(logits: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Accuracy, balanced accuracy and mean loss."""
    right, nats = graded(logits, y)
    recall = [float(right[y == k].float().mean()) for k in y.unique().tolist()]
    return float(right.float().mean()), float(np.mean(recall)), float(nats.mean())
