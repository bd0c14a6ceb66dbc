"""What a run needs to continue after a crash: one file after every round, the last two kept, never a pickle.

A checkpoint is a tree of plain values, arrays and the record types below. Arrays lie in a safetensors file, the rest as
JSON in its header. It is written whole or not at all, and its name ends in a checksum of its bytes; if it is damaged,
the run continues from the one before.
"""

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import fields
from logging import WARNING
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from flwr.common.logger import log
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fl.results.files import CHECKPOINTS, as_results_error, atomic_write
from fl.server.arrivals import Arrival
from fl.server.scores import ClientScore, Score
from fl.workloads.state_store import ROUNDS_BACK
from models.costs import Cost
from strategies.core.client import Limits
from strategies.core.strategy import Profile, SubModel, TrainTask, Update

VERSION = "3"  # raise it when what is saved changes its meaning
RECORDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Arrival, ClientScore, Cost, Limits, Profile, Score, SubModel, TrainTask, Update)
}


def dumps(tree: Any) -> bytes:
    """A tree as the bytes of a file. An array that occurs twice is kept once.

    Raises:
        TypeError: it holds a value of another type than None, bool, int, float, str, list, tuple (read back as a list),
            set, mapping, tensor, numpy array, or one of `RECORDS`.
    """
    arrays: dict[str, np.ndarray] = {}
    known: dict[int, str] = {}

    def plain(value: Any) -> Any:
        match value:
            case None | bool() | int() | float() | str():
                return value
            case torch.Tensor() | np.ndarray():
                if id(value) not in known:
                    known[id(value)] = name = str(len(known))
                    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
                    arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
                return {"tensor" if isinstance(value, torch.Tensor) else "array": known[id(value)]}
            case list() | tuple():
                return [plain(item) for item in value]
            case set() | frozenset():
                return {"set": sorted(value)}
            case Mapping():
                return {"map": [[plain(key), plain(item)] for key, item in value.items()]}
        name = type(value).__name__
        if RECORDS.get(name) is not type(value):
            raise TypeError(f"a checkpoint cannot hold a {name}, only {', '.join(RECORDS)}, plain values and arrays")
        return {name: {field.name: plain(getattr(value, field.name)) for field in fields(RECORDS[name])}}

    return save(arrays, {"version": VERSION, "tree": json.dumps(plain(tree))})


def loads(data: bytes) -> Any:
    """What `dumps` was given.

    Raises:
        ValueError, KeyError, TypeError: these bytes are nothing that it gave.
    """
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if header["version"] != VERSION:
        raise ValueError(f"it is of version {header['version']}, this is version {VERSION}")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def rich(value: Any) -> Any:
        if isinstance(value, list):
            return [rich(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        match kind:
            case "tensor":
                return tensors[content]
            case "array":
                return arrays[content]
            case "set":
                return set(content)
            case "map":
                return {rich(key): rich(item) for key, item in content}
        return RECORDS[kind](**{name: rich(item) for name, item in content.items()})

    return rich(json.loads(header["tree"]))


class Checkpoints:
    """The checkpoints of one run: a setting, a method and a seed.

    Args:
        results: folder of the results; run: a number for the run if it is new.

    Attributes:
        run: by which devices tell apart what they keep; stays the same until the run is complete.
    """

    def __init__(self, results: Path, setting: str, method: str, seed: int, run: int):
        self.folder = results / CHECKPOINTS / quote(setting, safe=" =,") / f"{method}-{seed}"
        self._name = self.folder / "run"
        self.run = self._name.read_text() if self.begun else f"{run:016x}"

    @property
    def begun(self) -> bool:
        """Whether the run began and is not complete."""
        return self._name.is_file()

    def save(self, round_: int, data: bytes) -> None:
        """Keep what a run needs to go on after ``round_``, by `dumps`, and the checkpoint before."""
        with as_results_error(f"write a checkpoint to '{self.folder}'"):
            atomic_write(self.folder / f"{round_:06d}-{zlib.crc32(data):08x}.safetensors", data)
        for _, path in self._files()[ROUNDS_BACK:]:
            path.unlink(missing_ok=True)

    def resume(self, round_: int) -> tuple[int, Any]:
        """The newest checkpoint of ``round_`` or before: (its round, its tree), or (0, None) if the run is to begin.

        One that does not read back is passed over; later ones are of rounds that will be run again, and removed.
        """
        with as_results_error(f"keep checkpoints in '{self.folder}'"):
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self._name, self.run)
        for at, path in self._files():
            if at <= round_:
                try:
                    data = path.read_bytes()
                    if int(path.stem.partition("-")[2], 16) != zlib.crc32(data):
                        raise ValueError("its bytes changed")
                    return at, loads(data)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    log(WARNING, "the checkpoint %s is of no use (%s): going back to the one before", path, error)
            path.unlink(missing_ok=True)
        return 0, None

    def clear(self) -> None:
        """The run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.folder.parent.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _files(self) -> list[tuple[int, Path]]:
        """(round, file), the newest first."""
        return sorted(((int(p.stem[:6]), p) for p in self.folder.glob("*-*.safetensors")), reverse=True)
