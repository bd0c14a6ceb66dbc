"""The user at the device: questions are typed and answers appear where the plugin is. The base is elsewhere."""

import io
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from experiments.serving import messages
from experiments.serving.device import DeviceHalf
from experiments.serving.link import Stream
from experiments.serving.messages import Ask, Declined, Done, Piece, Said, Welcome
from experiments.serving.secure import CloudGone, CloudRefuses, Server, not_refused
from experiments.serving.trace import TraceRow, trace_row, write_trace
from fl.config import SettingsError
from models.spa.codec import Frame, FrameError, TrafficLog
from partitions.errors import one_line

GUESSES = 5  # of base and side for each token, in a trace
PATIENCE_S = 120.0  # longest wait for the cloud's next message
RECONNECT_S, LONGEST_PAUSE_S = 300.0, 10.0

console = Console(highlight=False)


@dataclass(frozen=True)
class Wishes:
    """How the answers are written, as in `experiments.serving.messages.Ask`. Args: seed: None: a new one each time."""

    limit: int = 64
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        drawn = self.top_p != 1 or self.seed is not None
        if drawn and not self.temperature:
            raise SettingsError("--top-p and --sampling-seed need --temperature above 0, which makes answers random")
        if self.beams > 1 and self.temperature:
            raise SettingsError("--beams searches the likeliest answer, --temperature draws one: leave one of them out")

    def ask(self, said: Sequence[Said], guesses: int) -> Ask:
        """Return the message that asks for the next answer."""
        seed = secrets.randbits(62) if self.seed is None else self.seed
        return Ask(
            messages=list(said), limit=self.limit, beams=self.beams, temperature=self.temperature, top_p=self.top_p,
            seed=seed, guesses=guesses,
        )  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """Text of whole characters, and what its tokens cost.

    Args:
        asked: whether the device took part in one of them; degraded: whether it was too late for one.
        down, up: payload bytes that crossed for them; ms: from question to answer, base and device.
    """

    text: str
    asked: bool
    degraded: bool
    down: int
    up: int
    ms: float


class WholeTokens:
    """Joins tokens that are parts of one character."""

    def __init__(self) -> None:
        self._parts: list[Piece] = []

    def add(self, piece: Piece) -> Shown | None:
        """Return what a token completes; None if its character is not whole yet."""
        self._parts.append(piece)
        if not piece.text:
            return None
        parts, self._parts = self._parts, []
        return Shown(
            messages.printable(piece.text), any(part.asked for part in parts), any(part.degraded for part in parts),
            sum(part.down for part in parts), sum(part.up for part in parts),
            sum(part.base_ms + part.call_ms for part in parts),
        )  # fmt: skip


class Screen(Protocol):
    """Where a chat shows what is said. Attributes: marks: how it shows who spoke, in words."""

    marks: str

    def show(self, shown: Shown) -> None:
        """Show the next characters of the answer."""

    def end(self, summary: str) -> None:
        """Show that the answer has ended, and what it took. Args: summary: empty: it was broken off."""

    def refuse(self, why: str) -> None:
        """Show that a question is left out."""

    def note(self, text: str) -> None:
        """Show what is no answer."""


