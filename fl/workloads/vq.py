"""The VQ split transformer on text clients: a client half, codes across the cut, a cloud half (DCCT).

By default a client trains both halves itself, every tensor passing the boundary's codec, and returns the whole model.
With ``split = "messages"`` `fl.server.split` keeps the cloud's half in the ServerApp and sends what crosses. Both are
the same two sides of `models.vq.session`, so they give the same numbers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl.config import Settings, SettingsError
from fl.workloads.classify import change
from fl.workloads.client_data import ClientData
from fl.workloads.options import VQOptions
from fl.workloads.state_store import ClientStateStore
from fl.workloads.texts import MOST_TASKS, TaskWorlds, Tokeniser
from fl.workloads.vq_pretraining import SplitPretraining, learning_rates
from fl.workloads.workload import (
    Answer,
    ClientContext,
    Half,
    Messages,
    Method,
    Scored,
    SplitWorkload,
    Trained,
    refuse_whole_models,
    scored_steps,
)  # fmt: skip
from fl.workloads.world import Worlds, class_frequencies, tensors
from models.modular.model import Progress
from models.nn.body import Architecture
from models.submodel import FULL, Coverage, State, extract
from models.training.loop import correct_logits, hits_and_losses, with_gradients
from models.vq.ends import CloudEnd, DeviceEnd, LearningRates
from models.vq.network.body import CODEBOOK, SplitBody, SplitCosts, device_state, split_body, tokens_from_ids
from models.vq.network.halves import Shape
from models.vq.network.presets import PRESETS, minilm, tiny
from models.vq.network.task_body import TaskBody, apply_gradnorm, parts, task_body
from models.vq.quantiser.boundary import LENGTH, Boundary, BoundaryTraffic, Channel, channels
from models.vq.quantiser.codebook import ESTIMATORS, Statistics, perplexity
from models.vq.quantiser.codebook_ema import CodebookEMA
from models.vq.quantiser.codec import Codes, Float32
from models.vq.session import CloudSide, DeviceSide, RoundAddress, infer
from models.vq.session import train as train_sides
from strategies.core.averaging import Averaging
from strategies.core.client import ClientTask, ClientTrainer
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Measure, Strategy

STUDIED = ("residual", "pretrain", "late", "learn")  # options that only studies use


class VQ(SplitWorkload):
    """Clients learn classes of texts with the client half and the cloud half of a split transformer."""

    measures = {
        "train_up": "payload bytes per example and epoch that a client sends across the cut in training",
        "train_down": "payload bytes per example and epoch that a client receives across the cut in training",
        "infer_up": "payload bytes per example that a client sends across the cut for an answer",
        "infer_down": "payload bytes per example that a client receives across the cut as an answer",
        "tokens_up": "bytes per example that the packed token ids of the same texts would take instead",
        "perplexity": "vectors of a codebook that training used, 1 to K; mean over the codebooks",
        **{f"task_{k}": f"accuracy of the clients of task {k} of vq.tasks" for k in range(MOST_TASKS)},
        **{f"weight_{k}": f"of the loss of task {k} in training" for k in range(MOST_TASKS)},
    }
    provides = frozenset({"dense", "class-shares", "adapted", "begin", "correct_gradients"})
    ignores = VQOptions.ignores
    Options = VQOptions

    def __init__(self, settings: Settings, options: VQOptions, worlds: Worlds):
        self.options = options
        self.tasks = TaskWorlds(options, replace(worlds, tokenise=Tokeniser(options, settings.data)))
        super().__init__(settings, self.tasks.worlds[0])
        self._network = lru_cache(maxsize=4)(self._fresh)  # one per process, overwritten by every client

    def check(self, methods: Mapping[str, Method]) -> None:
        options, settings = self.options, self.settings
        corrects = [name for name, of in methods.items() if "class-shares" in of.strategy.needs(of.options)]
        for key in STUDIED:
            if getattr(options, key) != VQOptions.model_fields[key].default:
                raise SettingsError(f"vq.{key} is for studies: leave it out with workload 'vq'")
        self._check_start(methods)
        if corrects and options.labels == "shared":
            raise SettingsError(f"strategy '{corrects[0]}' changes the loss on the client: use vq.labels = 'device'")
        refuse_whole_models(settings, methods)
        if settings.split == "messages" and options.merge == "nothing":
            raise SettingsError("vq.merge = 'nothing': with split = 'messages' the server must know every codebook")
        if not settings.pretrain.dense_epochs:
            raise SettingsError(
                "pretrain.dense-epochs = 0: workload 'vq' needs at least 1, its codebook starts from trained states"
            )
        if options.tasks and corrects:
            raise SettingsError(f"strategy '{corrects[0]}' knows class frequencies of one task: leave vq.tasks out")
        if options.gradnorm and (not options.tasks or options.labels == "shared"):
            raise SettingsError(
                "vq.gradnorm weighs the losses of tasks on clients: set vq.tasks, and vq.labels = 'device'"
            )

    def _check_start(self, methods: Mapping[str, Method]) -> None:
        """Raise SettingsError if codes cannot begin as late as ``vq.start`` says."""
        start = self.options.start
        if start and (not self.options.codes or self.options.tasks):
            why = "vq.tasks, whose codes begin in pretraining" if self.options.codes else "vq.codes = 0"
            raise SettingsError(f"vq.start = {start:g} says when codes begin, and does not fit {why}: leave it out")
        alone = [name for name, of in methods.items() if not issubclass(of.strategy, Averaging)]
        if start and alone:
            raise SettingsError(
                f"strategy '{alone[0]}' has no aggregated model that the cloud could give codes: use vq.start = 0, "
                "or leave the strategy out"
            )

    # the server's side

    @property
    def digests(self) -> list[str]:
        return [digest for worlds in self.tasks.worlds for digest in worlds.digests]

    @cached_property
    def architecture(self) -> Architecture:
        """Both halves, from scratch, and the head; if clients have different tasks, for each of these.

        Raises:
            SettingsError: the data are no text, or the model cannot be built as asked.
        """
        options, texts = self.options, [worlds.dataset for worlds in self.tasks.worlds]
        if not texts[0].text:
            raise SettingsError(
                f"workload = 'vq' needs text, {texts[0].name} holds none: choose e.g. data.name = 'questions'"
            )
        self.tasks.check()
        try:
            codes, shape = (options.codes, options.groups) if options.codes else None, self.shape
            if codes and len(texts) == 1 and not shape.width:  # to weigh code space, there must be a projection
                shape = replace(shape, width=shape.hidden)
            classes, preset = max(of.num_classes for of in texts), PRESETS[options.preset]
            like = (shape, classes, codes, options.tokens, preset)
            return split_body(*like) if len(texts) == 1 else task_body(len(texts), *like)
        except (ValueError, ModuleNotFoundError) as error:
            raise SettingsError(str(error)) from error

    @property
    def shape(self) -> Shape:
        """What both halves are built from. ValueError: impossible."""
        o = self.options
        common = {"cloud_layers": o.cloud_layers, "pool": o.pool, "width": o.width}
        if o.preset == "minilm":
            return minilm(frozen=o.frozen, **common)
        return tiny(o.vocabulary, hidden=o.hidden, inner=4 * o.hidden, tokens=o.tokens, **common)

    @cached_property
    def pretraining(self) -> SplitPretraining:
        return SplitPretraining(self.settings, self.options, self.tasks, self.architecture)

    def prepare(self, seed: int, progress: Progress | None = None) -> PretrainedModels:
        whole, several = self.architecture, len(self.tasks.worlds) > 1
        costs = SplitCosts(whole, self.settings.client.batch_size, optimizer_slots=2, coverage=self._part)
        return PretrainedModels(
            architectures={"dense": whole},
            costs={"dense": costs},
            train={"dense": lambda: self.pretraining.model(seed, progress)},
            class_shares=class_frequencies(self.worlds(seed)),
            parts=parts(len(self.tasks.worlds)) if several else (FULL,),
            post_aggregate=partial(self._post_aggregate, seed),
        )

    def _post_aggregate(self, seed: int, server_round: int, before: State, after: State) -> State:
        """Weigh the losses of tasks, and let codes begin when it is time."""
        if self.options.gradnorm:
            after = apply_gradnorm(before, after)
        begun = not self.options.codes or bool(after["counts"].any())
        if begun or server_round < self.options.start * self.settings.rounds:
            return after
        return self.pretraining.with_codes(seed, after)

    def global_accuracy(self, method: Strategy) -> float:
        """Return the accuracy of a method's cloud model on the whole test set, mean over tasks."""
        found = []
        for worlds, part in zip(self.tasks.worlds, method.models.parts, strict=True):
            ids, y = tensors(worlds(method.seed).data, "test")
            client, cloud, _ = self.ends(self._load(extract(method.model, method.axes, part)))
            found.append(float(hits_and_losses(infer(client, cloud, tokens_from_ids(ids)), y)[0].float().mean()))
        return float(np.mean(found))

    def saved(self, seed: int, model: State) -> tuple[State, dict[str, Any]]:
        """Add what `vq device` and `vq cloud` need, if clients have one task and the codebook is common."""
        if self.options.tasks or self.options.merge == "nothing":
            return model, {}
        body, worlds, o = self._network(), self.worlds, self.options
        tokenizer = Tokeniser(o, self.settings.data).of(worlds(seed), worlds.dataset)
        about = {
            "shape": asdict(body.shape), "codes": body.codes, "preset": o.preset, "up": o.up, "down": o.down,
            "classes": worlds.dataset.classes, "tokens": o.tokens, "tokenizer": tokenizer.to_str(),
        }  # fmt: skip
        return model, {"vq": about}

    # a client's side

    @property
    def _part(self) -> Coverage:
        """The part of the whole that a client has, as far as its size goes: the parts of all tasks are as large."""
        return parts(1)[0] if self.options.tasks else FULL

    def _fresh(self) -> SplitBody:
        body = self.architecture.part(self._part)
        assert isinstance(body, SplitBody)
        return body

    def _load(self, state: State, store: ClientStateStore | None = None) -> SplitBody:
        """Return the network with ``state``, and with the client's codebook if clients have codebooks of their own."""
        body = self._network()
        body.load_state_dict(state)
        if self.options.merge == "nothing" and store and store.holds("codebook"):
            body.set_statistics(Statistics(**store.load("codebook")))
        return body

    def boundary(self, body: SplitBody) -> Boundary:
        """Return what may cross, and the count of its bytes."""
        down = self.options.down
        edge = channels(body.shape.wire, body.head.width, body.head.per, body.codes, self.options.up, down, answer=down)
        labels, loss = (
            Channel("labels", "up", Codes(body.head.width), 1, "example"),
            Channel("loss", "down", Float32(), 1, "example"),
        )
        return Boundary((*edge, labels, loss), body.shape.pool)

    def ends(self, body: SplitBody) -> tuple[DeviceEnd, CloudEnd, CodebookEMA | None]:
        """Return both ends over one boundary, with the codebook that the body's statistics make."""
        edge, rates, ema = self.boundary(body), LearningRates(*learning_rates(self.options)), body.codebook_ema()
        codebook = ema.codebook if ema else None
        estimator = ESTIMATORS[self.options.estimator]
        client = DeviceEnd(body.device, edge, rates, codebook, self.options.beta, estimator)
        cloud = CloudEnd(body.cloud, body.head, edge, rates, codebook)
        cloud.record_norms = self.options.gradnorm
        return client, cloud, ema

    def _client(self, context: ClientContext) -> ClientData:
        """Return the client's texts, as token ids (n, T), and their classes."""
        return ClientData(context, self.tasks.of(context.client))

    def _side(self, client: ClientData, trainer: ClientTrainer, end: DeviceEnd, weight: float = 1.0) -> DeviceSide:
        """Return a client's round with its texts and labels; ``weight``: of the loss."""
        (ids, y), own, c = client.samples("train"), trainer.class_shares(), client.context

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return weight * F.cross_entropy(correct_logits(logits, own, trainer.correction), labels)

        address, share = RoundAddress(c.seed, c.round, c.client), self.options.labels == "shared"
        size = self.settings.client.batch_size
        return DeviceSide(end, tokens_from_ids(ids), y, loss, trainer.task.epochs, size, address, share)

    def train(self, context: ClientContext, task: ClientTask, half: Half) -> Trained:
        """Train both halves on the client's current texts; the statistics of the codes move along."""
        client, store = self._client(context), context.store
        trainer = half(client)
        sent = task.state if task.state is not None else store.load("model")
        body, smallest = self._load(sent, store), self.settings.client.upload_change
        before = body.state() if smallest else {}
        one, two, ema = self.ends(body)
        side = self._side(client, trainer, one, body.weight)
        _train_whole(trainer, body, side, two)
        _note_norms(body, two)
        trained = self._finished(body, side, ema)
        if ema and self.options.merge == "nothing":
            store.save("codebook", {name: getattr(body, name).clone() for name in CODEBOOK})
            body.set_statistics(Statistics(*(sent[name].view_as(getattr(body, name)) for name in CODEBOOK)))
        if task.keep:
            store.save("model", body.state())
        worth = not smallest or change(before, body.state()) >= smallest
        return replace(trained, state=body.state() if worth else None)

    def _finished(self, body: SplitBody, side: DeviceSide, ema: CodebookEMA | None) -> Trained:
        """Return the result of a round without the parameters; the statistics of ``body`` move."""
        examples, passed = len(side.labels), len(side.labels) * side.epochs
        found = measured(side.end.boundary.traffic, "train", passed)
        if ema and passed:
            assert side.end.statistics is not None
            body.add_statistics(ema, side.end.statistics, passed, self.options.decay, self.options.merge)
            found["perplexity"] = float(perplexity(side.end.statistics.counts).mean())
        loss = side.losses[-1] / examples / body.weight if side.losses else float("nan")
        if isinstance(body, TaskBody):
            body.pace[2] = loss
            found[f"weight_{self.tasks.number(side.address.device)}"] = body.weight
        return Trained(None, examples, loss, measures=found)

    def evaluate(self, context: ClientContext, task: ClientTask, half: Half) -> Scored:
        """Score a model as delivered and after adaptation, which leaves the cloud's codebook unchanged."""
        client, store = self._client(context), context.store
        trainer = half(client)
        body = self._load(task.state if task.state is not None else store.load("model"), store)
        steps, prior = scored_steps(context), trainer.correction == "prior"
        tests = [(*client.samples("test", step), trainer.class_shares(step) if prior else None) for step in steps]
        found: dict[Measure, list[tuple[float, float, float]]] = {}
        measures: dict[Measure, Mapping[str, float]] = {}

        def score(which: Measure) -> None:
            one, two, _ = self.ends(body)
            found[which] = [
                _score(correct_logits(infer(one, two, tokens_from_ids(ids)), shares, "prior"), y)
                for ids, y, shares in tests
            ]
            lengths = [n for ids, *_ in tests for n in tokens_from_ids(ids).lengths.tolist()]
            values = measured(one.boundary.traffic, "infer", len(lengths))
            values["tokens_up"] = Codes(body.shape.vocabulary).size(lengths, 1) / len(lengths) + LENGTH.size
            if self.options.tasks:
                values[f"task_{self.tasks.number(context.client)}"] = found[which][0][0]
            measures[which] = values

        score("delivered")
        found["adapted"], measures["adapted"] = found["delivered"], measures["delivered"]
        examples = len(client.samples("train")[1])
        if task.epochs:
            before = body.state()
            one, two, _ = self.ends(body)
            side = self._side(client, trainer, one)
            _train_whole(trainer, body, side, two)
            after = body.state()
            if (served := trainer.adapted(before, after)) is not after:
                body.load_state_dict(served)
            score("adapted")
        if task.keep:
            store.save("model", body.state())
        former = (found["delivered"][1][0], found["adapted"][1][0]) if context.look_back else None
        return Scored(len(tests[0][1]), found["delivered"][0], found["adapted"][0], examples, former, measures=measures)

    # training that is really split

    def replica(self, context: ClientContext, epochs: int, state: State) -> "VQReplica":
        body = self._fresh()
        body.load_state_dict(state)
        _, end, _ = self.ends(body)
        side = CloudSide(end, RoundAddress(context.seed, context.round, context.client))
        return VQReplica(body, epochs, side, {name: state[name] for name in body.device_entries()})

    def answer(self, context: ClientContext, task: ClientTask, half: Half, steps: int, down: Messages) -> Answer:
        store = context.of_round
        if task.state is not None:
            store.save("start", task.state)
        done, answered = steps - ("gradient" in down), "gradient" in down and self.options.labels == "device"
        address = RoundAddress(context.seed, context.round, context.client)

        def rebuild() -> OpenRound:
            body = self._fresh()
            body.load_state_dict(store.load("start"), strict=False)
            end, _, ema = self.ends(body)
            client = self._client(context)
            side = self._side(client, half(client), end, body.weight)
            if done:
                side.restore(store.load("side"))
            if down:
                side.respond({})
            if answered:
                side.restore_counters(store.load("counters"))
            side.on_step = lambda own: store.save("side", own.state())
            return OpenRound(side, body, ema)

        at = done, (address, done, bool(down), answered)
        now = self.opened(context, at, lambda now: (now.side.steps_done, now.side.progress), rebuild)
        if up := now.side.respond(down):
            if "logits" in down:
                store.save("counters", now.side.counters())
            return up
        trained = self._finished(now.body, now.side, now.ema)
        return replace(trained, state=device_state(now.body, now.body.state()))


