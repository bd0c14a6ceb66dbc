"""How the cloud reaches a device: in the same process, or over a TCP stream that the device opened."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from models.spa.codec import LONGEST, PREFIX, Broken, Frame, Ledger


class DeviceLate(Exception):
    """The device did not answer in time; it may still."""


class DeviceGone(Exception):
    """The device cannot be reached any more."""


class Link(ABC):
    """The cloud's end; it counts what crosses."""

    def __init__(self) -> None:
        self.ledger = Ledger()

    @abstractmethod
    def call(self, frame: Frame) -> Frame:
        """The device's answer to a frame, whose head holds a ``seq`` that the answer repeats.

        Raises:
            DeviceLate, DeviceGone: there is none.
        """

    @abstractmethod
    def tell(self, frame: Frame) -> None:
        """Send a frame that nobody waits for.

        Raises:
            DeviceGone: it cannot be sent.
        """

    def close(self) -> None:
        """Hang up."""


class InProcess(Link):
    """The device is an object of this process; its frames are the same, but nothing is put into bytes."""

    def __init__(self, answer: Callable[[Frame], Frame | None]):
        super().__init__()
        self._answer = answer

    def call(self, frame: Frame) -> Frame:
        self.ledger.calls += 1
        self.ledger.count("down", frame)
        reply = self._answer(frame)
        assert reply is not None
        self.ledger.count("up", reply)
        return reply

    def tell(self, frame: Frame) -> None:
        self.ledger.count("down", frame)
        self._answer(frame)


class Stream:
    """Frames over a connected socket; what has come of a frame is kept when a wait runs out."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a token's frame is not to wait for the next
        self._come = bytearray()

    def send(self, frame: Frame, timeout: float | None = None) -> int:
        """The bytes that it took. OSError if the other end is gone, or takes nothing for ``timeout`` seconds."""
        data = frame.to_bytes()
        self._socket.settimeout(timeout)
        self._socket.sendall(data)
        return len(data)

    def receive(self, timeout: float | None = None) -> tuple[Frame, int]:
        """The next frame and its bytes.

        Raises:
            TimeoutError: it has not come in whole within ``timeout`` seconds.
            EOFError, OSError: the other end is gone.
            Broken: what came is no frame.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        (size,) = PREFIX.unpack(self._take(PREFIX.size, 0, deadline))
        if size > LONGEST:
            raise Broken(f"a frame of {size} bytes is announced, {LONGEST} is the most")
        blob = self._take(size, PREFIX.size, deadline)
        del self._come[: PREFIX.size + size]
        return Frame.of_blob(blob), PREFIX.size + size

    def close(self) -> None:
        self._socket.close()

    def _take(self, count: int, at: int, deadline: float | None) -> bytes:
        """``count`` bytes from ``at`` on; they stay until the whole frame is there."""
        while len(self._come) < at + count:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            come = self._socket.recv(1 << 20)
            if not come:
                raise EOFError("the other end closed the connection")
            self._come += come
        return bytes(self._come[at : at + count])


class Remote(Link):
    """The device is at the other end of a stream.

    Args:
        timeout: longest wait for an answer, seconds.
    """

    def __init__(self, stream: Stream, timeout: float):
        super().__init__()
        self._stream, self._timeout = stream, timeout

    def call(self, frame: Frame) -> Frame:
        self.ledger.calls += 1
        self.tell(frame)
        deadline = time.monotonic() + self._timeout
        try:
            while True:
                reply, wire = self._stream.receive(deadline - time.monotonic())
                self.ledger.count("up", reply, wire)
                if reply.head.get("seq") == frame.head["seq"]:  # otherwise of a call that was given up
                    return reply
        except TimeoutError as error:
            raise DeviceLate(f"the device did not answer within {self._timeout:g} s") from error
        except (EOFError, OSError, Broken) as error:
            raise DeviceGone(f"the device is gone: {error}") from error

    def tell(self, frame: Frame) -> None:
        try:
            self.ledger.count("down", frame, self._stream.send(frame, self._timeout))
        except OSError as error:  # a send that ran out of time too: half a frame cannot be taken back
            raise DeviceGone(f"the device is gone: {error}") from error

    def close(self) -> None:
        self._stream.close()
