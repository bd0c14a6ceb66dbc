"""The texts of workload `vq`: their tokenizer, and the data sets of its tasks."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from fl.config import SettingsError
from fl.config.sections import Data
from fl.workloads.options import VQOptions
from fl.workloads.world import Worlds
from models.vq.network.presets import minilm_tokenizer
from partitions import Dataset, LocalData, World
from partitions.tokens import VOCABULARY, encode, read_vocabulary, tokenised, train

MOST_TASKS = 8


@dataclass(frozen=True)
class Tokeniser:
    """Turns texts into token ids (`fl.workloads.world.Tokenise`)."""

    options: VQOptions
    data: Data

    def __call__(self, data: Dataset, proxy: np.ndarray | None) -> Dataset:
        """Return the data set with token ids.

        Raises:
            SettingsError: this machine has its own texts alone, and no vocabulary.
        """
        o, tokenizer = self.options, self.known
        if proxy is not None:
            return tokenised(data, proxy, o.vocabulary, o.tokens, tokenizer)
        if tokenizer is None:
            raise SettingsError(
                f"{self._file} is missing, and a device's own texts must not decide the vocabulary: make it on the "
                "server with `python -m experiments data vocabulary FOLDER`, and copy it to every machine; or set "
                "vq.preset = 'minilm'"
            )
        train, test = (encode(tokenizer, texts, o.tokens) for texts in (data.x_train, data.x_test))
        return replace(data, x_train=train, x_test=test)

    @property
    def known(self) -> Tokenizer | None:
        """The tokenizer that is known before any text is read; None: it is trained on the cloud's texts.

        Raises:
            partitions.DataError: the user's folder has a vocabulary that cannot be used.
        """
        if self.options.preset == "minilm":
            return minilm_tokenizer()
        if self.data.name == "folder" and self._file.is_file():
            return read_vocabulary(self._file, self.options.vocabulary)
        return None

    def of(self, world: World | LocalData, texts: Dataset) -> Tokenizer:
        """Return the tokenizer of a world. Args: texts: its data set before it became tokens."""
        return self.known or train(texts.x_train[world.proxy()].ravel().tolist(), self.options.vocabulary)

    @property
    def _file(self) -> Path:
        return Path(self.data.root).expanduser() / VOCABULARY


class TaskWorlds:
    """The data of each task, if clients of one run have different ones (``vq.tasks``): client d has the (d mod T)-th.

    Args:
        worlds: of the run's data set; those of the tasks differ in it.
    """

    def __init__(self, options: VQOptions, worlds: Worlds):
        self.options, self.names = options, [n.strip() for n in options.tasks.split(",") if n.strip()]
        if options.tasks:
            self._check_names()
        of_tasks = [
            replace(worlds, data=worlds.data.model_copy(update={"name": name}), source=None) for name in self.names
        ]
        self.worlds = of_tasks or [worlds]

    def _check_names(self) -> None:
        names, o = self.names, self.options
        if len(names) < 2 or len(set(names)) < len(names):
            raise SettingsError(f"vq.tasks = '{o.tasks}': name two or more different text sets, e.g. 'cola,mrpc'")
        if o.width or o.late or o.pretrain != "none":
            raise SettingsError(
                "tasks share what crosses unchanged, and start from the preset: set vq.width = 0, and leave vq.late "
                "and vq.pretrain out"
            )
        if len(names) > MOST_TASKS:
            raise SettingsError(f"vq.tasks = '{o.tasks}' names {len(names)} tasks, clients can have {MOST_TASKS}")

    def check(self) -> None:
        """Raise SettingsError if a task is not about classes of texts."""
        for name, worlds in zip(self.names, self.worlds, strict=False):
            data = worlds.dataset
            if not data.text or data.target_train is not None or data.span_train is not None:
                raise SettingsError(
                    f"vq.tasks: clients learn classes of texts, and {name} holds none: choose e.g. 'sst2,cola'"
                )

    def number(self, client: int) -> int:
        """Return which of the tasks a client has."""
        return client % len(self.worlds)

    def of(self, client: int) -> Worlds:
        """Return the data of a client's task."""
        return self.worlds[self.number(client)]
