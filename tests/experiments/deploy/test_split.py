"""Really split training on three SuperNodes: the simulation's rows, and its bytes on the sockets."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from experiments.catalog import EXPERIMENTS
from experiments.deploy.loopback import deployment
from experiments.hermetic import submit
from fl.config import Settings
from fl.engines.engine import GridProxy
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.results.reader import read_measures
from fl.server.run import execute, open_results
from fl.workloads.resolve import resolve
from tests.fl.conftest import without_clock

ROOT = Path(__file__).parents[3]
FEW = {
    "devices.count": 3, "cohort": 3, "eval.devices": 1, "rounds": 1, "client.adapt-epochs": 0, "strategies": "fedavg",
    "data.samples-min": 128, "data.samples-max": 128, "client.batch-size": 128,
    "vq.labels": "shared", "vq.hidden": 64, "vq.width": 64, "vq.groups": 32, "vq.down": "float32",
}  # fmt: skip


class Tap:
    """Between SuperNodes and SuperLink: relays what is sent, undeciphered, and counts bytes 'up' and 'down'."""

    def __init__(self, stack: ExitStack) -> None:
        self.bytes: Counter[str] = Counter()
        self.stack, self._lock = stack, threading.Lock()

    def by(self, address: str) -> str:
        """Where to go instead of ``address``; until the stack ends."""
        host, _, port = address.rpartition(":")
        door = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        serving = threading.Thread(target=self._serve, args=(door, (host, int(port))))
        serving.start()
        self.stack.callback(serving.join)
        self.stack.callback(door.shutdown, socket.SHUT_RDWR)
        return f"127.0.0.1:{door.getsockname()[1]}"

    def _serve(self, door: socket.socket, inside: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                here = door.accept()[0]
                there = socket.create_connection(inside)
                self.bytes["connections"] += 1
                threading.Thread(target=self._carry, args=(here, there)).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        with here, there:
            back = threading.Thread(target=self._pass, args=("down", there, here))
            back.start()
            self._pass("up", here, there)
            back.join()

    def _pass(self, way: str, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.bytes[way] += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Scale(GridProxy):
    """Weighs what passes a grid, as Flower writes messages: all of them, and of that what crosses the cut."""

    def __init__(self, inner: LocalGrid):
        super().__init__(inner)
        self.all: Counter[str] = Counter()
        self.edge: Counter[str] = Counter()
        self.messages = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages([self._weighed(message, "down") for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._weighed(message, "up") for message in self.inner.pull_messages(message_ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = [self._weighed(message, "down") for message in messages]
        return [self._weighed(message, "up") for message in self.inner.send_and_receive(asked, timeout=timeout)]

    def _weighed(self, message: Message, way: str) -> Message:
        self.messages += 1
        self.all[way] += sum(len(part.deflate()) for part in get_all_nested_objects(message).values())
        self.edge[way] += sum(map(len, message.content.get(records.EDGE, {}).values()))
        return message


def settings(split: str) -> Settings:
    """Three devices and one round of a single step, since each message takes a process."""
    (found,) = EXPERIMENTS["text"].resolve("smoke", [1], {**FEW, "split": split}, ["codes"])
    return found


def play(of: Settings, out: Path) -> Scale:
    """The run in this process."""
    run = resolve(of)
    with open_results([run], out, False) as results, LocalGrid(of.flat(), of.devices.count) as grid:
        scale = Scale(grid)
        execute(run, scale, results)
    return scale


@pytest.mark.parametrize("split", ["messages", "simulated"])
def test_the_settings_resolve(split: str) -> None:
    """So that a changed key is noticed without the slow test below."""
    assert list(resolve(settings(split)).methods) == ["fedavg"]


@pytest.mark.skipif("DRIFTFED_SLOW" not in os.environ, reason="a minute of two idle cores: set DRIFTFED_SLOW=1")
def test_a_deployment_really_splits_to_the_simulations_numbers_and_bytes(tmp_path: Path) -> None:
    split, said = settings("messages"), []
    with ExitStack() as stack, deployment(split, 1, said.append, (tap := Tap(stack)).by) as site:
        own = {"devices.placement": "own", "devices.state-root": str(site.folder / "devices")}
        own |= {"out": str(tmp_path / "deployed")}
        submit(site.group, ROOT, {**split.flat(), **own}, on_line=said.append, timeout_s=900)
    play(settings("simulated"), tmp_path / "simulated")
    scale = play(split, tmp_path / "split")

    assert without_clock(tmp_path / "deployed") == without_clock(tmp_path / "simulated")
    measured = [read_measures(tmp_path / name) for name in ("deployed", "simulated")]
    pd.testing.assert_frame_equal(*measured)
    for way in ("up", "down"):  # what crosses the cut is in Flower's messages, and they are on the sockets
        assert 0 < scale.edge[way] < scale.all[way] < tap.bytes[way]
    print(
        f"on the sockets {dict(tap.bytes)}, in {scale.messages} messages {dict(scale.all)}, the cut {dict(scale.edge)}"
    )
