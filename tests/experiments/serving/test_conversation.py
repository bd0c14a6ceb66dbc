"""A cloud answers conversations of several devices; whatever a device sends wrong costs that device alone."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from experiments.serving.cloud import Draw, Memory, Session, Terms, join
from experiments.serving.conversation import WholeCharacters, serve
from experiments.serving.device import DeviceHalf
from experiments.serving.link import Stream, pair
from experiments.serving.messages import Ask, Done, Piece, Refused, Said, Welcome
from experiments.serving.secure import connect
from experiments.serving.sharing import Turns
from models.spa.bases import Base
from models.spa.codec import PREFIX, Frame, FrameError
from models.spa.train import Plugin
from tests.experiments.serving.conftest import listening

TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<assistant>' }}{{ m.content }}"
    "{{ '' if m.role == 'user' else '<end>' }}{% endfor %}<assistant>"
)
QUESTIONS = ["What is my name?", "Who is my friend?", "What is the capital of Spain?"]


@pytest.fixture(scope="module")
def talker(base: Base) -> Base:
    """A base that remembers what was said."""
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return replace(base, name="talker", tokenizer=tokenizer)


def question(*texts: str, **how: Any) -> Ask:
    roles = ("user", "assistant")
    return Ask(messages=[Said(role=roles[i % 2], content=t) for i, t in enumerate(texts)], **how)  # type: ignore[arg-type]


def first_reply(stream: Stream, half: DeviceHalf) -> Frame:
    """Begin a conversation, and return the device's answer to the first thing that the cloud asks it."""
    stream.send(half.hello())
    stream.receive()
    stream.send(question(QUESTIONS[0], limit=4).frame())
    reply = half.answer(stream.receive()[0])
    assert reply is not None
    return reply


@contextmanager
def connected(base: Base, timeout: float = 20.0) -> Iterator[tuple[Stream, list[BaseException]]]:
    """A cloud in a thread; the list gets what its end of the connection raises."""
    near, far = pair()
    raised: list[BaseException] = []

    def cloud() -> None:
        try:
            serve(base, near, timeout)
        except (FrameError, EOFError, OSError) as error:
            raised.append(error)
        near.close()

    thread = threading.Thread(target=cloud)
    thread.start()
    try:
        yield far, raised
    finally:
        far.close()
        thread.join(20)
        assert not thread.is_alive()


def answer(stream: Stream, half: DeviceHalf, ask: Ask) -> tuple[list[Piece], Done]:
    stream.send(ask.frame())
    pieces: list[Piece] = []
    while True:
        frame, _ = stream.receive()
        if frame.kind == "piece":
            pieces.append(Piece.of(frame))
        elif frame.kind == "done":
            return pieces, Done.of(frame)
        elif reply := half.answer(frame):
            stream.send(reply)
        else:
            raise AssertionError(frame)


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    "kind,policy", [("position-wise", "catch_up"), ("attentive", "catch_up"), ("attentive", "sparse")]
)
def test_a_conversation_continues_where_it_was_and_says_the_same(
    talker: Base, plugin_of: Callable[..., Plugin], kind: str, policy: str
) -> None:
    def half() -> DeviceHalf:
        return DeviceHalf(plugin_of(kind), talker.checksum, "spa", policy, "fp32")  # type: ignore[arg-type]

    device, said = half(), list[str]()
    with connected(talker) as (stream, _):
        stream.send(device.hello())
        assert Welcome.of(stream.receive()[0]).history
        for number, line in enumerate(QUESTIONS):
            said.append(line)
            pieces, done = answer(stream, device, question(*said, limit=10))
            with connected(talker) as (anew, _):  # no memory: the whole prompt is computed
                fresh = half()
                anew.send(fresh.hello())
                anew.receive()
                again, first = answer(anew, fresh, question(*said, limit=10))
            assert first.reused == 0 and done.prompt == first.prompt
            assert number == 0 or done.reused > done.prompt / 2
            assert [(p.text, p.asked) for p in pieces] == [(p.text, p.asked) for p in again]
            said.append(text(pieces))
        answer(stream, device, question("Something else?", limit=4, beams=2))
        last, _ = answer(stream, device, question("Something else?", limit=6))
    with connected(talker) as (stream, _):
        device = half()
        stream.send(device.hello())
        stream.receive()
        assert text(answer(stream, device, question("Something else?", limit=6))[0]) == text(last)


