"""The cloud's half: the base, and generation that asks a device about tokens for which the gate opens.

Generation is an explicit decode loop with the library's cache, because gate and merge come between the base's layers
and its head. The side changes only logits. So the base's cache depends on tokens alone, and is valid whether the device
was asked about a token or not. If a device is late or gone, the base chooses the token alone, and the token is marked.
"""

import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from logging import getLogger
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache

from experiments.serving.device import DeviceHalf, GateSite
from experiments.serving.link import DeviceGone, DeviceLate, InProcess, Link, Remote, Stream
from models.spa.bases import Base
from models.spa.codec import Frame, FrameError, Precision, narrow, widen
from models.spa.gate import Gate
from models.spa.modes import Mode, mode
from models.spa.train import Policy

log = getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """How to ask a device, read from its hello.

    Args:
        gate: None if it stays on the device.
        others: as in `experiments.serving.device.DeviceHalf`, and of its side.
    """

    mode: Mode
    states: tuple[int, ...]
    attends: bool
    policy: Policy
    precision: Precision
    gate_site: GateSite
    gate: Gate | None

    @classmethod
    def of(cls, hello: Frame, base: Base) -> "Terms":
        """Read the terms of a hello.

        Raises:
            ValueError: this cloud cannot meet them; the message says why.
        """
        head = hello.head
        if hello.kind != "hello" or head.get("checksum") != base.checksum:
            raise ValueError(
                f"the plugin was made for base {str(head.get('checksum'))[:12]}..., this is {base.checksum[:12]}..."
            )
        states, gate = tuple(int(n) for n in head["states"]), None
        if not states or states[-1] != base.layers or not all(0 <= n <= base.layers for n in states):
            raise ValueError(f"states {states} are not of a base with {base.layers} layers, ending with the last")
        if head["gate_site"] == "cloud":
            weight, bias = hello.tensors["weight"].float(), hello.tensors["bias"].float()
            if weight.shape != (base.width,):
                raise ValueError(f"the gate has shape {tuple(weight.shape)}, the base has width {base.width}")
            gate = Gate(weight, bias, float(head["tau"]))
        attends, policy, precision = bool(head["attends"]), head["policy"], head["precision"]
        return cls(mode(head["mode"]), states, attends, policy, precision, head["gate_site"], gate)


@dataclass(frozen=True)
class Token:
    """One generated token and its cost.

    Args:
        asked: whether the device took part; degraded: whether it should have, but was late or gone.
        score: a, the gate's score; NaN without a gate.
        down, up: payload bytes; base_ms: of the base's pass; call_ms: wait for the device, of which side_ms there.
        base_guesses, guesses: the most likely tokens of the base alone, and with the side if it was asked.
    """

    id: int
    asked: bool
    degraded: bool
    score: float
    down: int
    up: int
    base_ms: float
    call_ms: float
    side_ms: float
    base_guesses: tuple[int, ...] = ()
    guesses: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """A sentence, or the beginning of one in beam search.

    Args:
        log_probability: of its tokens; key: of the device's cache for it; unsent: (n, S, d) states of its last
            positions that the device has not received.
    """

    tokens: tuple[Token, ...] = ()
    log_probability: float = 0.0
    key: str | None = None
    unsent: Tensor | None = None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


_SEQUENCE = itertools.count(1)


