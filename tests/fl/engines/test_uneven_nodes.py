"""SuperNodes of unlike speed: a slow one costs its own updates, and what it sends too late reaches no later round."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.superlink.grid import inmemory_grid

from fl.engines.engine import GridProxy
from fl.messages import records
from fl.results.reader import read_rounds
from tests.fl.conftest import SMALL

SLOW, TIMEOUT_S, NEVER = 1, 50.0, float("inf")
Seconds = Callable[[Message], float]
"""Returns how long the slow SuperNode works on a message."""


class UnevenGrid(GridProxy):
    """A SuperNode works on one message after the other, and its replies wait at the SuperLink, as Flower's do.

    The server waits as Flower's own grid waits. The clock moves only while it does.

    Attributes:
        late: number of replies that arrived when the server had given them up.
    """

    send_and_receive = inmemory_grid.InMemoryGrid.send_and_receive  # type: ignore[assignment]
    pull_interval = 1.0

    def __init__(self, inner: Grid, seconds: Seconds):
        super().__init__(inner)
        self.seconds, self.now = seconds, 0.0
        self.free: defaultdict[int, float] = defaultdict(float)
        self.arrivals: dict[str, tuple[float, Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            (reply,) = self.inner.send_and_receive([message])
            took = self.seconds(message) if node == SLOW else 0.1
            if took < NEVER:
                self.free[node] = max(self.now, self.free[node]) + took
                self.arrivals[message.metadata.message_id] = self.free[node], reply
            names.append(message.metadata.message_id)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        come = [name for name in message_ids if name in self.arrivals and self.arrivals[name][0] <= self.now]
        return [self.arrivals.pop(name)[1] for name in come]

    @property
    def late(self) -> int:
        return sum(at <= self.now for at, _ in self.arrivals.values())

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def first_training(took: float) -> Seconds:
    """Slow at the first training task of each method, else fast."""
    tasks: Counter[object] = Counter()

    def seconds(message: Message) -> float:
        method = message.content[records.TASK]["method"]
        tasks[method] += message.metadata.message_type == "train"
        return took if message.metadata.message_type == "train" and tasks[method] == 1 else 0.1

    return seconds


@pytest.fixture
def play_uneven(play: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], UnevenGrid]]:
    """Plays a run with one slow SuperNode; returns its rows without the clock, and the grid."""

    def run(out: Path, seconds: Seconds, changes: dict[str, object]) -> tuple[list[str], UnevenGrid]:
        grids = []

        def wrap(inner: Grid) -> UnevenGrid:
            grids.append(grid := UnevenGrid(inner, seconds))
            clock = SimpleNamespace(time=grid.time, monotonic=grid.time, sleep=grid.sleep)
            monkeypatch.setattr(inmemory_grid, "time", clock)
            monkeypatch.setattr("fl.engines.proxy.time", clock)
            return grid

        rows = play(out, {"strategies": "fedavg,eclm", "server.timeout-s": TIMEOUT_S, **changes}, wrap=wrap)
        return rows, grids[0]

    return run


MODES = {
    "synchronous": {},
    "buffered": {"server.aggregation": "buffered", "server.buffer": 2},
    "few at once": {"server.at-once": 2},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_supernode_changes_nothing_while_it_answers_in_time(
    mode: str, play_uneven: Callable, play: Callable, tmp_path: Path
) -> None:
    rows, grid = play_uneven(tmp_path / "slow", lambda message: TIMEOUT_S / 3, MODES[mode])
    assert rows == play(tmp_path / "even", {"strategies": "fedavg,eclm", **MODES[mode]})
    assert grid.now > TIMEOUT_S and not grid.late


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("always", [True, False], ids=["always", "once"])
def test_a_supernode_that_is_too_slow_is_as_one_that_is_silent(
    mode: str, always: bool, play_uneven: Callable, tmp_path: Path
) -> None:
    """Its reply arrives while the server waits for the next ones. The run ends, and each miss is a failure."""

    def rows(took: float) -> tuple[list[str], UnevenGrid]:
        seconds = (lambda message: took) if always else first_training(took)
        return play_uneven(tmp_path / str(took), seconds, {**MODES[mode], "cohort": SMALL["devices.count"]})

    (slow, grid), (silent, _) = rows(1.5 * TIMEOUT_S), rows(NEVER)
    assert slow == silent and grid.late > 0
    rounds = read_rounds(tmp_path / str(NEVER)).query("method in ('fedavg', 'eclm')")
    assert (rounds.failures == 1).all() if always else (rounds.groupby("method").failures.sum() == 1).all()
    assert not rounds.refused.any()
