"""The chat's page over HTTP: who may ask, what an answer has, and what happens when a browser leaves."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import pytest

from experiments.serving.cloud import Session, join
from experiments.serving.conversation import serve
from experiments.serving.device import DeviceHalf
from experiments.serving.link import Stream, pair
from experiments.serving.terminal import Chat, Shown, Wishes
from experiments.serving.web import MOST_BYTES, PAGE, JsonLines, WebChat
from models.spa.bases import Base
from models.spa.codec import Frame
from models.spa.train import Plugin

QUESTION = "What is the name of my dog?"


@contextmanager
def served(base: Base, plugin: Plugin, clouds: list[Stream] | None = None) -> Iterator[WebChat]:
    """Serve a page. Args: clouds: the cloud's ends of all connections are added."""

    def here() -> Stream:
        near, far = pair()
        if clouds is not None:
            clouds.append(near)

        def cloud() -> None:
            try:
                serve(base, near, 20.0)
            except (EOFError, OSError):
                near.close()

        threading.Thread(target=cloud, daemon=True).start()
        return far

    chat = Chat(DeviceHalf(plugin, base.checksum), here, "a cloud", Wishes(limit=8))
    chat.open()
    with WebChat(chat) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(20)
    chat.close()


def call(
    server: WebChat, method: str, path: str, body: bytes | None = None, host: str = "", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {"Host": host or f"127.0.0.1:{port}", **headers}
    connection.request(method, path, body, named)
    reply = connection.getresponse()
    found = reply.status, reply.headers, reply.read()
    connection.close()
    return found


def ask(server: WebChat, text: str) -> list[dict[str, Any]]:
    status, headers, body = call(server, "POST", f"/{server.token}/ask", json.dumps({"text": text}).encode())
    assert status == 200 and headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in body.splitlines()]


def test_an_answer_names_who_spoke_and_what_crossed_for_each_token(
    base: Base, plugin_of: Callable[..., Plugin]
) -> None:
    plugin = plugin_of()
    half = DeviceHalf(plugin, base.checksum)
    tokens = list(Session(base, *join(base, half), base.prompt(QUESTION)).greedy(8))
    with served(base, plugin) as server:
        events = ask(server, QUESTION)
        state = json.loads(call(server, "GET", f"/{server.token}/state")[2])
        assert [e["kind"] for e in events[-2:]] == ["end", "done"] and "8 tokens" in events[-2]["text"]
        shown = [e for e in events if e["kind"] == "text"]
        whole = base.text([token.id for token in tokens])
        assert "".join(e["text"] for e in shown) == whole
        assert state["talk"] == [{"kind": "question", "text": QUESTION}, *events[:-1]]
        assert [said.content for said in server.chat.said] == [QUESTION, whole]
        assert (state["cloud"], state["base"], state["history"], state["busy"]) == ("a cloud", "tiny", False, False)
        for e in shown:  # a token that asked crossed the cut in both directions, others did not
            assert (e["down"] > 0) == (e["up"] > 0) == e["asked"]
        assert {e["asked"] for e in shown} == {True, False}
        assert ask(server, "/new") == [{"kind": "done"}]
        assert not json.loads(call(server, "GET", f"/{server.token}/state")[2])["talk"] and not server.chat.said
        refused = ask(server, "x" * 5000)
        assert [e["kind"] for e in refused] == ["refused", "done"] and "line 3 is left out" in refused[0]["text"]


