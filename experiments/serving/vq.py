"""A saved split transformer in use: the device sends codes of a text, the cloud answers with logits.

On the wire a message is its length (4 bytes) and the bytes of `models.vq.quantiser.boundary.Boundary`, in TLS.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from experiments.serving.link import MESSAGE_S, Stream, parse_address
from experiments.serving.messages import HEAD_BYTES, Head
from experiments.serving.secure import CloudGone, CloudRefuses, Server, connect, not_refused
from experiments.serving.sharing import Batches
from experiments.serving.terminal import console, lines, say, serve_devices
from fl.results.saved import read_model
from models.spa.codec import FrameError
from models.submodel import State
from models.vq.ends import CloudEnd, DeviceEnd, LearningRates
from models.vq.network.body import SplitBody
from models.vq.network.halves import Shape
from models.vq.network.presets import PRESETS
from models.vq.network.tokens import encode
from models.vq.quantiser.boundary import HEADER, LENGTH, Boundary, channels
from models.vq.quantiser.codebook import Codebook
from partitions.errors import DataError, one_line
from partitions.root import absolute


class Model(Head):
    """A device names the model that it has by the digest of its file's content; the cloud answers with the same."""

    digest: str


@dataclass(frozen=True)
class Served:
    """A saved model. Args: tokens: longest text; coding: of activations up, and of logits down."""

    body: SplitBody
    classes: tuple[str, ...]
    tokenizer: Tokenizer
    tokens: int
    coding: tuple[str, str]
    digest: str

    @classmethod
    def read(cls, path: Path) -> "Served":
        """Read a file that a run of workload 'vq' saved. DataError: it is none, or has several tasks."""
        saved = read_model(path)
        if "vq" not in saved.extra:
            raise DataError(f"{path} cannot be served: save a model of workload 'vq' with one task and one codebook")
        about = saved.extra["vq"]
        classes, codes = tuple(about["classes"]), about["codes"]
        body = SplitBody(
            {"classes": len(classes)},
            Shape(**about["shape"]),
            tuple(codes) if codes else None,
            0,
            PRESETS[about["preset"]],
        )
        body.load_state_dict(saved.state)
        tokenizer = Tokenizer.from_str(about["tokenizer"])
        return cls(body, classes, tokenizer, about["tokens"], (about["up"], about["down"]), _digest(saved.state))

    def boundary(self) -> Boundary:
        up, down = self.coding
        head = self.body.head
        edge = channels(self.body.shape.wire, head.width, head.per, self.body.codes, up, down, answer=down)
        return Boundary(edge, self.body.shape.pool)

    @cached_property
    def codebook(self) -> Codebook | None:
        ema = self.body.codebook_ema()
        return ema.codebook if ema else None

    @property
    def up(self) -> str:
        """The channel on the way up."""
        return "codes" if self.codebook else "activations"

    def device_end(self) -> DeviceEnd:
        return DeviceEnd(self.body.device, self.boundary(), LearningRates(), self.codebook)

    def cloud_end(self) -> CloudEnd:
        return CloudEnd(self.body.cloud, self.body.head, self.boundary(), LearningRates(), self.codebook)

    @torch.inference_mode()
    def logits(self, texts: Sequence["Received"]) -> list[Tensor]:
        """Return the logits (1, classes) of each of some texts of one length."""
        lengths = torch.tensor([text.length for text in texts])
        cloud, head = self.body.cloud.eval(), self.body.head.eval()
        return list(head(*cloud(torch.cat([text.z for text in texts]), lengths), lengths).split(1))

    def batches(self) -> "Batches[Received, Tensor]":
        """Return what answers the texts of all devices."""
        return Batches(self.logits, lambda text: text.length)


class Received(NamedTuple):
    """A text of ``length`` tokens as the cloud received it: z (positions, width)."""

    z: Tensor
    length: int


@dataclass
class Bytes:
    """Bytes of some exchanges: codes or activations up and logits down, and all that the socket carried."""

    up: int = 0
    down: int = 0
    socket_up: int = 0
    socket_down: int = 0

    def __str__(self) -> str:
        ways = {"up": (self.up, self.socket_up), "down": (self.down, self.socket_down)}
        return "; ".join(f"{way} {payload:,} B, {whole:,} on the socket" for way, (payload, whole) in ways.items())


