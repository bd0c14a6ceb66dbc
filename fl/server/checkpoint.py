"""What a run needs to continue after a crash: one file after every round, the last two kept, never a pickle.

A checkpoint is a tree of plain values, arrays and the record types below. Arrays lie in a safetensors file, the rest as
JSON in its header. It is written whole or not at all, and its name ends in a checksum of its bytes and of the rows that
the run had written; if either is damaged, the run continues from the one before.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
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

from fl.results.files import CHECKPOINTS, as_results_error, atomic_write, cut_off
from fl.server.arrivals import Arrival
from fl.server.scores import ClientScore, Score
from fl.workloads.state_store import ROUNDS_BACK
from models.costs import Cost
from strategies.core.client import Limits
from strategies.core.strategy import Profile, SubModel, TrainTask, Update

RUN = re.compile("run-[0-9a-f]{16}")
NAME = re.compile(r"\d{6}-[0-9a-f]{8}\.safetensors")
VERSION = "4"  # raise it when what is saved changes its meaning
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
        rows: ``rows(round)`` is a hash of the run's rows up to a round; without a round, of those written so far.

    Attributes:
        run: by which devices tell apart what they keep; stays the same until the run is complete.
    """

    def __init__(
        self, results: Path, setting: str, method: str, seed: int, run: int,
        rows: Callable[[int | None], str] = lambda round: "",
    ):  # fmt: skip
        self.folder, self.rows = results / CHECKPOINTS / quote(setting, safe=" =,") / f"{method}-{seed}", rows
        kept = [path.name for path in self.folder.glob("run-*") if RUN.fullmatch(path.name)]
        self._name = self.folder / min(kept, default=f"run-{run:016x}")  # an empty file: a name has no bits to flip
        self.run = self._name.name.removeprefix("run-")

    @property
    def begun(self) -> bool:
        """Whether the run began and is not complete."""
        return self._name.is_file()

    def save(self, round_: int, data: bytes) -> None:
        """Keep what a run needs to go on after ``round_``, by `dumps`, and the checkpoint before."""
        with as_results_error(f"write a checkpoint to '{self.folder}'"):
            atomic_write(self.folder / f"{round_:06d}-{self._checksum(data):08x}.safetensors", data)
        for _, path in self._files()[ROUNDS_BACK:]:
            path.unlink(missing_ok=True)

    def resume(self, round_: int) -> tuple[int, Any]:
        """The newest checkpoint of ``round_`` or before: (its round, its tree), or (0, None) if the run is to begin.

        One that does not read back is passed over; later ones are of rounds that will be run again, and removed.
        """
        with as_results_error(f"keep checkpoints in '{self.folder}'"):
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self._name, b"")
        for at, path in self._files():
            if at <= round_:
                try:
                    data = path.read_bytes()
                    if int(path.stem.partition("-")[2], 16) != self._checksum(data, at):
                        raise ValueError("its bytes, or the rows of its rounds, changed")
                    return at, loads(data)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    log(WARNING, "the checkpoint %s is of no use (%s): going back to the one before", path, error)
            path.unlink(missing_ok=True)
        return 0, None

    def clear(self) -> None:
        """The run is complete. Files that are none of its checkpoints stay."""
        own = [*cut_off(self.folder, NAME), *cut_off(self.folder, RUN)]
        for path in (self._name, *own, *(path for _, path in self._files())):
            path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
            with suppress(OSError):  # it is gone, or not empty
                folder.rmdir()

    def _checksum(self, data: bytes, round_: int | None = None) -> int:
        return zlib.crc32(f"{self.run} {self.rows(round_)}".encode(), zlib.crc32(data))

    def _files(self) -> list[tuple[int, Path]]:
        """(round, file), the newest first."""
        found = (path for path in self.folder.glob("*.safetensors") if NAME.fullmatch(path.name) and path.is_file())
        return sorted(((int(path.name[:6]), path) for path in found), reverse=True)