def test_only_who_has_the_address_may_ask(base: Base, plugin_of: Callable[..., Plugin]) -> None:
    body = json.dumps({"text": QUESTION}).encode()
    with served(base, plugin_of()) as server:
        port, path = server.server_address[1], f"/{server.token}/ask"
        assert server.server_address[0] == "127.0.0.1" and server.url == f"http://127.0.0.1:{port}/{server.token}/"
        for method, where, more in (
            ("GET", "/", {}),
            ("GET", "/" + "a" * 22 + "/", {}),
            ("GET", f"/{server.token}", {}),
            ("GET", f"/{server.token}/chat.py", {}),
            ("GET", f"/{server.token}/../state", {}),
            ("POST", "/ask", {}),
            ("POST", "/stop", {}),
            ("POST", path, {"host": "evil.example"}),  # a name that an attacker lets point to this machine
            ("POST", path, {"Origin": "http://evil.example"}),
        ):
            assert call(server, method, where, body if method == "POST" else None, **more)[0] == 404
        assert not server.chat.said
        assert call(server, "GET", f"/{server.token}/", host=f"localhost:{port}")[0] == 200
        assert call(server, "POST", path, body, Origin=f"http://127.0.0.1:{port}")[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"text": 3}', 400),
        (b'{"text": "  "}', 400),
        (b'{"text": "\\ud800"}', 400),
        (b"[" * 60_000, 400),
        (b"\xff", 400),
        (b" " * (MOST_BYTES + 1), 413),
    ],
)
def test_what_is_no_question_is_refused(base: Base, plugin_of: Callable[..., Plugin], body: bytes, status: int) -> None:
    with served(base, plugin_of()) as server:
        found, _, said = call(server, "POST", f"/{server.token}/ask", body)
        assert found == status and json.loads(said)["kind"] == "refused" and not server.chat.said


def test_one_answer_at_a_time(base: Base, plugin_of: Callable[..., Plugin]) -> None:
    with served(base, plugin_of()) as server:
        with server.answering:
            status, _, said = call(server, "POST", f"/{server.token}/ask", json.dumps({"text": QUESTION}).encode())
            assert status == 409 and "an answer is on its way" in json.loads(said)["text"]
        assert ask(server, QUESTION)[-1] == {"kind": "done"}


@contextmanager
def held(server: WebChat) -> Iterator[threading.Event]:
    """The device's first answer waits until this block ends; the event says that the cloud has asked it."""
    half, answer, asked, go_on = server.chat.half, server.chat.half.answer, threading.Event(), threading.Event()

    def late(frame: Frame) -> Frame | None:
        asked.set()
        assert go_on.wait(20)
        return answer(frame)

    half.answer = late
    try:
        yield asked
    finally:
        go_on.set()
        half.answer = answer


def test_an_answer_can_be_stopped_and_the_conversation_goes_on(base: Base, plugin_of: Callable[..., Plugin]) -> None:
    clouds: list[Stream] = []
    with served(base, plugin_of(), clouds) as server, ThreadPoolExecutor() as pool:
        with held(server) as asked:
            events = pool.submit(ask, server, QUESTION)
            assert asked.wait(20)
            assert json.loads(call(server, "GET", f"/{server.token}/state")[2])["busy"]
            assert call(server, "POST", f"/{server.token}/stop", Origin="http://evil.example")[0] == 404
            assert call(server, "POST", f"/{server.token}/stop")[0] == 200
        *_, end, done = events.result(20)
        assert end["text"].startswith("stopped after ") and done == {"kind": "done"} and len(clouds) == 2
        begun = [said.content for said in server.chat.said]
        assert not begun or begun[0] == QUESTION  # a beginning stays, a question without any answer does not
        assert "8 tokens" in ask(server, QUESTION)[-2]["text"]  # no trace of the stop is left
        assert len(server.chat.said) == len(begun) + 2


def test_a_browser_that_leaves_does_not_end_the_answer() -> None:
    class Gone:
        writes = 0

        def write(self, data: bytes) -> None:
            self.writes += 1
            raise BrokenPipeError

    screen = JsonLines(file := Gone(), talk := [])
    screen.show(Shown("a", False, False, 0, 0, 0.0))
    screen.end("done")
    assert file.writes == 1 and [event["text"] for event in talk] == ["a", "done"]  # the page shows it when it is back


