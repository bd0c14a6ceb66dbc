"""The cloud's connection to a device: in the same process, or over a TCP stream that the device opened."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from fl.config import SettingsError
from models.spa.codec import MAX_FRAME_BYTES, PREFIX, Frame, FrameError, TrafficLog


class DeviceLate(Exception):
    """The device did not answer in time; it may answer later."""


class DeviceGone(Exception):
    """The device can no longer be reached."""


class Link(ABC):
    """The cloud's end of a connection, and its traffic."""

    def __init__(self) -> None:
        self.traffic = TrafficLog()

    @abstractmethod
    def call(self, frame: Frame) -> Frame:
        """Return the device's answer to a frame; both have the same ``seq`` in their heads.

        Raises:
            DeviceLate, DeviceGone: there is no answer.
        """

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Send a frame without waiting for an answer.

        Raises:
            DeviceGone: it cannot be sent.
        """

    def close(self) -> None:
        """Close the connection."""


class InProcess(Link):
    """A device in this process: the same frames, without encoding them as bytes."""

    def __init__(self, answer: Callable[[Frame], Frame | None]):
        super().__init__()
        self._answer = answer

    def call(self, frame: Frame) -> Frame:
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
    """Frames over a connected socket. After a timeout, the received part of a frame is kept."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # send small frames at once
        self._received = bytearray()

    def send(self, frame: Frame, timeout: float | None = None) -> int:
        """Send a frame; return its bytes. OSError: the other end is gone, or accepts nothing within ``timeout``."""
        data = frame.to_bytes()
        self._socket.settimeout(timeout)
        self._socket.sendall(data)
        return len(data)

    def receive(self, timeout: float | None = None) -> tuple[Frame, int]:
        """Return the next frame and its bytes.

        Raises:
            TimeoutError: the frame is not complete within ``timeout`` seconds.
            EOFError, OSError: the other end is gone.
            FrameError: the received bytes are not a frame.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        (size,) = PREFIX.unpack(self._take(PREFIX.size, 0, deadline))
        if size > MAX_FRAME_BYTES:
            raise FrameError(f"a frame has {size} bytes, the limit is {MAX_FRAME_BYTES}")
        blob = self._take(size, PREFIX.size, deadline)
        del self._received[: PREFIX.size + size]
        return Frame.of_blob(blob), PREFIX.size + size

    def close(self) -> None:
        self._socket.close()

    def _take(self, count: int, at: int, deadline: float | None) -> bytes:
        """Return ``count`` bytes from position ``at`` on; they stay in the buffer until the frame is complete."""
        while len(self._received) < at + count:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            chunk = self._socket.recv(1 << 20)
            if not chunk:
                raise EOFError("the other end closed the connection")
            self._received += chunk
        return bytes(self._received[at : at + count])


class Remote(Link):
    """A device at the other end of a stream.

    Args:
        timeout: longest wait for an answer, seconds.
    """

    def __init__(self, stream: Stream, timeout: float):
        super().__init__()
        self._stream, self._timeout = stream, timeout

    def call(self, frame: Frame) -> Frame:
        self.traffic.calls += 1
        self.send(frame)
        deadline = time.monotonic() + self._timeout
        try:
            while True:
                reply, wire = self._stream.receive(deadline - time.monotonic())
                self.traffic.count("up", reply, wire)
                if reply.head.get("seq") == frame.head["seq"]:  # others answer calls that timed out
                    return reply
        except TimeoutError as error:
            raise DeviceLate(f"the device did not answer within {self._timeout:g} s") from error
        except (EOFError, OSError, FrameError) as error:
            raise DeviceGone(f"the device is gone: {error}") from error

    def send(self, frame: Frame) -> None:
        try:
            self.traffic.count("down", frame, self._stream.send(frame, self._timeout))
        except OSError as error:  # also after a timeout: half a frame may have been sent
            raise DeviceGone(f"the device is gone: {error}") from error

    def close(self) -> None:
        self._stream.close()


def parse_address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT.

    Raises:
        SettingsError: the text is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise SettingsError(f"'{text}' is no address; write HOST:PORT, e.g. 127.0.0.1:7070")
    return host, int(port)
