"""The chat as a page in the browser of the device: one HTML file, served to this machine alone.

The address has a random token. Without it, or under another host name, there is only 404. So neither other users of the
machine nor web pages that the browser shows can talk to it. An answer is a stream of JSON lines, one per event.
"""

import json
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from experiments.serving.terminal import Chat, Screen, Shown, Terminal, say
from partitions.errors import UserError

PAGE = Path(__file__).with_name("chat.html")
MOST_BYTES = 1 << 16  # of a question
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class JsonLines:
    """A screen that writes each event as a line of JSON. If the browser leaves, the answer is completed without it.

    Args:
        file: to which the bytes go.
        talk: the events so far; new ones are added.
    """

    marks = ""

    def __init__(self, file: Any, talk: list[dict[str, Any]]):
        self._file, self._talk, self._gone = file, talk, False

    def show(self, shown: Shown) -> None:
        self.event("text", **asdict(shown))

    def end(self, summary: str) -> None:
        self.event("end", text=summary)

    def refuse(self, why: str) -> None:
        self.event("refused", text=why)

    def note(self, text: str) -> None:
        self.event("note", text=text)

    def event(self, kind: str, **values: Any) -> None:
        """Remember an event and write it."""
        self._talk.append({"kind": kind, **values})
        self.write(self._talk[-1])

    def write(self, event: Mapping[str, Any]) -> None:
        """Write an event."""
        if self._gone:
            return
        try:
            self._file.write(json.dumps(event).encode() + b"\n")
            self._file.flush()
        except OSError:
            self._gone = True


class WebChat(ThreadingHTTPServer):
    """Serves a chat on this machine alone.

    Args:
        chat: the conversation; it must be open.
        port: 0: a free one.

    Attributes:
        url: address with the token.
        talk: all events of the conversation, for a page that is opened or looked at again.
    """

    daemon_threads = True

    def __init__(self, chat: Chat, port: int = 0):
        self.chat, self.token = chat, secrets.token_urlsafe(16)
        self.answering = threading.Lock()
        self.asked = 0
        self.talk: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def answer(self, line: str, screen: Screen) -> None:
        """Answer a question on a screen. The caller holds ``answering``."""
        self.asked, self.chat.screen = self.asked + 1, screen
        if line == "/new":
            self.talk.clear()
        else:
            self.talk.append({"kind": "question", "text": line})
        try:
            self.chat.reply(self.asked, line)
        except UserError as error:
            screen.refuse(str(error))
        finally:
            self.chat.screen = Terminal()

    def state(self) -> dict[str, Any]:
        """Return what a page shows that was just opened."""
        welcome = self.chat.welcome
        about = {"base": welcome.base, "history": welcome.history, "note": welcome.note} if welcome else {}
        return {"cloud": self.chat.where, **about, "talk": list(self.talk), "busy": self.answering.locked()}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    server: WebChat
    timeout = 30.0  # for the request; an answer takes as long as it takes

    def do_GET(self) -> None:
        match self._path():
            case "":
                self._send(HTTPStatus.OK, "text/html; charset=utf-8", PAGE.read_bytes())
            case "state":
                self._send_json(self.server.state())
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here; open the address that `--web` printed")

    def do_POST(self) -> None:
        own = self.headers.get("Origin") in (None, f"http://{self.headers['Host']}")
        match self._path() if own else None:
            case "ask":
                self._ask()
            case "stop":
                self.server.chat.stop()
                self._send_json({})
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here; open the address that `--web` printed")

    def _ask(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit()) or int(size) > MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a question may have {MOST_BYTES} bytes at most")
            return
        try:
            question = json.loads(self.rfile.read(int(size)))
            line = question["text"].strip() if isinstance(question, dict) else ""
            line.encode()  # no half of a surrogate pair
        except (ValueError, KeyError, AttributeError, RecursionError):
            line = ""
        if not line:
            self._refuse(HTTPStatus.BAD_REQUEST, 'a question is {"text": "..."} in JSON, and not empty')
            return
        if not self.server.answering.acquire(blocking=False):
            self._refuse(HTTPStatus.CONFLICT, "an answer is on its way; ask again when it is complete")
            return
        try:
            self._head(HTTPStatus.OK, "application/x-ndjson; charset=utf-8")
            screen = JsonLines(self.wfile, self.server.talk)
            self.server.answer(line, screen)
            screen.write({"kind": "done"})
        finally:
            self.server.answering.release()

    def _path(self) -> str | None:
        """Return what follows the token; None: the token or the host is wrong."""
        known = {f"{name}:{self.server.server_address[1]}" for name in ("127.0.0.1", "localhost")}
        _, token, *rest = [*self.path.split("/", 2), ""]
        right = secrets.compare_digest(token.encode(), self.server.token.encode())
        return rest[0] if right and self.headers.get("Host") in known and self.path.count("/") >= 2 else None

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self._head(status, kind, {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_json(self, value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, "application/json; charset=utf-8", json.dumps(value).encode())

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send_json({"kind": "refused", "text": why}, status)

    def _head(self, status: HTTPStatus, kind: str, more: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **HEADERS, **more, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Log no requests: their paths have the token."""


def run_web(chat: Chat, port: int) -> None:
    """Serve a chat as a page until Ctrl-C.

    Raises:
        CloudGone, CloudRefuses: there is no connection to the cloud.
        UserError: the port is in use.
    """
    chat.open()
    try:
        with WebChat(chat, port) as server:
            say(f"open {server.url} in a browser on this machine; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    except OSError as error:
        raise UserError(f"cannot listen at 127.0.0.1:{port} ({error.strerror}): choose another --port") from None
    finally:
        chat.close()