class Device:
    """A device that is connected to a cloud with the same model.

    Raises:
        CloudGone, CloudRefuses: the cloud is gone, or has another model.
    """

    def __init__(self, model: Served, stream: Stream):
        self._model, self._stream, self._end = model, stream, model.device_end()
        try:
            stream.send(Model(digest=model.digest).frame())
            frame, _ = stream.receive(limit=HEAD_BYTES)
            Model.of(not_refused(frame))
        except (OSError, EOFError, FrameError) as error:
            raise CloudGone(f"the cloud is gone: {one_line(error)}") from None
        self.total = Bytes(socket_up=stream.wire.sent, socket_down=stream.wire.received)

    def classify(self, text: str) -> tuple[str, float, Bytes]:
        """Return a text's class, its probability, and the bytes of the exchange. CloudGone: the cloud is gone."""
        wire = self._stream.wire
        before = wire.sent, wire.received
        message = self._end.send(encode(self._model.tokenizer, [text], limit=self._model.tokens), "infer")
        try:
            self._stream.send_bytes(message)
            reply = self._stream.receive_bytes(MESSAGE_S, HEADER.size + self._end.boundary.payload("logits", [1]))
            logits = self._end.read_logits(reply)
        except (OSError, EOFError) as error:
            raise CloudGone(f"the cloud is gone: {one_line(error)}") from None
        except (FrameError, ValueError) as error:
            raise CloudRefuses(f"the cloud does not answer this text: {one_line(error)}") from None
        p = logits[0].softmax(-1)
        up, down = len(message) - HEADER.size, len(reply) - HEADER.size
        spent = Bytes(up, down, wire.sent - before[0], wire.received - before[1])
        self.total = Bytes(*(a + b for a, b in zip(vars(self.total).values(), vars(spent).values(), strict=True)))
        return self._model.classes[int(p.argmax())], float(p.max()), spent


def serve(model: Served, batches: "Batches[Received, Tensor]", stream: Stream) -> None:
    """Answer a device until it leaves.

    The next message of a device is read when it has its answer, so each device has one text at most in ``batches``.

    Raises:
        FrameError: it has another model, or sends no codes of one text.
        EOFError, OSError: it is gone.
    """
    digest = Model.of(stream.receive(limit=HEAD_BYTES)[0]).digest
    if digest != model.digest:
        raise FrameError("the device has another model than this cloud: copy the file of the cloud's model to it")
    stream.send(Model(digest=digest).frame())
    end = model.cloud_end()
    limit = HEADER.size + end.boundary.payload(model.up, [model.tokens])
    while True:
        stream.wait()
        message = stream.receive_bytes(MESSAGE_S, limit)
        try:
            if len(message) < HEADER.size + LENGTH.size or HEADER.unpack_from(message)[1] != 1:
                raise ValueError(f"a message has one text, not {len(message)} bytes of something else")
            if not 1 <= (length := LENGTH.unpack_from(message, HEADER.size)[0]) <= model.tokens:
                raise ValueError(f"a text has 1 to {model.tokens} tokens, not {length}")
            text = Received(end.decode(message), length)
        except (ValueError, IndexError) as error:
            raise FrameError(str(error)) from None
        stream.send_bytes(end.boundary.encode("logits", batches.ask(text), [length], "infer"))


def run_cloud(path: Path, listen: str, folder: Path) -> None:
    """Serve the cloud half of a saved model to registered devices until Ctrl-C."""
    model, address = Served.read(path), parse_address(listen)
    batches = model.batches()
    server = Server(address, absolute(folder), lambda stream, _: serve(model, batches, stream))
    serve_devices(server, f"model {model.digest[:12]}")


def run_device(path: Path, cloud: str, key: str, folder: Path) -> None:
    """Classify each line of input through a cloud."""
    torch.set_num_threads(1)
    model, address, started = Served.read(path), parse_address(cloud), time.monotonic()
    stream = connect(address, absolute(folder), key)
    try:
        device, count = Device(model, stream), 0
        say(f"connected to {cloud} in {time.monotonic() - started:.1f} s; classes: {', '.join(model.classes)[:200]}")
        for text in lines():
            name, p, spent = device.classify(text)
            count += 1
            console.print(f"{name} ({p:.0%})", markup=False)
            say(str(spent))
        say(f"{count} texts; with the handshake: {device.total}")
    finally:
        stream.close()


def _digest(state: State) -> str:
    digest = sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)}".encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
