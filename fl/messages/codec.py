"""The one encoding of tasks and answers as Flower records. Options and reports of a method pass through unread.

A message holds a record ``task`` of plain values, and array records: ``model``, ``selector`` and whatever else a
method's server half shares, and ``tensors.<name>`` of a task or an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fl.messages import records
from models.nn.body import gate_columns
from models.submodel import State, covered_sizes
from strategies.core.client import ClientTask
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import TrainTask

TENSORS = "tensors."
SIZE, HELD = "size.", "held."  # prefixes of axis sizes, and of module numbers by layer
OWN_KEYS = frozenset("run moment method device seed round step what look-back architecture epochs upload keep".split())


@dataclass(frozen=True)
class Address:
    """Where in the experiment a message belongs.

    Args:
        run, method: by which clients tell their files apart; moment: see `fl.workloads.state_store`.
        what: of a query, what is asked; look_back: also score on the test draw of the step before.
    """

    run: str
    moment: int
    method: str
    client: int
    seed: int
    round: int
    step: int
    what: str | None = None
    look_back: bool = False

    def values(self) -> dict[str, Any]:
        """Return the address as plain values of a record."""
        values: dict[str, Any] = {
            "run": self.run, "moment": self.moment, "method": self.method, "device": self.client, "seed": self.seed,
            "round": self.round, "step": self.step, "what": self.what, "look-back": self.look_back or None,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def of(cls, record: ConfigRecord) -> "Address":
        """Read the address of a message."""
        values: dict[str, Any] = dict(record)
        client, seed, server_round, step = (int(values[key]) for key in ("device", "seed", "round", "step"))
        return cls(
            str(values["run"]), int(values["moment"]), str(values["method"]), client, seed, server_round, step,
            values.get("what"), bool(values.get("look-back", False)),
        )  # fmt: skip


def task_values(task: TrainTask, models: PretrainedModels) -> dict[str, Any]:
    """Return a task as plain values of a record, without its parameters.

    Raises:
        ValueError: an option of the method has the name of a key of ours.
    """
    if taken := OWN_KEYS & task.options.keys():
        raise ValueError(f"an option of a task may not be called '{sorted(taken)[0]}'")
    name, coverage = task.model.architecture, task.model.coverage
    whole = models.architectures[name].sizes
    sizes = {axis: n for axis, n in covered_sizes(whole, coverage).items() if n != whole[axis]}
    values: dict[str, Any] = {"architecture": name, "epochs": task.epochs, "upload": task.upload, "keep": task.keep}
    values |= dict(task.options) | {f"{SIZE}{axis}": n for axis, n in sizes.items()}
    if name == "modular":
        layers = models.costs["modular"].layers
        values |= {f"{HELD}{layer}": gate_columns(whole, layer, coverage).tolist() for layer in layers}
    return values


def read_task(content: RecordDict) -> ClientTask:
    """Read the task of a message, with its parameters."""
    values: dict[str, Any] = dict(content[records.TASK])
    sizes = {key.removeprefix(SIZE): int(values.pop(key)) for key in list(values) if key.startswith(SIZE)}
    modules = {key.removeprefix(HELD): np.asarray(values.pop(key)) for key in list(values) if key.startswith(HELD)}
    model = content.get(records.MODEL)
    return ClientTask(
        architecture=str(values.get("architecture", "dense")),
        sizes=sizes,
        modules=modules,
        epochs=int(values.get("epochs", 0)),
        upload=bool(values.get("upload", True)),
        keep=bool(values.get("keep", False)),
        options={key: value for key, value in values.items() if key not in OWN_KEYS},
        state=None if model is None else records.shared(model),  # type: ignore[arg-type]
        tensors={name: records.shared(record) for name, record in packed_tensors(content).items()},
    )


def packed_tensors(content: RecordDict) -> dict[str, ArrayRecord]:
    """Return the further tensors of a message as records, by name."""
    found = {key: value for key, value in content.items() if key.startswith(TENSORS)}
    return {key.removeprefix(TENSORS): value for key, value in found.items() if isinstance(value, ArrayRecord)}


def tensor_records(tensors: Mapping[str, State], pack: Any = records.pack) -> dict[str, ArrayRecord]:
    """Return further tensors as records of a message."""
    return {f"{TENSORS}{name}": pack(state) for name, state in tensors.items()}