@dataclass
class Session:
    """Generation of one sentence.

    Args:
        link: to the device; None: the base generates alone.
        terms: of that device.
        guesses: number of most likely tokens to record with each token.
    """

    base: Base
    link: Link | None
    terms: Terms | None
    prompt: Sequence[int]
    guesses: int = 0
    gone: bool = False
    _cache: DynamicCache = field(default_factory=DynamicCache)
    _length: int = 0

    def greedy(self, limit: int) -> Iterator[Token]:
        """Yield tokens one by one, up to and including the end token."""
        hypotheses, new = [Hypothesis()], torch.tensor([list(self.prompt)])
        for _ in range(limit):
            logits, hypotheses, (token,) = self._step(hypotheses, new)
            token = replace(token, id=int(logits[0].argmax()))
            self._report([token.id])
            yield token
            if token.id == self.base.end:
                return
            new = torch.tensor([[token.id]])

    def beam(self, limit: int, beams: int, length_penalty: float = 1.0) -> Hypothesis:
        """Return the sentence with the highest log-probability / length ** length_penalty that beam search finds."""
        live, new, done = [Hypothesis()], torch.tensor([list(self.prompt)]), list[tuple[float, Hypothesis]]()
        for length in range(1, limit + 1):
            logits, live, drafts = self._step(live, new)
            total = logits.log_softmax(-1) + torch.tensor([[w.log_probability] for w in live])
            best, at = total.flatten().topk(2 * beams)
            going: list[Hypothesis] = []
            parents: list[int] = []
            for rank, (sum_, index) in enumerate(zip(best.tolist(), at.tolist(), strict=True)):
                parent, id_ = divmod(index, logits.shape[1])
                token = replace(drafts[parent], id=id_)
                longer = replace(live[parent], tokens=(*live[parent].tokens, token), log_probability=sum_)
                if id_ != self.base.end:
                    going.append(longer)
                    parents.append(parent)
                elif rank < beams:
                    done.append((sum_ / length**length_penalty, longer))
            live, parents = going[:beams], parents[:beams]
            done = sorted(done, key=lambda pair: -pair[0])[:beams]
            if len(done) == beams and done[-1][0] >= live[0].log_probability / length**length_penalty:
                break
            self._cache.reorder_cache(torch.tensor(parents))  # type: ignore[arg-type]
            new = torch.tensor([[w.tokens[-1].id] for w in live])
        else:
            done += [(w.log_probability / limit**length_penalty, w) for w in live]
        sentence = max(done, key=lambda pair: pair[0])[1]
        self._report(sentence.ids)
        return sentence

    @torch.inference_mode()
    def _step(self, hypotheses: list[Hypothesis], new: Tensor) -> tuple[Tensor, list[Hypothesis], list[Token]]:
        """Return logits (k, V) after ``new`` (k, n) tokens, updated hypotheses, and each next token without its id."""
        started = time.perf_counter()
        whole = self.base.stack(new, self._cache)
        self._length += new.shape[1]
        b = whole[:, -1, -1]
        base_ms = 1e3 * (time.perf_counter() - started)
        drafts = [Token(-1, False, False, float("nan"), 0, 0, base_ms, 0.0, 0.0) for _ in hypotheses]
        if self.terms is None:
            return self.base.head(b), hypotheses, drafts
        hypotheses = self._add_unsent(hypotheses, whole[:, :, list(self.terms.states)])
        asked = list(range(len(hypotheses)))
        try:
            asked, drafts = self._opens(b, drafts)
            h, hypotheses, drafts = self._ask(b, asked, hypotheses, drafts)
        except (DeviceLate, DeviceGone) as error:
            if not self.gone:
                log.warning("degraded: %s; the base continues alone", error)
            self.gone |= isinstance(error, DeviceGone)
            return self.base.head(b), hypotheses, [replace(d, degraded=i in asked) for i, d in enumerate(drafts)]
        logits = self.base.head(h)
        if self.guesses:
            tops = [x.topk(self.guesses).indices.tolist() for x in (self.base.head(b), logits)]
            drafts = [replace(d, base_guesses=(*x,), guesses=(*y,)) for d, x, y in zip(drafts, *tops, strict=True)]
        return logits, hypotheses, drafts

    def _add_unsent(self, hypotheses: list[Hypothesis], stack: Tensor) -> list[Hypothesis]:
        """Add new states (k, n, S, d) to the unsent ones; without catch-up keep only the last."""
        assert self.terms is not None
        if not (self.terms.attends and self.terms.policy == "catch_up"):
            return [replace(w, unsent=stack[i, -1:]) for i, w in enumerate(hypotheses)]
        old = [stack[i, :0] if w.unsent is None else w.unsent for i, w in enumerate(hypotheses)]
        return [replace(w, unsent=torch.cat([old[i], stack[i]])) for i, w in enumerate(hypotheses)]

    def _opens(self, b: Tensor, drafts: list[Token]) -> tuple[list[int], list[Token]]:
        """Return the rows of b (k, d) about which the device is asked."""
        terms = self.terms
        assert terms is not None
        if not terms.mode.gated:
            return list(range(len(b))), drafts
        if terms.gate is not None:
            opens, scores = terms.gate.opens(b).tolist(), terms.gate.score(b).tolist()
        else:
            frame = Frame("gate", {"seq": next(_SEQUENCE)}, narrow("b", b, _narrower(terms.precision)))
            reply, took = self._call(frame)
            opens, scores = reply.head["opens"], reply.head["scores"]
            each = frame.payload // len(b)
            drafts = [replace(d, down=d.down + each, call_ms=d.call_ms + took) for d in drafts]
        drafts = [replace(d, score=score) for d, score in zip(drafts, scores, strict=True)]
        return [i for i, open_ in enumerate(opens) if open_], drafts

    def _ask(
        self, b: Tensor, asked: list[int], hypotheses: list[Hypothesis], drafts: list[Token]
    ) -> tuple[Tensor, list[Hypothesis], list[Token]]:
        """Return the head's input (k, d): merged for the rows asked about, in one exchange for all of them, else b."""
        terms, link = self.terms, self.link
        assert terms is not None and link is not None
        if not asked:
            return b, hypotheses, drafts
        unsent = {i: cast(Tensor, hypotheses[i].unsent) for i in asked}
        rows = [{"key": hypotheses[i].key, "count": len(x), "at": self._length - len(x)} for i, x in unsent.items()]
        head = {"seq": next(_SEQUENCE), "rows": rows, "keep": sorted({w.key for w in hypotheses if w.key})}
        stack = torch.cat(list(unsent.values()))
        frame = Frame("side", head, narrow("stack", stack, terms.precision))
        link.traffic.rows += len(asked)
        reply, took = self._call(frame)
        o = widen("o", reply.tensors)
        h, hypotheses = b.clone(), list(hypotheses)
        for row, i in enumerate(asked):
            h[i] = terms.mode.merged(b[i], o[row])
            key = f"{head['seq']}.{row}" if terms.attends else None
            hypotheses[i] = replace(hypotheses[i], key=key, unsent=None)
            down = frame.payload * len(unsent[i]) // len(stack)
            drafts[i] = replace(
                drafts[i], asked=True, down=drafts[i].down + down, up=reply.payload // len(asked),
                call_ms=drafts[i].call_ms + took, side_ms=float(reply.head["ms"]),
            )  # fmt: skip
        return h, hypotheses, drafts

    def _call(self, frame: Frame) -> tuple[Frame, float]:
        """Return the device's answer, and the milliseconds that it took."""
        if self.gone or self.link is None:
            raise DeviceGone("the device is gone")
        started = time.perf_counter()
        reply = self.link.call(frame)
        return reply, 1e3 * (time.perf_counter() - started)

    def _report(self, ids: list[int]) -> None:
        """Send the generated tokens to the device."""
        if self.link is None or self.gone:
            return
        try:
            self.link.send(Frame("tokens", {"ids": ids}))
        except DeviceGone as error:
            self.gone = True
            log.warning("%s", error)


def _narrower(precision: Precision) -> Precision:
    """Return the precision of b for a gate on the device: float16 at least."""
    return "fp32" if precision == "fp32" else "fp16"


def join(base: Base, half: DeviceHalf) -> tuple[Link, Terms]:
    """Connect to a device in this process."""
    return InProcess(half.answer), Terms.of(half.hello(), base)


def accept(base: Base, listener: socket.socket, timeout: float) -> tuple[Link, Terms]:
    """Wait for a device that this cloud can serve. Others are refused with the reason."""
    while True:
        stream = Stream(listener.accept()[0])
        try:
            terms = Terms.of(stream.receive(timeout)[0], base)
        except (ValueError, KeyError, TypeError, OSError, EOFError, FrameError) as error:
            log.warning("a device was refused: %s", error)
            with suppress(OSError):
                stream.send(Frame("refused", {"why": str(error)}))
            stream.close()
            continue
        return Remote(stream, timeout), terms
