"""A small run in this process that stops at a chosen exchange of messages, and goes on later."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Message

from experiments.attacks import SMALL
from experiments.attacks.commands import difference
from fl.config import Settings
from fl.engines.engine import Aggregator, GridProxy, as_engine
from fl.engines.grid import LocalGrid
from fl.results.files import ResultsError
from fl.results.reader import read_rounds
from fl.server.run import execute, open_results
from fl.workloads.resolve import resolve
from partitions.errors import UserError

KEYS = {"strategies": "fedavg,la", "devices.count": 3, "cohort": 2, "data.samples-max": 20, "data.samples-min": 10,
        "data.test-samples": 10}  # fmt: skip


class Stopped(BaseException):
    """The server loses everything that it has in memory."""


class StoppingGrid(GridProxy):
    """Raises `Stopped` after so many exchanges: the clients have answered, and the server does not get it."""

    def __init__(self, inner: LocalGrid, exchanges: int):
        super().__init__(inner)
        self.left = exchanges

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._counted(self.inner.send_and_receive(messages, timeout=timeout))

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        return self._counted(as_engine(self.inner).aggregate(messages, aggregator, timeout))

    def _counted(self, replies: Iterable[Message]) -> list[Message]:
        self.left -= 1
        if self.left == 0:
            raise Stopped
        return list(replies)


class Lives:
    """One run with its results, its cache and what its clients keep, all in one folder.

    Args:
        folder: of the run; the whole run is kept in ``<folder>.whole``.
    """

    def __init__(self, folder: Path):
        self.folder, self.out, self.clients = folder, folder / "out", folder / "clients"
        self.whole = folder.with_name(f"{folder.name}.whole")
        self.run = resolve(Settings.parse({**SMALL, **KEYS, "devices.state-root": str(self.clients)}))
        with self.live():
            pass
        folder.rename(self.whole)

    @contextmanager
    def live(self, exchanges: int = 0) -> Iterator[bool]:
        """Run until the end, or until so many exchanges of messages; yield whether it stopped there."""
        before, stopped = os.environ.get("XDG_CACHE_HOME"), False
        os.environ["XDG_CACHE_HOME"] = str(self.folder / "cache")
        try:
            with (
                open_results([self.run], self.out, False) as results,
                LocalGrid(self.run.settings.flat(), self.run.settings.devices.count) as grid,
            ):
                try:
                    execute(self.run, StoppingGrid(grid, exchanges), results)
                except Stopped:
                    stopped = True
            yield stopped
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before

    def stops(self) -> list[Path]:
        """Return a copy of the folder as it is after each exchange, and of the completed one."""
        found: list[Path] = []
        stopped = True
        while stopped:
            with self.live(len(found) + 1) as stopped:
                copy = self.folder.with_name(f"{self.folder.name}.{len(found)}")
            self.folder.rename(copy)
            found.append(copy)
        return found

    def restore(self, stop: Path) -> None:
        """Put a copy in the folder's place."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(stop, self.folder)

    def go_on(self) -> tuple[str, str]:
        """Run to the end; return what happened, and what is wrong with that, empty if nothing is."""
        try:
            with self.live():
                pass
        except UserError as error:
            return "refused", "" if error.args and "\n" not in str(error) else f"no sentence: {error!r}"
        except Exception as error:
            return "ended", f"{type(error).__name__}: {error}"
        wrong = difference(self.out, self.whole / "out", self.clients)
        if wrong and self._failures():
            return "clients failed and were counted", ""
        return "same tables", wrong

    def _failures(self) -> bool:
        """Whether clients failed to train or could not be scored, which the table says: other numbers may differ."""
        try:
            rounds, every = read_rounds(self.out), self.run.settings.devices.count
        except ResultsError:
            return False
        return bool(rounds.failures.any() or ((rounds.evaluated > 0) & (rounds.evaluated < every)).any())