@dataclass(frozen=True)
class OpenRound:
    """A split round that this process is in the middle of."""

    side: DeviceSide
    body: SplitBody
    ema: CodebookEMA | None


@dataclass(frozen=True)
class VQReplica:
    """The server's side of one client's round."""

    body: SplitBody
    epochs: int
    side: CloudSide
    for_client: State

    @property
    def steps(self) -> int:
        return self.side.step

    def turn(self, up: Messages) -> dict[str, bytes]:
        """Return what goes down, given what came up. ValueError, StaleCodebook: what came up does not belong here."""
        return self.side.respond(up)

    def whole(self, trained: State) -> State:
        """Return what the client trained, and the cloud's half and head."""
        _note_norms(self.body, self.side.end)
        own = self.body.state()
        whole = {name: trained.get(name, value) for name, value in own.items()}
        if "pace" in own and whole["pace"].shape == own["pace"].shape:  # else it is refused like any wrong shape
            whole["pace"] = torch.cat([own["pace"][:, :2], whole["pace"][:, 2:]], 1)
        return whole

    def measures(self, examples: int) -> dict[str, float]:
        return measured(self.side.end.boundary.traffic, "train", examples * self.epochs)


def _train_whole(trainer: ClientTrainer, body: SplitBody, side: DeviceSide, cloud: CloudEnd) -> None:
    """Train both halves in this process. The method's client half may change gradients before each step of a half."""
    if trainer.corrects is not None:
        trainer.begin()
        for end in (side.end, cloud):
            stepped = {id(p) for group in end.optimizer.param_groups for p in group["params"]}
            own = [(name, p) for name, p in body.named_parameters() if id(p) in stepped]

            def correct(*_: Any, own: Iterable[tuple[str, nn.Parameter]] = own) -> None:
                trainer.correct_gradients(with_gradients(own), side.rows[side.steps_done][0])

            end.optimizer.register_step_pre_hook(correct)
    train_sides(side, CloudSide(cloud, side.address))


def measured(traffic: BoundaryTraffic, phase: str, examples: int) -> dict[str, float]:
    """Return payload bytes per example of a phase, of the directions in which anything went."""
    found = {f"{phase}_{way}": traffic.total(direction=way, phase=phase) / max(1, examples) for way in ("up", "down")}
    return {name: value for name, value in found.items() if value}


def _note_norms(body: SplitBody, end: CloudEnd) -> None:
    """Note the gradient norms of the cloud's half that GradNorm needs."""
    if isinstance(body, TaskBody) and end.norms:
        body.pace[1] = float(np.mean(end.norms)) / body.weight


def _score(logits: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Accuracy, balanced accuracy and mean loss."""
    right, nats = hits_and_losses(logits, y)
    recall = [float(right[y == k].float().mean()) for k in y.unique().tolist()]
    return float(right.float().mean()), float(np.mean(recall)), float(nats.mean())
