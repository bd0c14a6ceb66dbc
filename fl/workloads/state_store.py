"""What a device keeps between messages: models of its own and the selector, in files.

Flower carries `context.state` to and from a simulated device with every message, and a SuperNode forgets it when it
restarts, so anything of a model's size lies in a file keyed by run, method, seed and device.

Every file is stamped with the *moment* of the message that made it, a number by which the cloud orders its messages. A
device that is told moment t drops what it made at t or later and goes on from what it held before: that is what lets a
cloud that was killed send its last messages again, and makes a message that comes twice give the same answer twice.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from models.submodel import State

MOMENTS = 4  # in a round: query and train, query and evaluate
ROUNDS_BACK = 2  # a cloud goes back by so many rounds at most: its newest checkpoint, and one to fall back on
_PLAIN = re.compile(r"[a-z0-9][a-z0-9+-]*")


class NotHeld(Exception):
    """The device does not hold what it was asked to use; the cloud sends it anew."""


@dataclass(frozen=True)
class Store:
    """The folder of one device in one run of one method, as of a moment."""

    folder: Path
    moment: int = 0

    @classmethod
    def of(cls, root: Path, run: str, method: str, seed: int, device: int, moment: int) -> "Store":
        """The store as it was before ``moment``; what was kept since is of a life that the cloud has forgotten.

        Raises:
            ValueError: a name that a cloud of ours does not give; it would lie somewhere else.
        """
        store = cls(root / _plain(run) / f"{_plain(method)}-{seed}" / str(device), moment)
        for made, path in store._files("*"):
            if made >= moment:
                path.unlink(missing_ok=True)
        return store

    def save(self, name: str, state: State) -> None:
        """Keep ``state`` under ``name``, whole or not at all; of older ones as many as the cloud may go back to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        try:
            save_file({key: value.contiguous() for key, value in state.items()}, temporary)
            temporary.replace(self.folder / f"{name}@{self.moment}.safetensors")
        finally:
            temporary.unlink(missing_ok=True)
        earliest = (self.moment // MOMENTS - ROUNDS_BACK + 1) * MOMENTS  # that the cloud may send again
        for _, path in [(made, path) for made, path in self._files(name) if made < earliest][:-1]:
            path.unlink(missing_ok=True)

    def holds(self, name: str) -> bool:
        """Whether anything was kept under ``name``."""
        return bool(self._files(name))

    def load(self, name: str) -> State:
        """What was kept last under ``name``.

        Raises:
            NotHeld: nothing was, or it cannot be read.
        """
        try:
            return load_file(self._files(name)[-1][1])
        except Exception as error:  # missing, torn, or of another make: all the same to the device
            raise NotHeld(f"device {self.folder.name} holds no {name}") from error

    def _files(self, name: str) -> list[tuple[int, Path]]:
        """(moment, file) of what was kept under ``name``, the newest last."""
        found = self.folder.glob(f"{name}@*.safetensors")
        return sorted((int(path.stem.rpartition("@")[2]), path) for path in found)


def forget(root: Path, run: str) -> None:
    """Remove everything that the devices of a run kept on this machine.

    Raises:
        ValueError: as in `Store.of`.
    """
    shutil.rmtree(root / _plain(run), ignore_errors=True)


def _plain(name: str) -> str:
    if not _PLAIN.fullmatch(name):
        raise ValueError(f"'{name}' is no name of a run or a method")
    return name
