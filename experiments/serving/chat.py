"""Chat with a base whose answers a device changes. The device is a process that is started here, or runs elsewhere."""

import io
import logging
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from experiments.serving.cloud import Session, Token, accept
from experiments.serving.link import Link, parse_address
from experiments.serving.plugins import make_plugin, plugin_workload, progress_bar
from experiments.serving.trace import TraceRow, trace_row, write_trace
from fl.config import SettingsError
from models.spa.train import load_plugin

GUESSES = 5  # of base and side for each token, in a trace
CONNECT_S = 300  # longest wait for a device's process, whose imports are slow on a busy machine

console = Console(highlight=False)


def run_chat(
    base: str, plugin: Path | None, device: int, seed: int, changes: Mapping[str, str], listen: str,
    device_options: list[str], timeout_s: float, beams: int, limit: int, trace: Path | None,
) -> None:  # fmt: skip
    """Answer each line of input, with a device that is started here or, with ``listen``, one that connects."""
    torch.set_num_threads(1)
    workload = plugin_workload(base, device, seed, changes)
    with progress_bar() as progress:
        model = workload.base(progress)
    address = parse_address(listen or "127.0.0.1:0")
    with tempfile.TemporaryDirectory() as place, socket.create_server(address) as listener:
        process = None
        if not listen:
            file = plugin or Path(place) / "plugin.safetensors"
            if plugin is None:
                make_plugin(workload, device, seed, file)
            elif load_plugin(file)[1]["checksum"] != model.checksum:
                raise SettingsError(f"{file} was made for another base than '{base}'; train one with: spa train --base")
            connect = f"127.0.0.1:{listener.getsockname()[1]}"
            command = ["spa", "device", "--plugin", str(file), "--connect", connect, *device_options]
            process = subprocess.Popen([sys.executable, "-m", "experiments", *command])
        link: Link | None = None
        try:
            console.print(f"waiting for the device at {':'.join(map(str, listener.getsockname()))}", style="dim")
            if process is not None:
                _wait_for(listener, process)
            link, terms = accept(model, listener, timeout_s)
            if process is not None:
                console.print(f"the device is process {process.pid}", style="dim")
                examples = workload.people(seed).examples(device, 0, "test")
                console.print(f"try: {examples[0].instruction}  {examples[-1].instruction}", style="dim")
            rows: list[TraceRow] = []
            for number, line in enumerate(_lines(), 1):
                prompt, room = model.prompt(line), model.context - limit
                if len(prompt) > room:
                    rule = f"the base has room for {max(0, room)}, and {limit} for the answer (--limit)"
                    console.print(f"line {number} has {len(prompt)} tokens and is left out: {rule}", soft_wrap=True)
                    continue
                session = Session(model, link, terms, prompt, GUESSES if trace else 0)
                with _delayed_log():
                    rows += _answer(session, number, limit, beams)
                if trace is not None:
                    write_trace(trace, rows)
                if session.gone and select.select([listener], [], [], 0)[0]:  # the device has connected again
                    link, terms = accept(model, listener, timeout_s)
        finally:
            if link is not None:
                link.close()
            if process is not None:
                _wait_for_end(process)


def _wait_for_end(process: subprocess.Popen) -> None:
    """Wait until a device's process ends, after its connection was closed."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(listener: socket.socket, process: subprocess.Popen) -> None:
    """Wait until the device that was started here connects.

    Raises:
        SettingsError: it does not connect.
    """
    for _ in range(CONNECT_S):
        if select.select([listener], [], [], 1)[0]:
            return
        if process.poll() is not None:
            raise SettingsError("the device's process ended before it connected; its error message is above")
    raise SettingsError(f"no device connected within {CONNECT_S} s")


@contextmanager
def _delayed_log() -> Iterator[None]:
    """Print what the cloud's half logs at the end, not in the middle of a sentence."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    cloud = logging.getLogger(Session.__module__)
    cloud.addHandler(handler)
    try:
        yield
    finally:
        cloud.removeHandler(handler)
        for message in messages:
            console.print(message, style="dim", soft_wrap=True)


def _answer(session: Session, number: int, limit: int, beams: int) -> list[TraceRow]:
    """Print an answer, its traffic and its time; return the trace of sentence ``number``."""
    base, link, tokens, shown = session.base, session.link, list[Token](), ""
    assert link is not None
    before, calls, rows = _bytes(link), link.traffic.calls, list[TraceRow]()
    for token in session.greedy(limit) if beams == 1 else session.beam(limit, beams).tokens:
        tokens.append(token)
        text = base.text([t.id for t in tokens])
        piece, shown = text[len(shown) :] or ("<end>" if token.id == base.end else ""), text
        marks = ("[", "]") if token.asked else ("{", "}") if token.degraded else ("", "")
        console.print(Text(f"{marks[0]}{piece}{marks[1]}", style="bold" if token.asked else ""), end="", soft_wrap=True)
        rows.append(trace_row(base, number, piece, token))
    down, up, down_framing, up_framing = (now - then for now, then in zip(_bytes(link), before, strict=True))
    asked, degraded = sum(t.asked for t in tokens), sum(t.degraded for t in tokens)
    took = [sum(getattr(t, name) for t in tokens) for name in ("base_ms", "side_ms", "call_ms")]
    console.print(
        f"\n{len(tokens)} tokens, {asked} with the device in {link.traffic.calls - calls} exchanges"
        + (f", {degraded} DEGRADED" if degraded else "")
        + f"; down {down:,} B + {down_framing:,} framing, up {up:,} B + {up_framing:,}"
        + f"; base {took[0]:.0f} ms, side {took[1]:.0f} ms, network {took[2] - took[1]:.0f} ms",
        style="dim", soft_wrap=True,
    )  # fmt: skip
    return rows


def _bytes(link: Link) -> list[int]:
    """Return payload down and up, framing down and up."""
    traffic = link.traffic
    return [traffic.bytes("down"), traffic.bytes("up"), traffic.framing["down"], traffic.framing["up"]]


def _lines() -> Iterator[str]:
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
