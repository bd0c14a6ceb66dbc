"""The port for devices: of a SuperLink, it lets only the Fleet API through.

Flower serves three APIs on one port. The Fleet API knows each SuperNode by its key. The Control API asks nobody: who
reaches it may register keys, and run code in the ServerApp and on every SuperNode. So `deploy superlink` lets the
SuperLink listen on this machine alone, and this proxy, with the same certificate, on the network.
"""

import re
import ssl
import sys
from collections.abc import Iterable
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

FOR_DEVICES = re.compile(r"/v1/fleet/[a-z0-9-]+|/health")
CLOSED = 403
NOT_PASSED_ON = {b"connection", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


def gate(superlink: str, authority: Path) -> Starlette:
    """Return an ASGI app that passes requests of SuperNodes on.

    Args:
        superlink: host:port of the SuperLink; authority: certificate of the authority that signed its certificate.
    """
    context = ssl.create_default_context(cafile=str(authority))
    client = httpx.AsyncClient(
        base_url=f"https://{superlink}",
        verify=context,
        timeout=None,
        limits=httpx.Limits(max_connections=None),  # with a limit, strangers that send half a request keep devices out
        trust_env=False,
    )

    def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(name.lower(), value) for name, value in headers if name.lower() not in NOT_PASSED_ON]

    async def forward(request: Request) -> Response:
        path = request.scope["path"]
        if not FOR_DEVICES.fullmatch(path):
            return PlainTextResponse("this port is for SuperNodes", CLOSED)
        content = request.stream() if request.method == "POST" else None
        sent = client.build_request(request.method, path, headers=passed_on(request.headers.raw), content=content)
        try:
            got = await client.send(sent, stream=True)
        except httpx.TransportError as error:
            return PlainTextResponse(f"the SuperLink does not answer: {error}", 502)
        answer = StreamingResponse(got.aiter_raw(), got.status_code, background=BackgroundTask(got.aclose))
        answer.raw_headers = passed_on(got.headers.raw)
        return answer

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])


def main(host: str, port: str, superlink: str, folder: str) -> None:
    """Serve until the process is stopped, with the certificate in ``folder``."""
    app, certificate, key = gate(superlink, Path(folder) / "ca.crt"), f"{folder}/server.pem", f"{folder}/server.key"
    uvicorn.run(
        app, host=host, port=int(port), log_level="warning", access_log=False, ssl_certfile=certificate, ssl_keyfile=key
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