def test_old_messages_are_left_out_when_there_is_no_room(talker: Base, plugin_of: Callable[..., Plugin]) -> None:
    half = DeviceHalf(plugin_of(), talker.checksum)
    with connected(talker) as (stream, _):
        stream.send(half.hello())
        stream.receive()
        pieces, done = answer(stream, half, question("word " * 200, "yes", "Who am I?", limit=8))
        assert done.forgotten == 2
        assert text(pieces) == text(answer(stream, half, question("Who am I?", limit=8))[0])
        stream.send(question("word " * 300, limit=8).frame())
        frame, _ = stream.receive()
        assert frame.kind == "declined" and "the base has room for 248, and 8 for the answer" in frame.head["why"]
        assert answer(stream, half, question("Who am I?", limit=8))[1].forgotten == 0


def test_random_answers_are_those_of_their_seed(base: Base, prompt: list[int]) -> None:
    def drawn(seed: int, top_p: float = 1.0, temperature: float = 1.5) -> list[int]:
        draw = Draw(temperature, top_p, torch.Generator().manual_seed(seed))
        return [token.id for token in Session(base, None, None, prompt).greedy(12, draw)]

    likeliest = [token.id for token in Session(base, None, None, prompt).greedy(12)]
    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, top_p=1e-6) == drawn(3, temperature=1e-3) == likeliest
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = {Draw(1.0, 0.7, torch.Generator().manual_seed(seed))(logits) for seed in range(60)}
    assert draws == {0, 1}  # 0.64 and 0.24: the smallest set with 0.7