class Terminal:
    """Shows text with marks: [the device took part], {it was too late}."""

    marks = "plain text: the base alone; [brackets]: your device took part; {braces}: it was too late"

    def __init__(self) -> None:
        self._begun = False

    def show(self, shown: Shown) -> None:
        before, after = ("[", "]") if shown.asked else ("{", "}") if shown.degraded else ("", "")
        text = Text(f"{before}{shown.text}{after}", style="bold" if shown.asked else "")
        console.print(text, end="", soft_wrap=True)
        self._begun = True

    def end(self, summary: str) -> None:
        if self._begun:
            console.print()
        self._begun = False
        if summary:
            say(summary)

    def refuse(self, why: str) -> None:
        console.print(why, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        say(text)


@dataclass
class Chat:
    """A conversation through a cloud.

    Args:
        half: the device's plugin.
        connect: opens a connection to the cloud; where: its name for the user.
        wishes: how answers are written.
        trace: file of the trace; None: no trace.
        sleep: waits some seconds between attempts to connect again.
        screen: where answers appear.

    Attributes:
        said: the conversation; welcome: of the cloud, once it is connected.
    """

    half: DeviceHalf
    connect: Callable[[], Stream]
    where: str
    wishes: Wishes = Wishes()
    trace: Path | None = None
    sleep: Callable[[float], None] = time.sleep
    screen: Screen = field(default_factory=Terminal)
    said: list[Said] = field(default_factory=list, init=False)
    welcome: Welcome | None = field(default=None, init=False)
    _stream: Stream | None = field(default=None, init=False)
    _rows: list[TraceRow] = field(default_factory=list, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def run(self, lines: Iterator[str]) -> None:
        """Answer each line. '/new' begins a new conversation.

        Raises:
            CloudGone, CloudRefuses: there is no connection; the message says why.
        """
        self.open()
        try:
            for number, line in enumerate(lines, 1):
                self.reply(number, line)
        finally:
            self.close()

    def reply(self, number: int, line: str) -> None:
        """Answer the line of this number. CloudGone, CloudRefuses: it is impossible, and the line is forgotten."""
        if line == "/new":
            self.said.clear()
            return
        self._stop.clear()
        self.said.append(Said(role="user", content=line))
        try:
            while not self._answered(number):
                self._reconnect()
        except BaseException:
            self.said.pop()
            raise
        if self.trace is not None and self._rows:
            write_trace(self.trace, self._rows)

    def stop(self) -> None:
        """End the answer that is being written, from another thread. What was written stays in the conversation."""
        self._stop.set()

    def open(self) -> None:
        """Connect. CloudGone, CloudRefuses: it is impossible."""
        self.screen.note(f"connecting to {self.where}")
        first, welcome = self.welcome is None, self._connect()
        memory = "" if welcome.history else ", which answers each question by itself"
        self.screen.note(f"connected: base {welcome.base}{memory}")
        if first:
            self.screen.note(f"{self.screen.marks}\n{welcome.note}".strip())

    def _connect(self) -> Welcome:
        stream = self.connect()
        try:
            stream.send(self.half.hello())
            frame, _ = stream.receive(PATIENCE_S, messages.HEAD_BYTES)
            welcome = Welcome.of(not_refused(frame))
        except BaseException as error:
            stream.close()
            if isinstance(error, OSError | EOFError):
                raise CloudGone(f"{self.where} closed the connection ({one_line(error)}); try again later") from None
            if isinstance(error, FrameError):
                raise _foreign(error) from None
            raise
        self._stream, self.welcome = stream, welcome
        return welcome

    def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream.close()

    def _reconnect(self) -> None:
        pause, end = 1.0, time.monotonic() + RECONNECT_S
        while True:
            try:
                self.open()
            except CloudGone as error:
                if self._stop.is_set() or time.monotonic() > end:
                    raise
                self.screen.note(f"{error}; trying again in {pause:.0f} s")
                self.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self.screen.note("the answer begins anew")
                return

    def _answered(self, sentence: int) -> bool:
        """Show the answer to what was said last, and remember it. Return False if the cloud is gone."""
        assert self._stream is not None and self.welcome is not None
        traffic, pieces, whole, done = TrafficLog(), list[Piece](), WholeTokens(), None
        side = self.half.plugin.side
        positions = self.welcome.context if side.attends else messages.MOST_BEAMS
        limit = messages.HEAD_BYTES + 4 * positions * len(side.spec.states) * side.spec.width
        said = self.said if self.welcome.history else self.said[-1:]
        try:
            self._send(self.wishes.ask(said, GUESSES if self.trace else 0).frame(), traffic)
            while not self._stop.is_set():
                frame, wire = self._stream.receive(PATIENCE_S, limit)
                traffic.count("down", frame, wire)
                if frame.kind == Piece.kind():
                    pieces.append(Piece.of(frame))
                    if shown := whole.add(pieces[-1]):
                        self.screen.show(shown)
                elif frame.kind == Done.kind():
                    done = Done.of(frame)
                    break
                elif frame.kind == Declined.kind():
                    self.screen.refuse(f"line {sentence} is left out: {Declined.of(frame).why}")
                    self.said.pop()
                    return True
                elif reply := self.half.answer(not_refused(frame)):
                    traffic.calls += 1
                    self._send(reply, traffic)
        except (OSError, EOFError) as error:
            self._stream.close()
            self.screen.end("")
            self.screen.note(f"the cloud is gone ({one_line(error) or 'no answer'})")
            return False
        except FrameError as error:
            raise _foreign(error) from None
        text = "".join(piece.text for piece in pieces)
        if done is not None:
            self.screen.end(_summary(pieces, done, traffic))
            del self.said[: done.forgotten]
        else:
            self.screen.end(f"stopped after {len(pieces)} tokens")
            self._stream.close()  # which ends the answer in the cloud as well
            with suppress(CloudGone, CloudRefuses):  # if so, the next question says it
                self._connect()
        if done is not None or text:
            self.said.append(Said(role="assistant", content=text))
        else:
            self.said.pop()
        self._rows += [trace_row(sentence, piece) for piece in pieces]
        return True

    def _send(self, frame: Frame, traffic: TrafficLog) -> None:
        assert self._stream is not None
        traffic.count("up", frame, self._stream.send(frame))


def lines() -> Iterator[str]:
    """Yield the lines of input that are not empty, and name those that are not UTF-8."""
    assert isinstance(sys.stdin, io.TextIOWrapper)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if any("\ud800" <= character <= "\udfff" for character in line):
            console.print("this line is not UTF-8 and is left out: " + ascii(line[:80]), markup=False, soft_wrap=True)
        elif line:
            yield line


def _summary(pieces: Sequence[Piece], done: Done, traffic: TrafficLog) -> str:
    asked, degraded = sum(piece.asked for piece in pieces), sum(piece.degraded for piece in pieces)
    base, side, call = (sum(getattr(piece, name) for piece in pieces) for name in ("base_ms", "side_ms", "call_ms"))
    return (
        f"{len(pieces)} tokens, {asked} with the device in {traffic.calls} exchanges"
        + (f", {degraded} DEGRADED" if degraded else "")
        + f"; {done.reused} of {done.prompt} tokens of the prompt known"
        + (f", {done.forgotten} old messages left out" if done.forgotten else "")
        + f"; down {traffic.bytes('down'):,} B + {traffic.framing['down']:,} framing"
        + f", up {traffic.bytes('up'):,} B + {traffic.framing['up']:,}"
        + f"; base {base:.0f} ms, side {side:.0f} ms, network {call - side:.0f} ms"
    )


def _foreign(error: FrameError) -> CloudRefuses:
    return CloudRefuses(f"the cloud sent what this device does not understand ({error}): use the same version on both")


def serve_devices(server: Server, what: str, note: str = "") -> None:
    """Serve until Ctrl-C, with a line about each device that comes or goes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    say(f"{what} for registered devices at {':'.join(map(str, server.address))}; Ctrl-C ends it")
    if note:
        say(note)
    with suppress(KeyboardInterrupt):
        server.run()
    server.close()


def say(text: str) -> None:
    """Print what is not an answer."""
    console.print(text, style="dim", markup=False, soft_wrap=True)
