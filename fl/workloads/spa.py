"""Side Plugin Adaption: clients personalise a frozen language model by a small side network and a gate (`models.spa`).

Clients exchange their side and gate, or less (``spa.personal``); the base is named in the run-config and never in a
message. By default a client has the base beside it; with ``split = "messages"`` `fl.server.split` keeps it in the
ServerApp while clients train, and sends what it says. Both are the two sides of `models.spa.session`, so they give the
same numbers. A client is a person of `partitions.datasets.text.personas`, or a file of JSON lines.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fl.config import Settings, SettingsError
from fl.workloads.client_data import ClientData
from fl.workloads.options import SPAOptions
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
from fl.workloads.world import Worlds
from models.costs import CostModel
from models.modular.model import Progress
from models.spa import bases
from models.spa.activations import Activations, ExampleStates
from models.spa.body import architecture, personal_state, shared_state
from models.spa.codec import MAX_FRAME_BYTES, Frame, TrafficLog
from models.spa.gate import Gate
from models.spa.metrics import evaluate_tokens, rates
from models.spa.modes import mode
from models.spa.session import CloudSide, DeviceSide
from models.spa.session import train as train_plugin
from models.spa.side import SIDES, SideSpec, every_nth_state
from models.spa.tiny import SIZES
from models.spa.train import Plugin, Training
from models.submodel import State
from partitions import Purpose, Schedule, rng
from partitions.datasets.text.examples import ExampleFiles
from partitions.datasets.text.personas import Example, Personas, Split
from partitions.root import cache_folder
from strategies.core.client import ClientTask, ClientTrainer
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Strategy

SCORES: dict[str, str] = {
    "M": "share of answer tokens whose side is asked, under teacher forcing",
    "exact": "share of answers without a wrong token",
    "diff": "share of answer tokens at which base and side guess differently",
    "diff_pick": "share at which they differ and the side is asked",
    "waste": "share asked among those at which they guess the same",
    "base_accuracy": "token accuracy of the base alone",
    "side_accuracy": "token accuracy if the side were always asked",
}
TOKENS = 16  # of an answer, for the clock: what one example costs
ADAM = 2  # numbers that AdamW keeps per parameter


class SPA(SplitWorkload):
    """Clients learn answers to private questions with a side network and a gate beside a frozen language model."""

    measures = SCORES | {
        "train_up": "payload bytes per example of a round that a client with the base elsewhere sends to train",
        "train_down": "payload bytes per example of a round that it receives to train: states once, and gradients",
    }
    provides = frozenset({"dense", "begin", "correct_gradients"})
    ignores = SPAOptions.ignores
    Options = SPAOptions

    def __init__(self, settings: Settings, options: SPAOptions, worlds: Worlds):
        super().__init__(settings, worlds)
        self.options = options
        self.people = lru_cache(maxsize=8)(self._people)

    def check(self, methods: Mapping[str, Method]) -> None:
        if self.settings.split == "messages" and self.training.joint:
            raise SettingsError(f"spa.gate = '{self.options.gate}' needs the base beside it: use 'two-stage'")
        refuse_whole_models(self.settings, methods)

    # the server's side

    @property
    def digests(self) -> list[str]:
        people = self.people(self.settings.seed_list[0])
        return [people.digest] if isinstance(people, ExampleFiles) and not self.worlds.own else []

    def prepare(self, seed: int, progress: Progress | None = None) -> PretrainedModels:
        """Return a plugin that changes nothing yet. The tiny base is trained when it is first needed."""
        if not self.worlds.own and isinstance(people := self.people(seed), ExampleFiles):
            people.check(self.settings.devices.count)
        plugin = architecture(self.side_spec, self.options.personal, TOKENS)

        def initial() -> State:
            self.base(progress)
            return shared_state(self.fresh(seed).state(), self.options.personal)

        costs = CostModel(plugin, self.settings.client.batch_size, ADAM)
        return PretrainedModels({"dense": plugin}, {"dense": costs}, {"dense": initial})

    def global_accuracy(self, method: Strategy) -> float:
        """Return NaN: people's private answers contradict each other, so there is no test set for all."""
        return math.nan

    def saved(self, seed: int, model: State) -> tuple[State, dict[str, Any]]:
        """Return a plugin that `spa chat` reads. What clients keep of it is as it was before any training."""
        plugin, o = self.fresh(seed), self.options
        plugin = plugin.with_state(plugin.state() | model)
        return plugin.state(), {"spa": plugin.about(self.base().checksum, o.mode, o.policy)}

    # a client's side

    def train(self, context: ClientContext, task: ClientTask, half: Half) -> Trained:
        """Train the side for local epochs and fit the gate anew."""
        traffic = TrafficLog()
        trainer = half(ClientData(context, self.worlds))
        plugin, loss = self._fit(context, trainer, self._load(context, task.state), traffic)
        examples = len(self.people(context.seed).examples(context.client, context.step, "train"))
        trained = self._finished(context, task, plugin, examples, loss)
        return replace(trained, measures=self.crossed(traffic, examples))

    def _finished(
        self, context: ClientContext, task: ClientTask, plugin: Plugin, examples: int, loss: float
    ) -> Trained:
        """Return the result of a round; the personal part stays here."""
        after, personal = plugin.state(), self.options.personal
        if personal != "nothing":
            context.store.save("personal", personal_state(after, personal))
        if task.keep:
            context.store.save("model", shared_state(after, personal))
        return Trained(shared_state(after, personal), examples, 0.0 if math.isnan(loss) else loss)

    def crossed(self, traffic: TrafficLog, examples: int) -> dict[str, float]:
        """Return what training sends across the cut, if it has one."""
        if self.training.joint or not examples:
            return {}
        return {"train_up": traffic.bytes("up") / examples, "train_down": traffic.bytes("down") / examples}

    def evaluate(self, context: ClientContext, task: ClientTask, half: Half) -> Scored:
        plugin, steps = self._load(context, task.state), scored_steps(context)
        delivered = adapted = [self._judged(context, plugin, step) for step in steps]
        if task.epochs:
            plugin, _ = self._fit(context, half(ClientData(context, self.worlds)), plugin)
            adapted = [self._judged(context, plugin, step) for step in steps]
        if task.keep:
            context.store.save("model", shared_state(plugin.state(), self.options.personal))
            if self.options.personal != "nothing":
                context.store.save("personal", personal_state(plugin.state(), self.options.personal))
        both = {"delivered": delivered, "adapted": adapted}
        scores = {
            name: (got[0]["token_accuracy"], got[0]["token_accuracy"], got[0]["ce"]) for name, got in both.items()
        }
        former = (delivered[1]["token_accuracy"], adapted[1]["token_accuracy"]) if context.look_back else None
        people = self.people(context.seed)
        return Scored(
            len(people.examples(context.client, context.step, "test")), scores["delivered"], scores["adapted"],
            len(people.examples(context.client, context.step, "train")), former,
            measures={name: {k: got[0][k] for k in SCORES} for name, got in both.items()},  # type: ignore[misc]
        )  # fmt: skip

    # training that is really split

    def replica(self, context: ClientContext, epochs: int, state: State) -> "SPAReplica":
        return SPAReplica(self, state)

    def answer(self, context: ClientContext, task: ClientTask, half: Half, steps: int, down: Messages) -> Answer:
        store = context.of_round
        if task.state is not None:
            store.save("start", self._load(context, task.state).state())
            examples = [asdict(example) for part in self._examples(context) for example in part]
            return {"frame": Frame("examples", {"examples": examples}).blob()}
        frame = Frame.of_blob(down["frame"])
        if frame.kind == "states":
            store.save("states", {"start": torch.tensor(frame.head["start"]), **frame.tensors})
        done = steps - (frame.kind != "states")

        def rebuild() -> DeviceSide:
            learn, calibrate = map(len, self._examples(context))
            plugin = self.fresh(0).with_state(store.load("start"))
            side = DeviceSide(plugin, self.training, learn, calibrate, task.epochs, _shuffling(context))
            states = store.load("states")
            side.load_states(Frame("states", {"start": states.pop("start").tolist()}, states))
            if done:
                side.restore(store.load("side"))
            return side

        side = self.opened(context, (done,), lambda side: (side.done,), rebuild)
        if up := side.respond(frame):
            store.save("side", side.state())
            return {"frame": up.blob()}
        return self._finished(context, task, side.plugin, side.learn, side.loss)

    # what server and clients build alike

    def base(self, progress: Progress | None = None, dtype: bases.Dtype = "float32") -> bases.Base:
        """Return the frozen base, loaded once per process. Args: dtype: in which it computes, for use alone.

        Raises:
            SettingsError: it is not the one that ``spa.base-checksum`` names.
            partitions.DataError: it is missing.
        """
        torch.set_num_threads(1)
        o = self.options
        loaded = bases.load(o.base, cache_folder(), o.tiny_steps, progress, dtype)
        if o.base_checksum and not loaded.checksum.startswith(o.base_checksum):
            raise SettingsError(
                f"spa.base '{o.base}' has checksum {loaded.checksum[:16]}..., spa.base-checksum asks for "
                f"{o.base_checksum[:16]}; give every machine the same folder"
            )
        return loaded

    @cached_property
    def side_spec(self) -> SideSpec:
        """What the side network is; needs the base's configuration, not its weights."""
        o = self.options
        if o.base == bases.TINY:
            width, layers = SIZES["hidden_size"], SIZES["num_hidden_layers"]
        else:
            width, layers = bases.sizes(bases.find(o.base, cache_folder()))
        try:
            return SideSpec(o.side, width, every_nth_state(layers, o.every), o.reduction, mode(o.mode).plugged)
        except ValueError as error:
            raise SettingsError(str(error)) from error

    @property
    def training(self) -> Training:
        """How clients train."""
        o, client = self.options, self.settings.client
        return Training(o.mode, o.gate, o.price, o.policy, client.lr, client.batch_size)

    def fresh(self, seed: int) -> Plugin:
        """Return a plugin that was never trained; its gate is open until it is first fitted."""
        spec = self.side_spec
        return Plugin(spec.build(int(rng(seed, Purpose.INIT).integers(2**31))), Gate.constant(spec.width, open_=True))

    def _people(self, seed: int) -> "Scheduled | ExampleFiles":
        """Return the people to whom the clients belong.

        Raises:
            partitions.DataError: ``spa.data`` has no files of clients.
        """
        if self.options.data:
            return ExampleFiles(Path(self.options.data).expanduser())
        drift = self.settings.drift
        people = Personas(seed, self.options.facts, skew=self.options.skew, change=drift.fraction)
        return Scheduled(people, Schedule(drift.schedule, drift.groups, drift.stagger))

    @cached_property
    def activations(self) -> Activations:
        """What the base says of examples, for as long as this process lives."""
        spec = self.side_spec
        return Activations(self.base(), spec.states, SIDES[spec.kind].attends)

    @cached_property
    def _plugin(self) -> Plugin:
        """One side per process, overwritten by every client."""
        return self.fresh(0)

    def _load(self, context: ClientContext, state: State | None) -> Plugin:
        """Return the plugin that was sent, or that the client kept, with the client's personal part."""
        sent, personal = state if state is not None else context.store.load("model"), self.options.personal
        if personal != "nothing":
            holds = context.store.holds("personal")
            mine = context.store.load("personal") if holds else self.fresh(context.seed).state()
            sent = sent | personal_state(mine, personal)
        return self._plugin.with_state(sent)

    def _fit(
        self, context: ClientContext, trainer: ClientTrainer, plugin: Plugin, traffic: TrafficLog | None = None
    ) -> tuple[Plugin, float]:
        learn, calibrate = map(self.activations, self._examples(context))
        trainer.begin()
        return train_plugin(
            self.base(), plugin, self.training, learn, calibrate, trainer.task.epochs, _shuffling(context), traffic,
            trainer.corrects,
        )  # fmt: skip

    def _examples(self, context: ClientContext) -> tuple[list[Example], list[Example]]:
        """Return what a client learns from, and what its gate is fitted on."""
        people, gated = self.people(context.seed), mode(self.options.mode).gated
        learn = people.examples(context.client, context.step, "train")
        return learn, people.examples(context.client, context.step, "calibrate") if gated else []

    def _judged(self, context: ClientContext, plugin: Plugin, step: int) -> dict[str, float]:
        """Return `models.spa.metrics.rates` of the client's test questions, and the accuracies of base and side."""
        test = self.activations(self.people(context.seed).examples(context.client, step, "test"))
        judged = evaluate_tokens(self.base(), plugin, self.options.mode, test, self.options.policy)
        gated = mode(self.options.mode).gated
        asked = judged.score > plugin.gate.tau if gated else np.ones(len(judged.score), bool)
        alone = {"base_accuracy": float(judged.base_right.mean()), "side_accuracy": float(judged.side_right.mean())}
        return rates(judged, asked) | alone


