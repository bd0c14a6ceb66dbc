"""Generation over a connection gives the tokens of generation in one process, in every mode."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.serving.cloud import Session, Terms, join
from experiments.serving.device import DeviceHalf, serve
from experiments.serving.link import DeviceGone, DeviceLate, InProcess, Link, Remote, pair
from experiments.serving.sharing import Turns
from models.spa import bases
from models.spa.bases import Base
from models.spa.codec import Frame, narrow, widen
from models.spa.modes import MODES, mode
from models.spa.side import visibility
from models.spa.train import Plugin

LIMIT = 14
SIDES = [("position-wise", "catch_up"), ("attentive", "catch_up"), ("attentive", "sparse")]
EVERY = [(m, *side) for m, side in product(MODES, SIDES)]


def half_of(base: Base, plugin: Plugin, mode_: str, policy: str, precision: str = "fp32", site: str = "cloud"):
    return DeviceHalf(plugin, base.checksum, mode_, policy, precision, site)  # type: ignore[arg-type]


@torch.inference_mode()
def monolith(base: Base, half: DeviceHalf, prompt: list[int], ids: list[int]) -> Tensor:
    """Logits (V,) of the next token, everything computed anew from all tokens: no cache, no protocol."""
    whole = base.stack(torch.tensor([[*prompt, *ids]]))
    side, gate, b = half.plugin.side, half.plugin.gate, whole[:, :, -1]
    answer = torch.arange(b.shape[1]) >= len(prompt) - 1
    opens = gate.opens(b) if mode(half.mode).gated else torch.ones(b.shape[:2], dtype=torch.bool)
    if not opens[0, -1]:
        return base.head(b[0, -1])
    stack = widen("x", narrow("x", whole[:, :, list(side.spec.states)], half.precision))
    start = [len(prompt) - 1] if half.policy == "sparse" else None
    o = side(stack, visibility(opens & answer, start)).o[0, -1]
    o = widen("x", narrow("x", o, "fp32" if half.precision == "fp32" else "fp16"))
    return base.head(mode(half.mode).merged(b[0, -1], o))


def write_whole(base: Base, half: DeviceHalf, prompt: list[int]) -> list[int]:
    ids: list[int] = []
    while len(ids) < LIMIT and base.end not in ids:
        ids.append(int(monolith(base, half, prompt, ids).argmax()))
    return ids


def beam_whole(base: Base, half: DeviceHalf | None, prompt: list[int], beams: int) -> list[int]:
    """Beam search without caches: (log-probability, ids) and nothing else."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for length in range(1, LIMIT + 1):
        found = []
        for sum_, ids in live:
            logits = monolith(base, half, prompt, ids)
            found += [(sum_ + p, [*ids, id_]) for id_, p in enumerate(logits.log_softmax(-1).tolist())]
        found = sorted(found, key=lambda pair: -pair[0])[: 2 * beams]
        done += [(s / length, ids) for s, ids in found[:beams] if ids[-1] == base.end]
        done = sorted(done, key=lambda pair: -pair[0])[:beams]
        live = [(s, ids) for s, ids in found if ids[-1] != base.end][:beams]
        if len(done) == beams and done[-1][0] >= live[0][0] / length:
            return done[0][1]
    return max([*done, *((s / LIMIT, ids) for s, ids in live)], key=lambda pair: pair[0])[1]


@contextmanager
def over_a_wire(base: Base, half: DeviceHalf, timeout: float = 20.0) -> Iterator[tuple[Link, Terms]]:
    """A device that answers from the other end of a socket."""
    near, far = pair()
    device = threading.Thread(target=serve, args=(half, far))
    device.start()
    try:
        yield Remote(near, timeout), Terms.of(half.hello(), base)
    finally:
        near.close()
        device.join(20)
        far.close()
        assert not device.is_alive()


