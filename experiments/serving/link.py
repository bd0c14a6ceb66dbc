"""Frames between a cloud and a device: in the same process, or over a `Wire`."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from experiments.serving.wire import Wire
from fl.config import SettingsError
from models.spa.codec import MAX_FRAME_BYTES, PREFIX, Frame, FrameError, TrafficLog

MESSAGE_S = 30.0  # for a message that has begun


class DeviceLate(Exception):
    """The device did not answer in time; it may answer later."""


class DeviceGone(Exception):
    """The device can no longer be reached."""


class Link(ABC):
    """The cloud's end of a connection, its traffic, and the milliseconds that the last answer took (0 before it)."""

    def __init__(self) -> None:
        self.traffic = TrafficLog()
        self.answer_ms = 0.0

    @abstractmethod
    def call(self, frame: Frame, meanwhile: Callable[[], None] = lambda: None) -> Frame:
        """Return the device's answer to a frame; both have the same ``seq`` in their heads.

        Args:
            meanwhile: called when the frame was sent, before waiting for the answer.

        Raises:
            DeviceLate, DeviceGone: there is no answer.
            FrameError: the answer is no frame.
        """

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Send a frame without waiting for an answer.

        Raises:
            DeviceGone: it cannot be sent.
        """


class InProcess(Link):
    """A device in this process: the same frames, without encoding them as bytes. There is no wait to be used."""

    def __init__(self, answer: Callable[[Frame], Frame | None]):
        super().__init__()
        self._answer = answer

    def call(self, frame: Frame, meanwhile: Callable[[], None] = lambda: None) -> Frame:
        self.traffic.calls += 1
        self.traffic.count("down", frame)
        reply = self._answer(frame)
        assert reply is not None
        self.traffic.count("up", reply)
        return reply

    def send(self, frame: Frame) -> None:
        self.traffic.count("down", frame)
        self._answer(frame)


class Stream:
    """Frames over a wire. After a timeout, the received part of a frame is kept."""

    def __init__(self, wire: Wire):
        self.wire = wire
        self._received = bytearray()

    def send(self, frame: Frame, timeout: float | None = MESSAGE_S) -> int:
        """Send a frame; return its bytes. OSError: the other end is gone, or did not take it within ``timeout`` s."""
        return self.send_bytes(frame.blob(), timeout)

    def send_bytes(self, blob: bytes, timeout: float | None = MESSAGE_S) -> int:
        """Send a message with its length; the exceptions are those of `send`."""
        data = PREFIX.pack(len(blob)) + blob
        self.wire.write(data, None if timeout is None else time.monotonic() + timeout)
        return len(data)

    def wait(self) -> None:
        """Wait, without a limit, until the next frame begins. EOFError, OSError: the other end is gone."""
        if not self._received:
            self._received += self.wire.read()

    def receive(self, timeout: float | None = MESSAGE_S, limit: int = MAX_FRAME_BYTES) -> tuple[Frame, int]:
        """Return the next frame and its bytes.

        Args:
            timeout: seconds until the frame must be complete.
            limit: most bytes of the frame without its prefix.

        Raises:
            TimeoutError: it is not complete in time.
            EOFError, OSError: the other end is gone.
            FrameError: the received bytes are not a frame, or it is larger.
        """
        blob = self.receive_bytes(timeout, limit)
        return Frame.of_blob(blob), PREFIX.size + len(blob)

    def receive_bytes(self, timeout: float | None = MESSAGE_S, limit: int = MAX_FRAME_BYTES) -> bytes:
        """Return the next message without its length; the exceptions are those of `receive`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        (size,) = PREFIX.unpack(self._take(PREFIX.size, 0, deadline))
        if size > limit:
            raise FrameError(f"a frame has {size} bytes, the limit is {limit}")
        blob = self._take(size, PREFIX.size, deadline)
        del self._received[: PREFIX.size + size]
        return blob

    def close(self) -> None:
        self.wire.close()

    def _take(self, count: int, at: int, deadline: float | None) -> bytes:
        """Return ``count`` bytes from position ``at`` on; they stay in the buffer until the frame is complete."""
        while len(self._received) < at + count:
            self._received += self.wire.read(deadline)
        return bytes(self._received[at : at + count])


class Remote(Link):
    """A device at the other end of a stream.

    Args:
        timeout: longest wait for an answer, seconds.
        limit: most bytes of an answer.
    """

    def __init__(self, stream: Stream, timeout: float, limit: int = MAX_FRAME_BYTES):
        super().__init__()
        self.stream, self._timeout, self._limit = stream, timeout, limit

    def call(self, frame: Frame, meanwhile: Callable[[], None] = lambda: None) -> Frame:
        self.traffic.calls += 1
        self.send(frame)
        meanwhile()
        deadline = time.monotonic() + self._timeout
        try:
            while True:
                reply, wire = self.stream.receive(deadline - time.monotonic(), self._limit)
                self.traffic.count("up", reply, wire)
                if reply.head.get("seq") == frame.head["seq"]:  # others answer calls that timed out
                    return reply
        except TimeoutError as error:
            raise DeviceLate(f"the device did not answer within {self._timeout:g} s") from error
        except (EOFError, OSError) as error:
            raise DeviceGone(f"the device is gone: {error}") from error

    def send(self, frame: Frame) -> None:
        try:
            self.traffic.count("down", frame, self.stream.send(frame))
        except OSError as error:  # also after a timeout: half a frame may have been sent
            raise DeviceGone(f"the device is gone: {error}") from error


def pair() -> tuple[Stream, Stream]:
    """Return the two ends of a stream within this process."""
    near, far = socket.socketpair()
    return Stream(Wire(near)), Stream(Wire(far))


def parse_address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT; an IPv6 address may be in brackets.

    Raises:
        SettingsError: the text is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise SettingsError(f"'{text}' is no address; write HOST:PORT, e.g. lab.local:7070")
    return host.removeprefix("[").removesuffix("]"), int(port)
