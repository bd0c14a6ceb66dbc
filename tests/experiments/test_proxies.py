"""What a dead proxy must not get."""

import http.server
import os
import threading

import httpx
import pytest

from experiments.proxies import direct, proxied

DEAD, SOCKS = "http://127.0.0.1:9", "socks5://127.0.0.1:9"


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("exceptions", ["", "[::1]", "10.0.0.0/8,example.org"])
@pytest.mark.parametrize("shell", [{"http_proxy": DEAD}, {"HTTP_PROXY": DEAD}, {"all_proxy": DEAD, "ALL_PROXY": SOCKS}])
def test_flowers_http_client_goes_around_the_proxy(
    shell: dict[str, str], exceptions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in os.environ.keys() - kept.keys():
        monkeypatch.delenv(name)
    for name, value in direct(kept | shell | {"no_proxy": exceptions}).items():
        monkeypatch.setenv(name, value)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with httpx.Client() as client:  # which does not start with SOCKS, nor with brackets in NO_PROXY
                assert client.get(f"http://127.0.0.1:{server.server_port}").status_code == 200
                with pytest.raises(httpx.ConnectError):  # what is elsewhere still goes to the proxy
                    client.get("http://elsewhere.invalid")
        finally:
            server.shutdown()
            thread.join()


def test_what_the_user_excepts_is_kept_and_hosts_are_added() -> None:
    found = direct(
        {"no_proxy": "a, [fd00::7], [", "NO_PROXY": "b,a", "https_proxy": DEAD, "X": "1"}, "lab", "[fd00::8]"
    )
    assert found["no_proxy"] == found["NO_PROXY"] == "a,fd00::7,b,127.0.0.1,localhost,::1,lab,fd00::8"
    assert found["https_proxy"] == DEAD and found["X"] == "1"


def test_variables_that_divert_a_connection_are_named() -> None:
    assert proxied({"HTTPS_PROXY": DEAD, "http_proxy": "", "X": "1"}, "lab") == ["HTTPS_PROXY"]
    assert proxied({"HTTPS_PROXY": DEAD, "NO_PROXY": "lab,*"}, "elsewhere") == []
    assert proxied({"HTTPS_PROXY": DEAD, "NO_PROXY": "lab", "no_proxy": ""}, "lab") == ["HTTPS_PROXY"]
    assert proxied({"ALL_PROXY": SOCKS, "no_proxy": "lab"}, "lab") == ["ALL_PROXY"]