@pytest.mark.parametrize("mode_,kind,policy", EVERY)
def test_greedy_over_a_wire_is_greedy_in_one_piece(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], mode_: str, kind: str, policy: str
) -> None:
    half = half_of(base, plugin_of(kind), mode_, policy)
    with over_a_wire(base, half) as (link, terms):
        tokens = list(Session(base, link, terms, prompt).greedy(LIMIT))
    assert [token.id for token in tokens] == write_whole(base, half, prompt)
    asked = sum(token.asked for token in tokens)
    assert asked == link.traffic.calls == link.traffic.rows
    assert 0 < asked < len(tokens) if MODES[mode_].gated else asked == len(tokens)
    assert not any(token.degraded for token in tokens)
    assert sum(token.down for token in tokens) == link.traffic.payload["down", "side", "stack"]
    assert sum(token.up for token in tokens) == link.traffic.bytes("up")


@pytest.mark.parametrize("site", ["cloud", "device"])
@pytest.mark.parametrize("mode_,kind,policy", EVERY)
def test_the_base_that_goes_on_says_the_same(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], mode_: str, kind: str, policy: str, site: str
) -> None:
    """It is ready for every token that it guessed while it waited, and leaves the memory as without guesses."""
    half, found = half_of(base, plugin_of(kind), mode_, policy, site=site), []
    for goes_on in ("always", "never"):
        with over_a_wire(base, half) as (link, terms):
            session = Session(base, link, terms, prompt, guesses=1, goes_on=goes_on)  # type: ignore[arg-type]
            tokens = list(session.greedy(LIMIT))
        waited = [t for t in tokens[:-1] if t.asked or (site == "device" and MODES[mode_].gated)]
        right = sum(not t.base_guesses or t.id == t.base_guesses[0] for t in waited)  # none: the base decided alone
        assert session.hidden == right * (goes_on == "always") and session.ahead is None
        told = [(t.id, t.asked, t.down, t.up) for t in tokens]
        assert session.memory.cache.get_seq_length() == len(session.memory.ids)
        found.append((told, session.memory.ids, link.traffic.payload))
    assert found[0] == found[1]


def test_the_base_goes_on_only_if_it_pays_and_forgets_if_nobody_listens(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin]
) -> None:
    half, turns = half_of(base, plugin_of(), "s1", "catch_up"), Turns()
    with over_a_wire(base, half) as (link, terms):
        session = Session(base, link, terms, prompt, turns=turns)
        tokens = session.greedy(LIMIT)
        next(tokens)
        assert session.ahead is None and 0 < link.answer_ms < 20_000  # the first answer: nothing is known of its time
        tokens.close()
        link.answer_ms, session.pass_ms = math.inf, 1.0
        tokens = session.greedy(LIMIT)
        next(tokens)
        assert session.ahead and session.memory.ids == [*prompt, session.ahead[0]]
        tokens.close()  # the user stopped
        assert session.memory.ids == prompt and session.memory.cache.get_seq_length() == len(prompt)
        tokens = session.greedy(LIMIT)
        with turns.turn():
            session._go_on(torch.zeros(1, base.width))
        assert session.ahead is None
        tokens.close()


@pytest.mark.parametrize("mode_,kind,policy", EVERY)
def test_beams_over_a_wire_are_beams_in_one_piece(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], mode_: str, kind: str, policy: str
) -> None:
    half = half_of(base, plugin_of(kind, scale=0.3), mode_, policy)
    with over_a_wire(base, half) as (link, terms):
        sentence = Session(base, link, terms, prompt).beam(LIMIT, 3)
    assert sentence.ids == beam_whole(base, half, prompt, 3)
    assert (
        link.traffic.calls <= LIMIT and link.traffic.calls < link.traffic.rows
    )  # one exchange a step carries all beams that ask


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("kind,policy", SIDES)
def test_narrow_numbers_are_the_same_on_the_wire_in_process_and_in_one_piece(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], precision: str, kind: str, policy: str
) -> None:
    half = half_of(base, plugin_of(kind), "spa", policy, precision)
    with over_a_wire(base, half) as (link, terms):
        wire = [token.id for token in Session(base, link, terms, prompt).greedy(LIMIT)]
    near, terms = join(base, half)
    assert wire == [token.id for token in Session(base, near, terms, prompt).greedy(LIMIT)]
    assert wire == write_whole(base, half, prompt)
    assert near.traffic.payload == link.traffic.payload
    assert not near.traffic.framing and min(link.traffic.framing.values()) > 0


