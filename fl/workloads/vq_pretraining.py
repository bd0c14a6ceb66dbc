"""What the cloud trains of the VQ split transformer before the first round, and where codes begin.

With one task, a model is always trained with activations first. Codes come late: before the first round, or after a
share of the rounds (``vq.start``). Tasks that share the cloud half use codes from a fifth of pretraining on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fl.config import Settings
from fl.workloads.options import VQOptions
from fl.workloads.pretraining import cached
from fl.workloads.texts import TaskWorlds, Tokeniser
from fl.workloads.world import tensors
from models.modular.model import Progress
from models.nn.body import Architecture
from models.submodel import State
from models.vq.network.body import CODEBOOK, SplitBody, tokens_from_ids
from models.vq.network.pooling import pooled_lengths
from models.vq.network.presets import LAYER_LR_SHARE
from models.vq.network.task_body import TaskBody, stack_tasks
from models.vq.network.tokens import Tokens
from models.vq.training.late import add_codes
from models.vq.training.tasks import TaskTraining
from models.vq.training.tasks import fit as fit_tasks
from models.vq.training.train import Quantiser, Split, SplitTrainingPlan
from partitions import LocalData, Purpose, World, rng

IN_ROUNDS = ("merge", "up", "down", "labels", "start", "late", "learn")
"""Options that do not decide the pretrained model: of rounds and of studies."""
OF_CODES = ("codes", "groups", "late_epochs", "estimator", "beta", "decay")


@dataclass(frozen=True)
class SplitPretraining:
    """Training on the cloud's texts.

    Args:
        settings, options: of the run; tasks: its data; architecture: of the whole model.
    """

    settings: Settings
    options: VQOptions
    tasks: TaskWorlds
    architecture: Architecture

    def decides(self, codes: bool = True) -> dict[str, Any]:
        """Return everything that decides the pretrained model, as plain values. Args: codes: also its codes."""
        data, leave_out = self.settings.data, {*IN_ROUNDS, *(() if codes else OF_CODES)}
        special: dict[str, Any] = {}
        if data.proxy_domains or data.unseen_classes:
            special["restricted"] = [data.proxy_domains, data.unseen_classes]
        if self.options.preset == "tiny" and (tokenizer := Tokeniser(self.options, data).known):
            special["pieces"] = tokenizer.to_str()
        return special | {
            "vq": self.options.model_dump(exclude=leave_out),
            "data": [worlds.dataset.digest for worlds in self.tasks.worlds],
            "proxy": data.proxy_fraction,
            "pretrain": [self.settings.pretrain.dense_epochs, self.settings.pretrain.batch_size],
        }

    def model(self, seed: int, progress: Progress | None) -> State:
        """Return the pretrained model from the cache, or train it now. SettingsError: its training diverged."""
        if len(self.tasks.worlds) > 1:
            return cached("split", self.decides(), seed, partial(self._train_tasks, seed, progress), "vq.lr")
        trained = cached("split", self._decides_activations, seed, partial(self._train, seed, progress), "vq.lr")
        empty = {name: value for name, value in self.architecture.whole().state().items() if name in CODEBOOK}
        trained = {**empty, **trained}
        if not self.options.codes or self.options.start:
            return trained
        return cached("split-codes", self.decides(), seed, partial(self.with_codes, seed, trained), "vq.lr")

    def with_codes(self, seed: int, state: State) -> State:
        """Return a model whose cut codes cross, given one that was trained with activations.

        The cloud weighs code space, makes the codebook and teaches its half on its own texts.
        """
        body, o = self._body(seed), self.options
        body.load_state_dict(state)
        tokens, _ = _proxy(self.tasks.worlds[0](seed))
        add_codes(body, self._plan(None), Quantiser(o.codes, o.groups), tokens, o.late_epochs, seed)
        return body.state()

    @property
    def _decides_activations(self) -> Mapping[str, Any]:
        """What decides the model before codes; a projection into code space may be there for their sake alone."""
        found = self.decides(codes=False)
        body = self.architecture.whole()
        assert isinstance(body, SplitBody)
        found["vq"]["width"] = body.shape.width
        return found

    def _body(self, seed: int) -> SplitBody:
        body = self.architecture.whole(int(rng(seed, Purpose.INIT).integers(2**31)))
        assert isinstance(body, SplitBody)
        return body

    def _train(self, seed: int, progress: Progress | None) -> State:
        """Train with activations. The result has no statistics of codes."""
        epochs = self.settings.pretrain.dense_epochs

        def tick(step: int, steps: int) -> None:
            epoch, before = (epochs * at // steps for at in (step, step - 1))
            if progress and epoch > before:
                progress("split model", epoch, epochs)

        body, (tokens, y) = self._body(seed), _proxy(self.tasks.worlds[0](seed))
        Split(body.device, body.cloud, body.head, self._plan(None)).fit(tokens, y, seed, tick)
        return {name: value for name, value in body.state().items() if name not in CODEBOOK}

    def _train_tasks(self, seed: int, progress: Progress | None) -> State:
        """Train all tasks together, on one stack (`models.vq.training.tasks`)."""

        def tick(step: int, steps: int) -> None:
            if progress:
                progress("split models, step", step, steps)

        o, whole, init = self.options, self.architecture, int(rng(seed, Purpose.INIT).integers(2**31))
        quantiser = Quantiser(o.codes, o.groups, beta=o.beta, estimator=o.estimator, decay=o.decay) if o.codes else None
        bodies, learn = [], []
        for worlds in self.tasks.worlds:
            body = whole.build({**whole.sizes, "tasks": 1}, torch.Generator().manual_seed(init))
            assert isinstance(body, TaskBody)
            bodies.append(body)
            body.cloud = bodies[0].cloud
            split = Split(body.device, body.cloud, body.head, self._plan(quantiser))
            learn.append(TaskTraining(split, *_proxy(worlds(seed))))
        fit_tasks(learn, seed, o.gradnorm, tick)
        for body, task in zip(bodies, learn, strict=True):
            if ema := task.split.codebook_ema:
                per_example = pooled_lengths(task.tokens.lengths, o.pool).double().mean()
                body.set_statistics(ema.with_mass(float(per_example)).running)
        return stack_tasks([body.state() for body in bodies], bodies[0].axes())

    def _plan(self, quantiser: Quantiser | None) -> SplitTrainingPlan:
        pretrain = self.settings.pretrain
        rates = learning_rates(self.options)
        return SplitTrainingPlan(pretrain.dense_epochs, pretrain.batch_size, *rates, quantiser=quantiser)


def learning_rates(options: VQOptions) -> tuple[float, float]:
    """Return the learning rates of the layers, and of projections and head."""
    return options.lr * LAYER_LR_SHARE[options.preset], options.lr


def _proxy(world: World | LocalData) -> tuple[Tokens, Tensor]:
    """The cloud's texts and their classes."""
    ids, y = tensors(world.data, "train", world.proxy())
    return tokens_from_ids(ids), y
