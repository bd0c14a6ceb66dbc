"""The device's half: its side network, its gate, and the side network's cache of the sentence."""

import socket
import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from experiments.serving.link import Stream
from models.spa.codec import Frame, Precision, narrow, widen
from models.spa.side import Cached
from models.spa.train import Plugin, Policy

GateSite = Literal["cloud", "device"]


@dataclass
class DeviceHalf:
    """Answers the cloud's frames.

    Args:
        checksum: of the base that the plugin was trained with.
        mode: of `models.spa.modes`; policy: what an attentive side attends to.
        precision: of states on the way down; outputs go up in float16, or in float32 with 'fp32'.
        gate_site: with 'cloud' the gate is sent to the cloud, which then asks only if it opens. With 'device' the gate
            stays here: b comes down for every token, and the rest of the stack in a second exchange if the gate opens.
        delay: seconds to wait before every answer, to simulate a slower link.
    """

    plugin: Plugin
    checksum: str
    mode: str = "spa"
    policy: Policy = "catch_up"
    precision: Precision = "fp16"
    gate_site: GateSite = "cloud"
    delay: float = 0.0
    _caches: dict[str, Cached] = field(default_factory=dict)

    def hello(self) -> Frame:
        """Return what the cloud must know, once per connection."""
        gate, side = self.plugin.gate, self.plugin.side
        about = {
            "checksum": self.checksum, "mode": self.mode, "states": side.spec.states, "attends": side.attends,
            "policy": self.policy, "precision": self.precision, "gate_site": self.gate_site, "tau": gate.tau,
        }  # fmt: skip
        tensors = {"weight": gate.weight, "bias": gate.bias} if self.gate_site == "cloud" else {}
        return Frame("hello", about, tensors)

    @torch.inference_mode()
    def answer(self, frame: Frame) -> Frame | None:
        """Return the reply to a frame, or None if it needs none.

        'gate': ``b`` (n, d) -> for each whether the gate opens, and its score. 'side': ``stack`` (positions of all
        rows, S, d) -> ``o`` (rows, d) of each row's last position. A row continues from the cache with its ``key``, and
        its new cache gets the key ``seq.row``. The old cache stays unchanged, so the cloud may ask again after a
        timeout.
        """
        if frame.kind not in ("gate", "side"):
            return None
        time.sleep(self.delay)
        started = time.perf_counter()
        if frame.kind == "gate":
            b = widen("b", frame.tensors)
            report = {"opens": self.plugin.gate.opens(b).tolist(), "scores": self.plugin.gate.score(b).tolist()}
            return Frame("opens", {"seq": frame.head["seq"], **report})
        stack = widen("stack", frame.tensors)
        o = self._attending(frame, stack) if self.plugin.side.attends else self.plugin.side(stack[None]).o[0]
        milliseconds = 1e3 * (time.perf_counter() - started)
        precision: Precision = "fp32" if self.precision == "fp32" else "fp16"
        return Frame("output", {"seq": frame.head["seq"], "ms": milliseconds}, narrow("o", o, precision))

    def _attending(self, frame: Frame, stack: Tensor) -> Tensor:
        self._caches = {key: self._caches[key] for key in frame.head["keep"]}
        rows = frame.head["rows"]
        outputs: list[Tensor] = []
        for row, part in zip(rows, stack.split([row["count"] for row in rows]), strict=True):
            before = self._caches[row["key"]] if row["key"] else None
            result = self.plugin.side(part[None], cached=before, at=row["at"])
            self._caches[f"{frame.head['seq']}.{len(outputs)}"] = result.cached
            outputs.append(result.o[0, -1])
        return torch.stack(outputs)


def serve(half: DeviceHalf, host: str, port: int) -> None:
    """Connect to a cloud and answer it until it closes the connection.

    Raises:
        ConnectionError: the cloud cannot be reached, or refuses this device; the message says why.
    """
    try:
        connection = socket.create_connection((host, port), timeout=30)
    except OSError as error:
        raise ConnectionError(f"no cloud answers at {host}:{port} ({error}); start one with: chat --listen") from error
    stream = Stream(connection)
    stream.send(half.hello())
    try:
        while True:
            frame, _ = stream.receive()
            if frame.kind == "refused":
                raise ConnectionError(f"the cloud refuses this device: {frame.head['why']}")
            if reply := half.answer(frame):
                stream.send(reply)
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return
    finally:
        stream.close()