class SPAReplica:
    """The server's side of one client's round, which begins when the client has sent its examples."""

    def __init__(self, workload: SPA, state: State):
        self.workload, self.for_client = workload, state
        self.side: CloudSide | None = None

    @property
    def steps(self) -> int:
        return self.side.step if self.side else 0

    def turn(self, up: Messages) -> dict[str, bytes]:
        """Return what goes down, given what came up. ValueError, Broken: what came up does not belong here."""
        frame = Frame.of_blob(up["frame"])
        if self.side is None:
            examples = [Example(**{name: str(text) for name, text in of.items()}) for of in frame.head["examples"]]
            self.side = CloudSide(self.workload.base(), self.workload.training, self._known(examples))
            return {"frame": self.side.states().blob()}
        return {"frame": self.side.respond(frame).blob()}

    def _known(self, examples: list[Example]) -> list[ExampleStates]:
        spec, base = self.workload.side_spec, self.workload.base()
        tokens = sum(len(part) for example in examples for part in base.encode(example))
        if (size := 4 * tokens * len(spec.states) * spec.width) > MAX_FRAME_BYTES:
            raise ValueError(f"{len(examples)} examples whose states take {size} bytes; {MAX_FRAME_BYTES} are the most")
        return self.workload.activations(examples)

    def whole(self, trained: State) -> State:
        """Return what the client trained: all that is shared was there."""
        return trained

    def measures(self, examples: int) -> dict[str, float]:
        assert self.side is not None
        return self.workload.crossed(self.side.traffic, examples)


class Scheduled:
    """People who change at the steps of the schedule alone."""

    def __init__(self, people: Personas, schedule: Schedule):
        self._people, self._schedule = people, schedule

    def examples(self, client: int, step: int, split: Split) -> list[Example]:
        return self._people.examples(client, self._schedule.of(client).count(step), split)


def _shuffling(context: ClientContext) -> np.random.Generator:
    return rng(context.seed, Purpose.TRAIN, context.round, context.client)
