"""What a device keeps between messages: models of its own and the selector, in files.

Flower carries `context.state` to and from a simulated device with every message, and a SuperNode forgets it when it
restarts, so anything of a model's size lies in a file keyed by run, method, seed and device.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from models.axes import State


class NotHeld(Exception):
    """The device does not hold what it was asked to use; the cloud sends it anew."""


@dataclass(frozen=True)
class Store:
    """The folder of one device in one run of one method."""

    folder: Path

    @classmethod
    def of(cls, root: Path, run: int, method: str, seed: int, device: int) -> "Store":
        return cls(root / str(run) / f"{method}-{seed}" / str(device))

    def save(self, name: str, state: State) -> None:
        """Keep ``state`` under ``name``, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        save_file({key: value.contiguous() for key, value in state.items()}, temporary)
        temporary.replace(self.folder / f"{name}.safetensors")

    def holds(self, name: str) -> bool:
        """Whether anything was kept under ``name``."""
        return (self.folder / f"{name}.safetensors").is_file()

    def load(self, name: str) -> State:
        """What was kept under ``name``.

        Raises:
            NotHeld: nothing was, or it cannot be read.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except Exception as error:  # missing, torn, or of another make: all the same to the device
            raise NotHeld(f"device {self.folder.name} holds no {name}") from error


def forget(root: Path, run: int) -> None:
    """Remove everything that the devices of a run kept on this machine."""
    shutil.rmtree(root / str(run), ignore_errors=True)
