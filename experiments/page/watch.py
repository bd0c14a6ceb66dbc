"""Show a results folder in a browser while a run writes it."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from experiments.analysis.recorded import Recorded
from experiments.page.build import page
from experiments.page.payload import payload
from partitions.errors import UserError


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Open a port of this machine that shows the folder; the caller lets it serve.

    Raises:
        UserError: the port is in use, or belongs to the system.
    """

    def numbers() -> dict[str, object]:
        return payload([Recorded.read(folder)], live=True)

    def first() -> str:
        started = (folder / "rounds.csv").exists() or (folder / "study.csv").exists()
        return page(numbers() if started else payload([], live=True))

    pages: dict[str, tuple[str, Callable[[], str]]] = {
        "/": ("text/html; charset=utf-8", first),
        "/numbers.json": ("application/json", lambda: json.dumps(numbers(), allow_nan=False)),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, make = pages.get(self.path, ("", lambda: ""))
            try:
                text, status = make(), 200 if kind else 404
            except UserError as error:  # the run has written nothing yet
                kind, text, status = "application/json", json.dumps({"error": str(error)}), 503
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing: the page asks every few seconds."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be opened ({error.strerror}): choose another one with --port") from error