def test_a_gate_on_the_device_decides_alike_and_costs_an_exchange_per_token(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin]
) -> None:
    plugin = plugin_of()
    there, here = (half_of(base, plugin, "spa", "catch_up", site=site) for site in ("device", "cloud"))
    assert not there.hello().tensors
    far, terms = join(base, there)
    near, near_terms = join(base, here)
    at_device = list(Session(base, far, terms, prompt).greedy(LIMIT))
    at_cloud = list(Session(base, near, near_terms, prompt).greedy(LIMIT))
    assert [(t.id, t.asked) for t in at_device] == [(t.id, t.asked) for t in at_cloud]
    assert far.traffic.calls == len(at_device) + near.traffic.calls
    assert far.traffic.payload["down", "gate", "b"] == len(at_device) * base.width * 4


def test_guesses_are_those_of_the_base_and_of_what_was_said(
    base: Base, plugin_of: Callable[..., Plugin], prompt: list[int]
) -> None:
    half = DeviceHalf(plugin_of(scale=8.0), base.checksum)
    tokens = list(Session(base, *join(base, half), prompt, guesses=3).greedy(12))
    plain = list(Session(base, *join(base, half), prompt).greedy(12))
    assert [t.id for t in tokens] == [t.id for t in plain] == [t.guesses[0] for t in tokens]
    assert all(len(t.guesses) == len(t.base_guesses) == 3 for t in tokens)
    assert all(t.guesses == t.base_guesses for t in tokens if not t.asked)
    assert any(t.guesses != t.base_guesses for t in tokens)
    so_far = list(prompt)
    for token in tokens:
        logits = base.head(base.stack(torch.tensor([so_far]))[0, -1, -1])
        assert tuple(logits.topk(3).indices.tolist()) == token.base_guesses
        so_far.append(token.id)


