"""The device's half: its side network, its gate, and the side network's cache of the sentence."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.serving import messages
from experiments.serving.link import Stream
from experiments.serving.messages import GateSite
from models.spa.codec import Frame, FrameError, Precision, narrow
from models.spa.side import Cached
from models.spa.train import Plugin, Policy

LOWEST = -1e30  # stands for a threshold of minus infinity, which JSON lacks


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
        hello = messages.Hello(
            checksum=self.checksum, mode=self.mode, states=list(side.spec.states), attends=side.attends,  # type: ignore[arg-type]
            policy=self.policy, precision=self.precision, gate_site=self.gate_site, tau=max(gate.tau, LOWEST),
        )  # fmt: skip
        return hello.frame({"weight": gate.weight, "bias": gate.bias} if self.gate_site == "cloud" else {})

    @torch.inference_mode()
    def answer(self, frame: Frame) -> Frame | None:
        """Return the reply to a frame, or None if it needs none.

        'gate': ``b`` (n, d) -> for each whether the gate opens, and its score. 'side': ``stack`` (positions of all
        rows, S, d) -> ``o`` (rows, d) of each row's last position. A row continues from the cache with its ``key``, and
        its new cache gets the key ``seq.row``. The old cache stays unchanged, so the cloud may ask again after a
        timeout.

        Raises:
            FrameError: the cloud asks for something that this side cannot have.
        """
        side = self.plugin.side
        if frame.kind not in ("gate", "side"):
            return None
        time.sleep(self.delay)
        started = time.perf_counter()
        if frame.kind == "gate":
            seq = messages.Gate.of(frame).seq
            b = messages.tensor(frame, "b", (len(frame.tensors.get("b", ())), side.spec.width))
            opens, scores = self.plugin.gate.opens(b).tolist(), self.plugin.gate.score(b).tolist()
            return messages.Opens(seq=seq, opens=opens, scores=scores).frame()
        asked = messages.Side.of(frame)
        shape = (sum(row.count for row in asked.rows), len(side.spec.states), side.spec.width)
        stack = messages.tensor(frame, "stack", shape, scaled=True)
        o = self._attending(asked, stack) if side.attends else side(stack[None]).o[0]
        milliseconds = 1e3 * (time.perf_counter() - started)
        precision: Precision = "fp32" if self.precision == "fp32" else "fp16"
        return messages.Output(seq=asked.seq, ms=milliseconds).frame(narrow("o", o, precision))

    def _attending(self, asked: messages.Side, stack: Tensor) -> Tensor:
        try:
            self._caches = {key: self._caches[key] for key in asked.keep}
            before = [self._caches[row.key] if row.key else None for row in asked.rows]
        except KeyError as error:
            raise FrameError(f"the cloud asks to continue {error}, which this device does not have") from None
        outputs: list[Tensor] = []
        for row, cached, part in zip(asked.rows, before, stack.split([row.count for row in asked.rows]), strict=True):
            result = self.plugin.side(part[None], cached=cached, at=row.at)
            self._caches[f"{asked.seq}.{len(outputs)}"] = result.cached
            outputs.append(result.o[0, -1])
        return torch.stack(outputs)


def serve(half: DeviceHalf, stream: Stream) -> None:
    """Answer a cloud until the connection ends."""
    try:
        while True:
            if reply := half.answer(stream.receive(None)[0]):
                stream.send(reply)
    except (EOFError, OSError):
        return
