"""The chat at the device: what it prints, and what it does when the cloud dies and comes back."""

import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from experiments.serving.cloud import Session, join
from experiments.serving.conversation import serve
from experiments.serving.device import DeviceHalf
from experiments.serving.messages import Piece
from experiments.serving.secure import CloudGone, CloudRefuses, connect
from experiments.serving.terminal import Chat, Terminal, WholeTokens, Wishes
from fl.config import SettingsError
from models.spa.bases import Base
from models.spa.train import Plugin
from tests.experiments.serving.conftest import listening

QUESTION = "What is the name of my dog?"


def piece(text: str, asked: bool = False, degraded: bool = False) -> Piece:
    zeros = dict.fromkeys(("down", "up"), 0) | dict.fromkeys(("base_ms", "call_ms", "side_ms"), 0.0)
    return Piece(text=text, asked=asked, degraded=degraded, score=None, base_guesses=[], guesses=[], **zeros)  # type: ignore[arg-type]


def test_marks_say_who_spoke_and_parts_of_a_character_share_them(capsys: pytest.CaptureFixture[str]) -> None:
    whole, screen = WholeTokens(), Terminal()
    for one in (
        piece("Zo"),
        piece("", asked=True),
        piece("ë"),
        piece(" says", degraded=True),
        piece(""),
        piece("\x1b[2J👩‍🚀"),
    ):
        if shown := whole.add(one):
            screen.show(shown)
    screen.end("")
    assert capsys.readouterr().out == "Zo[ë]{ says}?[2J👩‍🚀\n"  # what could control the terminal is not printed


def test_a_cloud_that_dies_and_comes_back_answers_again(
    base: Base, plugin_of: Callable[..., Plugin], machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    half, clouds, trace = DeviceHalf(plugin_of(), base.checksum, "s1"), ExitStack(), tmp_path / "t" / "trace.csv"
    server = clouds.enter_context(listening(machine, lambda stream, _: serve(base, stream, 20.0)))
    paused: list[float] = []

    def sleep(seconds: float) -> None:  # the cloud comes back while the device waits for the second time
        paused.append(seconds)
        if len(paused) == 2:
            again = listening(machine, lambda stream, _: serve(base, stream, 20.0), server.address[1])
            clouds.enter_context(again)

    class Dying(DeviceHalf):
        """Its cloud dies at the third call."""

        calls = 0

        def answer(self, frame):
            self.calls += frame.kind == "side"
            if self.calls == 3 and frame.kind == "side":
                clouds.close()
            return super().answer(frame)

    def lines() -> Iterator[str]:
        yield QUESTION
        yield "/new"
        yield "x" * 5000  # too long for this base
        yield QUESTION

    dying = Dying(half.plugin, half.checksum, "s1")
    chat = Chat(dying, lambda: connect(server.address, machine), "lab:7070", Wishes(limit=10), trace, sleep)
    with clouds:
        chat.run(lines())
    said = capsys.readouterr().out
    tokens = list(Session(base, *join(base, half), base.prompt(QUESTION)).greedy(10))
    whole = base.text([token.id for token in tokens])
    answers = [line for line in said.splitlines() if line.startswith("[")]
    assert [line.replace("][", "").strip("[]") for line in answers][1:] == [whole, whole]
    assert len(answers[0]) < len(answers[1]) == len(answers[2])  # the first was cut off
    order = ["connecting to lab:7070", "connected: base tiny", "is a toy", "the cloud is gone", "trying again in 1 s"]
    order += ["trying again in 2 s", "connected: base tiny", "the answer begins anew", "10 tokens, 10 with the device"]
    order += ["line 3 is left out: this question has"]
    at = -1
    for part in order:
        assert (at := said.index(part, at + 1)) >= 0
    assert paused[:2] == [1.0, 2.0]
    rows = list(csv.DictReader(trace.read_text().splitlines()))
    assert "".join(row["text"] for row in rows) == 2 * whole
    assert all(row["guesses"].count(" | ") >= 4 for row in rows)
    assert trace.with_suffix(".png").stat().st_size > 1000


def test_a_plugin_of_another_base_and_an_unknown_cloud_are_one_sentence(
    base: Base, plugin_of: Callable[..., Plugin], machine: Path
) -> None:
    half = DeviceHalf(plugin_of(), "0" * 64)
    with listening(machine, lambda stream, _: serve(base, stream, 20.0)) as server:
        chat = Chat(half, lambda: connect(server.address, machine), "here")
        with pytest.raises(CloudRefuses, match="refuses this device: the plugin was made for base 000"):
            chat.run(iter([]))
    with pytest.raises(CloudGone, match="no cloud answers"):
        chat.run(iter([]))


def test_wishes_that_contradict_each_other_are_refused() -> None:
    for impossible in ({"top_p": 0.9}, {"seed": 3}, {"beams": 2, "temperature": 1.0}):
        with pytest.raises(SettingsError, match="--temperature"):
            Wishes(**impossible)  # type: ignore[arg-type]