@pytest.mark.parametrize("kind,policy", SIDES)
def test_a_long_prompt_in_parts_gives_the_same_tokens(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], kind: str, policy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The states of no more than a part are in memory, and a turn is one part."""
    half, parts, stack = half_of(base, plugin_of(kind), "spa", policy), list[int](), type(base).stack
    whole = [token.id for token in Session(base, *join(base, half), prompt).greedy(LIMIT)]
    monkeypatch.setattr("experiments.serving.cloud.PREFILL", 3)

    def noted(self: Base, ids: Tensor, cache: object = None) -> Tensor:
        parts.append(ids.shape[1])
        return stack(self, ids, cache)

    monkeypatch.setattr(type(base), "stack", noted)
    assert [token.id for token in Session(base, *join(base, half), prompt).greedy(LIMIT)] == whole
    assert max(parts) == 3 and sum(parts) == len(prompt) + len(whole) - 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_base_in_half_precision_serves_the_same_plugins(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], dtype: bases.Dtype
) -> None:
    """It is the same base to a plugin, takes half the memory, and speaks float32 to everything around it."""
    half = bases._load(base.name, Path(base.model.name_or_path), dtype)
    assert half.checksum == base.checksum and half.head.weight.dtype == getattr(torch, dtype)
    ids = torch.tensor([prompt])
    stack, exact = half.stack(ids), base.stack(ids)
    assert stack.dtype == half.logits(stack[:, :, -1]).dtype == torch.float32
    assert float((stack - exact).norm() / exact.norm()) < 0.05
    tokens = list(Session(half, *join(half, half_of(half, plugin_of(), "s1", "catch_up")), prompt).greedy(4))
    assert len(tokens) == 4 and all(token.asked for token in tokens)


def test_without_a_device_the_loop_is_the_librarys(base: Base, prompt: list[int]) -> None:
    ids = torch.tensor([prompt])
    how = {"max_new_tokens": LIMIT, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    ours = [token.id for token in Session(base, None, None, prompt).greedy(LIMIT)]
    assert ours == base.model.generate(ids, **how)[0, len(prompt) :].tolist()
    for beams in (2, 4):
        ours = Session(base, None, None, prompt).beam(LIMIT, beams).ids
        assert ours == base.model.generate(ids, num_beams=beams, **how)[0, len(prompt) :].tolist()


class Breaking(InProcess):
    """A link that fails from a call on, or for one call only."""

    def __init__(self, half: DeviceHalf, at: int, error: Exception, once: bool = False):
        super().__init__(half.answer)
        self.at, self.error, self.once = at, error, once

    def call(self, frame: Frame, meanwhile: Callable[[], None] = lambda: None) -> Frame:
        broken = self.traffic.calls == self.at if self.once else self.traffic.calls >= self.at
        reply = super().call(frame)  # a late device has done the work
        if broken:
            raise self.error
        return reply


@pytest.mark.parametrize("kind,policy", SIDES)
def test_a_device_that_goes_leaves_a_finished_marked_sentence(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], kind: str, policy: str, caplog
) -> None:
    half = half_of(base, plugin_of(kind), "s1", policy)
    link = Breaking(half, 3, DeviceGone("pulled"))
    tokens = list(Session(base, link, Terms.of(half.hello(), base), prompt).greedy(LIMIT))
    assert [t.asked for t in tokens[:3]] == [True] * 3
    assert all(t.degraded and not t.asked for t in tokens[3:]) and len(tokens) > 3
    assert link.traffic.calls == 4  # it is not asked again
    assert "degraded" in caplog.text
    kept = [t.id for t in tokens[:3]]
    alone = [t.id for t in Session(base, None, None, [*prompt, *kept]).greedy(LIMIT - 3)]
    assert [t.id for t in tokens[3:]] == alone


def test_a_device_that_was_late_once_catches_up(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin]
) -> None:
    half = half_of(base, plugin_of("attentive"), "s1", "catch_up")
    link = Breaking(half, 2, DeviceLate("slow"), once=True)
    ids = [t.id for t in Session(base, link, Terms.of(half.hello(), base), prompt).greedy(LIMIT)]
    by_base = int(base.head(base.stack(torch.tensor([[*prompt, *ids[:2]]]))[0, -1, -1]).argmax())
    assert ids[2] == by_base
    for at in range(3, len(ids)):  # as if it had been there all the time
        assert ids[at] == int(monolith(base, half, prompt, ids[:at]).argmax())


def test_a_late_device_on_a_wire_is_given_up_token_by_token(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin]
) -> None:
    half = half_of(base, plugin_of(), "s1", "catch_up")
    with over_a_wire(base, half, timeout=0.5) as (link, terms):
        session = Session(base, link, terms, prompt).greedy(4)
        first = next(session)
        half.delay = 0.8
        second = next(session)
        half.delay = 0.0
        rest = list(session)
    assert first.asked and second.degraded and all(token.asked for token in rest)


def test_a_delay_is_one_per_exchange(
    base: Base, prompt: list[int], plugin_of: Callable[..., Plugin], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("experiments.serving.device.time.sleep", slept.append)
    half = half_of(base, plugin_of(), "s1", "catch_up")
    half.delay = 0.1
    tokens = list(Session(base, *join(base, half), prompt).greedy(5))
    assert slept == [0.1] * len(tokens) == [0.1] * 5  # no delay for frames without an answer