def test_the_page_needs_nothing_from_elsewhere_and_writes_text_as_text(
    base: Base, plugin_of: Callable[..., Plugin]
) -> None:
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(str(value) for name, value in attrs if name in ("src", "href", "action"))

    with served(base, plugin_of()) as server:
        status, headers, body = call(server, "GET", f"/{server.token}/")
    assert status == 200 and body == PAGE.read_bytes()
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["Referrer-Policy"] == "no-referrer"
    page = body.decode()
    Links().feed(page)
    assert not found and "http" not in page.replace("<!doctype html>", "") and "innerHTML" not in page


def idle(tab: Any) -> list[str]:
    """Wait until no answer is on its way; return the lines of the conversation."""
    tab.wait_for_selector("#stop", state="hidden")
    return tab.locator("#talk > *").all_inner_texts()


def tokens(tab: Any) -> list[tuple[str, bool]]:
    """Return the pieces of the answers, and whether each is marked as the device's."""
    found = "nodes => nodes.map((node) => [node.textContent, node.classList.contains('device')])"
    return [(text, device) for text, device in tab.locator(".token[tabindex]").evaluate_all(found)]


def test_the_page_in_a_browser(base: Base, plugin_of: Callable[..., Plugin], open_tab: Callable[..., Any]) -> None:
    """With the keyboard alone: marks and bytes of each token, also after a reload and in a second tab."""
    odd = "<b>Où</b> 犬 ☕?"
    with served(base, plugin_of()) as server:
        tab = open_tab(server.url)
        other = open_tab(server.url)
        tab.keyboard.type(QUESTION)
        tab.keyboard.press("Enter")
        question, _, summary = idle(tab)
        assert question == QUESTION and "8 tokens" in summary
        events = [event for event in server.talk if event["kind"] == "text"]
        marks = [(event["text"], event["asked"]) for event in events]
        assert tokens(tab) == marks and {asked for _, asked in marks} == {True, False}
        for key, event in zip(("Shift+Tab", *["ArrowRight"] * (len(events) - 1)), events, strict=True):
            tab.keyboard.press(key)
            assert f"{event['down']:,} B down, {event['up']:,} B up" in tab.inner_text("#detail")
        tab.focus("#text")
        tab.keyboard.type(odd)
        tab.keyboard.press("Enter")
        assert idle(tab)[3] == odd
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert tab.locator("#text, #send, #new").evaluate_all(
            "all => all.every((one) => "
            "one.getBoundingClientRect().right <= innerWidth && one.getBoundingClientRect().bottom <= innerHeight)"
        )
        shown = tokens(tab)
        tab.reload()
        tab.wait_for_selector("#talk .token")
        other.evaluate("dispatchEvent(new Event('focus'))")
        other.wait_for_selector("#talk .token")
        assert tokens(tab) == tokens(other) == shown
        tab.click("#new")
        assert idle(tab) == [] and not server.chat.said


def test_the_page_shows_what_happens_to_the_cloud(
    base: Base, plugin_of: Callable[..., Plugin], open_tab: Callable[..., Any]
) -> None:
    clouds: list[Stream] = []
    with served(base, plugin_of(), clouds) as server:
        tab = open_tab(server.url)
        clouds[0].close()
        tab.fill("#text", QUESTION)
        tab.keyboard.press("Enter")
        said = idle(tab)
        assert [line for line in said if line.startswith("the cloud is gone")] and "the answer begins anew" in said
        assert "8 tokens" in said[-1]
        with held(server) as asked:
            tab.fill("#text", QUESTION)
            tab.keyboard.press("Enter")
            tab.wait_for_selector("#stop", state="visible")
            assert asked.wait(20)
            tab.fill("#text", "the next")
            tab.keyboard.press("Enter")  # nothing happens, and nothing is lost
            tab.click("#stop")
            tab.wait_for_function("document.getElementById('stop').disabled")
            while not server.chat._stop.wait(0.05):
                tab.wait_for_timeout(50)
        assert idle(tab)[-1].startswith("stopped after ")
        assert tab.input_value("#text") == "the next"
    tab.keyboard.press("Enter")
    assert idle(tab)[-1].startswith("The chat on this machine has ended.")