@pytest.mark.parametrize(
    "said", ["Zoë says héllo", "日本語 👩‍🚀!", "a\N{REPLACEMENT CHARACTER}b", "naïve\N{REPLACEMENT CHARACTER}"]
)
def test_pieces_are_whole_characters(base: Base, said: str) -> None:
    words, ids = WholeCharacters(base), base.tokenizer(said, add_special_tokens=False).input_ids
    pieces = [words.add(id_, last=at == len(ids) - 1) for at, id_ in enumerate(ids)]
    assert "".join(pieces) == said
    if "\N{REPLACEMENT CHARACTER}" not in said:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def raw(kind: Any, head: str, tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    """A frame with any text as its head."""
    blob = save(tensors or {}, {"kind": kind, "head": head})
    return PREFIX.pack(len(blob)) + blob


def hello(half: DeviceHalf, **changed: Any) -> tuple[str, dict[str, torch.Tensor]]:
    frame = half.hello()
    return json.dumps({**frame.head, **changed}), dict(frame.tensors)


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda h, t: ("[]", t), "its head is list"),
        (lambda h, t: ("5", t), "its head is int"),
        (lambda h, t: ("[" * 10_000, t), "cannot be read"),
        (lambda h, t: ("{}", t), "'checksum' of a 'hello' is wrong: Field required"),
        (lambda h, t: (h.replace('"tau": 0.0', '"tau": 1e999'), t), "'tau' of a 'hello'"),
        (lambda h, t: (h.replace('"tau": 0.0', '"tau": NaN'), t), "'tau' of a 'hello'"),
        (lambda h, t: (h.replace('"tau": 0.0', '"tau": [0]'), t), "'tau' of a 'hello'"),
        (lambda h, t: (h.replace('"states": [', '"states": [9, '), t), "states .* are not of a base with 4 layers"),
        (lambda h, t: (h.replace('"states": [', '"states": ["x", '), t), "'states.0' of a 'hello'"),
        (lambda h, t: (h.replace('"mode": "spa"', '"mode": "s9"'), t), "'mode' of a 'hello'"),
        (lambda h, t: (h.replace('"mode"', '"more": 1, "mode"'), t), "'more' of a 'hello'"),
        (lambda h, t: (h, {}), "tensor 'weight' of a 'hello' .* it is missing"),
        (lambda h, t: (h, {**t, "weight": t["weight"][:5]}), r"of shape \(96,\), it is torch.float32 of shape \(5,\)"),
        (lambda h, t: (h, {**t, "weight": t["weight"] * NAN}), "not finite"),
        (lambda h, t: (h, {**t, "bias": t["bias"].long()}), "tensor 'bias' .* it is torch.int64"),
        (lambda h, t: (h, {**t, "more": torch.zeros(2**16)}), "a frame has .* bytes, the limit is"),
    ],
)  # fmt: skip
def test_an_impossible_hello_is_refused_by_name(
    base: Base, plugin_of: Callable[..., Plugin], change: Callable[..., Any], why: str
) -> None:
    head, tensors = change(*hello(DeviceHalf(plugin_of(), base.checksum), tau=0.0))
    with connected(base) as (stream, raised), pytest.raises((EOFError, OSError)):
        stream.wire.write(raw("hello", head, tensors))
        stream.receive()
    with pytest.raises(FrameError, match=why):
        raise raised[0]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (Frame("ask", {}), "'messages' of a 'ask' is wrong: Field required"),
        (Frame("ask", {**question("x").model_dump(), "messages": []}), "'messages' of a 'ask'"),
        (Frame("ask", {**question("x").model_dump(), "limit": 0}), "'limit' of a 'ask'"),
        (Frame("ask", {**question("x").model_dump(), "beams": 1000}), "'beams' of a 'ask'"),
        (Frame("ask", {**question("x").model_dump(), "temperature": float("inf")}), "'temperature' of a 'ask'"),
        (question("x", "y").frame(), "must begin and end with a message of the user"),
        (question("x" * 10**6).frame(), "a frame has .* bytes, the limit is"),
        (Frame("hello"), "a 'ask' was expected, a 'hello' came"),
    ],
)
def test_an_impossible_question_is_refused_by_name(
    base: Base, plugin_of: Callable[..., Plugin], frame: Frame, why: str
) -> None:
    with connected(base) as (stream, raised):
        stream.send(DeviceHalf(plugin_of(), base.checksum).hello())
        stream.receive()
        with pytest.raises((EOFError, OSError)):
            stream.send(frame)
            stream.receive()
    with pytest.raises(FrameError, match=why):
        raise raised[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: raw("output", "[]", dict(f.tensors)), "its head is list"),
        (lambda f: raw("output", json.dumps(f.head)), "tensor 'o' of a 'output' .* it is missing"),
        (lambda f: raw("output", json.dumps(f.head), {"o": f.tensors["o"][:, :3]}), r"of shape \(1, 3\)"),
        (lambda f: raw("output", json.dumps(f.head), {"o": f.tensors["o"] * NAN}), "not finite"),
        (lambda f: raw("output", json.dumps({**f.head, "ms": -1}), dict(f.tensors)), "'ms' of a 'output'"),
        (lambda f: raw("output", json.dumps({"seq": f.head["seq"]})[:-1] + ', "ms": 1e999}'), "'ms' of a 'output'"),
        (lambda f: raw("output", json.dumps({**f.head, "ms": [1]}), dict(f.tensors)), "'ms' of a 'output'"),
        (lambda f: raw("opens", json.dumps({**f.head}), dict(f.tensors)), "a 'output' was expected, a 'opens' came"),
        (lambda f: PREFIX.pack(2**30), "a frame has 1073741824 bytes, the limit is"),
        (lambda f: PREFIX.pack(5) + b"hello", "cannot be read"),
    ],
)  # fmt: skip
def test_an_impossible_answer_is_refused_by_name(
    base: Base, plugin_of: Callable[..., Plugin], change: Callable[[Frame], bytes], why: str
) -> None:
    half = DeviceHalf(plugin_of(), base.checksum, "s1")
    with connected(base) as (stream, raised):
        reply = first_reply(stream, half)
        stream.wire.write(change(reply))
        with pytest.raises((EOFError, OSError)):
            stream.receive()
    with pytest.raises(FrameError, match=why):
        raise raised[0]


def test_a_gate_on_the_device_must_answer_for_each_token(base: Base, plugin_of: Callable[..., Plugin]) -> None:
    half = DeviceHalf(plugin_of(), base.checksum, gate_site="device")
    with connected(base) as (stream, raised):
        reply = first_reply(stream, half)
        stream.send(Frame("opens", {**reply.head, "opens": []}))
        with pytest.raises((EOFError, OSError)):
            stream.receive()
    with pytest.raises(FrameError, match="must have 1 entries"):
        raise raised[0]


