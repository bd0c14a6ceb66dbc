"""What a client keeps between messages: its models and the selector, in files.

Flower carries `context.state` to and from a simulated client with every message, and a SuperNode forgets it when it
restarts. So everything of a model's size lies in a file keyed by run, method, seed and client.

Every file is stamped with the *moment* of the message that made it, a number by which the server orders its messages. A
client that receives moment t discards files of moment t or later. That lets a server that was killed send its last
messages again, and makes a message that arrives twice give the same answer twice.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fl.workloads.state_file import read_state, write_state
from models.submodel import State

MOMENTS = 4  # in a round: query and train, query and evaluate
ROUNDS_BACK = 2  # a server goes back by at most so many rounds: its newest checkpoint, and one to fall back on
_PLAIN = re.compile(r"[a-z0-9][a-z0-9+-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


class StateMissing(Exception):
    """The client does not have the state that it was asked to use; the server sends it again."""


@dataclass(frozen=True)
class ClientStateStore:
    """The folder of one client in one run of one method, as of a moment."""

    folder: Path
    moment: int = 0
    Missing: ClassVar = StateMissing

    @classmethod
    def of(cls, root: Path, run: str, method: str, seed: int, client: int, moment: int) -> "ClientStateStore":
        """Open the store as it was before ``moment``. Newer files are of messages that the server has forgotten.

        Raises:
            ValueError: a name would lead out of the folder.
        """
        store = cls(root / _plain(run) / f"{_plain(method)}-{seed}" / str(client), moment)
        for made, path in store._files("*"):
            if made >= moment:
                path.unlink(missing_ok=True)
        return store

    def save(self, name: str, state: State) -> None:
        """Keep ``state`` under ``name``, whole or not at all, and as many older ones as the server may go back to.

        Raises:
            ValueError: the name, which a server may have chosen, would lead out of the folder.
        """
        if not _FILE.fullmatch(name):
            raise ValueError(f"'{name[:40]}' is no name of a state")
        write_state(self.folder / f"{name}@{self.moment}.safetensors", state)
        earliest = (self.moment // MOMENTS - ROUNDS_BACK + 1) * MOMENTS  # that the server may send again
        for _, path in [(made, path) for made, path in self._files(name) if made < earliest][:-1]:
            path.unlink(missing_ok=True)

    def holds(self, name: str) -> bool:
        """Return whether a state was kept under ``name``."""
        return bool(self._files(name))

    def load(self, name: str) -> State:
        """Return the state that was kept last under ``name``.

        Raises:
            StateMissing: there is none, or it cannot be read.
        """
        try:
            return read_state(self._files(name)[-1][1])
        except Exception as error:  # missing, damaged or of another format: all the same to the client
            raise StateMissing(f"client {self.folder.name} has no {name}") from error

    def _files(self, name: str) -> list[tuple[int, Path]]:
        """(moment, file) of what was kept under ``name``, the newest last."""
        found = ((path.stem.rpartition("@")[2], path) for path in self.folder.glob(f"{name}@*.safetensors"))
        return sorted((int(made), path) for made, path in found if made.isdecimal())


def forget(root: Path, run: str) -> None:
    """Remove everything that the clients of a run kept on this machine.

    Raises:
        ValueError: as in `ClientStateStore.of`.
    """
    shutil.rmtree(root / _plain(run), ignore_errors=True)


def _plain(name: str) -> str:
    if not _PLAIN.fullmatch(name):
        raise ValueError(f"'{name}' is no name of a run or a method")
    return name
