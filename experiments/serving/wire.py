"""Bytes over a connected socket, in TLS or plain, with deadlines, and a count of what the socket carries."""

import socket
import ssl
import time
from contextlib import suppress

CHUNK = 1 << 16


class Wire:
    """One end of a connection.

    TLS runs in memory, so that this class alone reads and writes the socket: it knows every byte, also those of the
    handshake, and no peer can stretch a deadline by sending slowly.

    Args:
        connection: a connected stream socket; this object closes it.
        tls: context for TLS; None: bytes go as they are, which only a socket pair within a process may do.
        server_name: on the device, the name that the server's certificate must have; None on the server.

    Attributes:
        sent, received: bytes on the socket.
    """

    def __init__(self, connection: socket.socket, tls: ssl.SSLContext | None = None, server_name: str | None = None):
        self._socket, self.sent, self.received = connection, 0, 0
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None
        if tls is not None:
            self._tls = tls.wrap_bio(self._in, self._out, server_name is None, server_name)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # send small frames at once
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # notice a peer that lost its power
            for option, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)

    def handshake(self, deadline: float | None = None) -> bytes:
        """Complete TLS and return the server's certificate (DER), on the server an empty one.

        Args:
            deadline: of `time.monotonic`, as in the other methods; None: wait for ever.

        Raises:
            ssl.SSLError: the other end speaks no TLS, or its certificate is not good.
            EOFError, OSError: as `read`.
        """
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(deadline)
                self._in.write(self._receive(deadline))
            except ssl.SSLError:
                self._flush(deadline)  # the alert tells the other end why
                raise
            else:
                self._flush(deadline)
                return self._tls.getpeercert(binary_form=True) or b""

    def write(self, data: bytes, deadline: float | None = None) -> None:
        """Send all bytes. TimeoutError, OSError: the other end does not take them in time, or is gone."""
        if self._tls is None:
            self._send(data, deadline)
            return
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:CHUNK]) :]
            self._flush(deadline)

    def read(self, deadline: float | None = None) -> bytes:
        """Return some bytes.

        Raises:
            TimeoutError: none came before the deadline.
            EOFError, OSError: the other end is gone.
        """
        if self._tls is None:
            return self._receive(deadline)
        while True:
            try:
                if data := self._tls.read(CHUNK):
                    return data
                raise EOFError("the other end closed the connection")
            except ssl.SSLWantReadError:
                self._in.write(self._receive(deadline))
            except ssl.SSLZeroReturnError as error:
                raise EOFError("the other end closed the connection") from error

    def close(self) -> None:
        """Close the connection; a thread that waits for it gets EOFError or OSError."""
        with suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _flush(self, deadline: float | None) -> None:
        if data := self._out.read():
            self._send(data, deadline)

    def _send(self, data: bytes, deadline: float | None) -> None:
        view = memoryview(data)
        while view:
            self._socket.settimeout(_left(deadline))
            count = self._socket.send(view)
            self.sent += count
            view = view[count:]

    def _receive(self, deadline: float | None) -> bytes:
        self._socket.settimeout(_left(deadline))
        data = self._socket.recv(CHUNK)
        if not data:
            raise EOFError("the other end closed the connection")
        self.received += len(data)
        return data


def _left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline. TimeoutError: it is over."""
    if deadline is None:
        return None
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("time is over")
    return left