def test_the_device_names_what_a_cloud_may_not_ask(base: Base, plugin_of: Callable[..., Plugin]) -> None:
    half = DeviceHalf(plugin_of("attentive"), base.checksum)
    stack = torch.zeros(1, 3, base.width)
    for head, tensors, why in (
        ({"seq": 1, "rows": [{"key": "7.0", "count": 1, "at": 0}], "keep": []}, {"stack": stack}, "continue '7.0'"),
        ({"seq": 1, "rows": [{"key": None, "count": 2, "at": 0}], "keep": []}, {"stack": stack}, r"shape \(2, 3, 96\)"),
        ({"seq": 1, "rows": [], "keep": []}, {"stack": stack}, "'rows' of a 'side'"),
    ):
        with pytest.raises(FrameError, match=why):
            half.answer(Frame("side", head, tensors))


def test_a_late_device_costs_itself_a_token_and_its_late_answer_is_dropped(
    base: Base, plugin_of: Callable[..., Plugin]
) -> None:
    half = DeviceHalf(plugin_of(), base.checksum, "s1")
    with connected(base, timeout=0.1) as (stream, _):
        stream.send(half.hello())
        stream.receive()
        stream.send(question(QUESTIONS[0], limit=1).frame())
        late = half.answer(stream.receive()[0])
        assert late is not None
        piece = Piece.of(stream.receive()[0])
        assert piece.degraded and not piece.asked
        Done.of(stream.receive()[0])
        stream.send(late)
        half.answer(Frame("nothing"))
        pieces, _ = answer(stream, half, question(QUESTIONS[1], limit=3))
        assert len(pieces) == 3


def test_many_devices_at_one_cloud_and_a_dead_one(base: Base, plugin_of: Callable[..., Plugin], machine: Path) -> None:
    """Twenty connected devices get what each gets alone; one leaves in mid-sentence, one sends nonsense."""
    half = DeviceHalf(plugin_of(), base.checksum)
    alone = {line: [t.id for t in Session(base, *join(base, half), base.prompt(line)).greedy(8)] for line in QUESTIONS}
    said: dict[int, str] = {}
    turns = Turns()

    with listening(machine, lambda stream, _: serve(base, stream, 20.0, turns)) as server:
        streams = [connect(server.address, machine) for _ in range(22)]
        for stream in streams:
            stream.send(half.hello())
            Welcome.of(stream.receive()[0])
        for stream in streams[20:]:
            stream.send(question(QUESTIONS[0], limit=200).frame())
            stream.receive()
        streams[20].close()
        streams[21].wire.write(raw("output", "[]"))
        while (frame := streams[21].receive()[0]).kind != "refused":
            pass
        assert "its head is list" in Refused.of(frame).why

        def one(number: int) -> None:
            mine = DeviceHalf(half.plugin, base.checksum)
            ask = question(QUESTIONS[number % 3], limit=8)
            said[number] = text(answer(streams[number], mine, ask)[0])

        threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for stream in streams:
        stream.close()
    assert said == {n: base.text(alone[QUESTIONS[n % 3]]) for n in range(20)}


def test_memory_keeps_the_common_beginning(base: Base) -> None:
    memory = Memory()
    list(Session(base, None, None, [5, 6, 7, 8], memory=memory).greedy(1))
    assert memory.ids == [5, 6, 7, 8]
    assert memory.keep([5, 6, 7, 8]) == 3  # the last token is computed again
    assert memory.keep([5, 9, 7]) == 1 and memory.ids == [5] and memory.cache.get_seq_length() == 1


def test_terms_name_the_other_base(base: Base, plugin_of: Callable[..., Plugin]) -> None:
    half = DeviceHalf(plugin_of(), "0" * 64)
    with pytest.raises(FrameError, match="made for base 000000000000..., this cloud has tiny, .*spa train --base tiny"):
        Terms.of(half.hello(), base)


def test_every_end_token_of_the_model_ends_an_answer(
    base: Base, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [token.id for token in Session(base, None, None, prompt).greedy(12)]
    monkeypatch.setattr(base.model.generation_config, "eos_token_id", [base.end, whole[4]])
    first = whole.index(whole[4])
    assert [token.id for token in Session(base, None, None, prompt).greedy(12)] == whole[: first + 1]
    assert base.ends == {base.end, whole[4]}
