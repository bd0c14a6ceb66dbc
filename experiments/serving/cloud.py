"""The cloud's half: the base, and generation that asks a device about tokens for which the gate opens.

Generation is an explicit decode loop with the library's cache, because gate and merge come between the base's layers
and its head. The side changes only logits. So the base's cache depends on tokens alone, and is valid whether the device
was asked about a token or not. If a device is late or gone, the base chooses the token alone, and the token is marked.

While the cloud waits for a device, the base may go on with the token that it would choose alone. If the device's answer
leads to another token, that pass is forgotten. So the tokens are the same. It pays if a pass takes less time than the
device's answer: then nothing is lost with a wrong guess, and the whole pass is saved with a right one.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from logging import getLogger
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from experiments.serving import messages
from experiments.serving.device import DeviceHalf
from experiments.serving.link import DeviceGone, DeviceLate, InProcess, Link
from experiments.serving.sharing import Turns
from models.spa.bases import Base
from models.spa.codec import Frame, FrameError, Precision, narrow
from models.spa.gate import Gate
from models.spa.modes import Mode, mode
from models.spa.train import Policy

log = getLogger(__name__)
GoesOn = Literal["if it pays", "always", "never"]
PREFILL = 256  # tokens of a prompt in one pass: others get a turn in between, and few states are in memory


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
    gate: Gate | None

    @classmethod
    def of(cls, frame: Frame, base: Base) -> "Terms":
        """Read the terms of a hello.

        Raises:
            FrameError: it is no hello, or this cloud cannot meet it; the message says why.
        """
        hello, gate = messages.Hello.of(frame), None
        if hello.checksum != base.checksum:
            raise FrameError(
                f"the plugin was made for base {hello.checksum[:12]}..., this cloud has {base.name}, "
                f"{base.checksum[:12]}...: train one with `spa train --base {base.name}`"
            )
        states = tuple(hello.states)
        if states != tuple(sorted(set(states))) or not states or states[0] < 0 or states[-1] != base.layers:
            raise FrameError(f"states {states} are not of a base with {base.layers} layers, ending with the last")
        if hello.gate_site == "cloud":
            gate = Gate(messages.tensor(frame, "weight", (base.width,)), messages.tensor(frame, "bias", ()), hello.tau)
        return cls(mode(hello.mode), states, hello.attends, hello.policy, hello.precision, gate)

    def answer_bytes(self, width: int) -> int:
        """Return the most bytes that an answer of this device may have."""
        return messages.HEAD_BYTES + messages.MOST_BEAMS * 4 * width


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
class Memory:
    """What is computed of a conversation already: it spares the base the tokens that a longer prompt begins with.

    Args:
        cache: of the base, for the tokens ``ids``.
        heard: with the key of the device's cache for them, and the last states, which the device does not have. Only an
            attentive side under 'catch_up' has such a cache of earlier sentences.
    """

    cache: DynamicCache = field(default_factory=DynamicCache)
    ids: list[int] = field(default_factory=list)
    heard: Hypothesis = Hypothesis()

    def keep(self, prompt: Sequence[int]) -> int:
        """Forget what ``prompt`` does not begin with; return the number of tokens that stay."""
        stays = 0
        for known, new in zip(self.ids, prompt[:-1], strict=False):  # the last one must be computed
            if known != new:
                break
            stays += 1
        unsent = self.heard.unsent
        if (lost := len(self.ids) - stays) and (unsent is not None or self.heard.key):
            if lost > (0 if unsent is None else len(unsent)):  # the device's cache goes further than the prompt
                self.cache, self.ids, self.heard = DynamicCache(), [], Hypothesis()
                return 0
            self.heard = replace(self.heard, unsent=cast(Tensor, unsent)[:-lost])
        if lost:
            self.cache.crop(-lost)
            del self.ids[stays:]
        return stays


def likeliest(logits: Tensor) -> int:
    """Return the most likely token of logits (V,)."""
    return int(logits.argmax())


@dataclass(frozen=True)
class Draw:
    """Draws a token of logits (V,). Args: as of `experiments.serving.messages.Ask`."""

    temperature: float
    top_p: float
    generator: torch.Generator

    def __call__(self, logits: Tensor) -> int:
        p, at = (logits / self.temperature).softmax(-1).sort(descending=True)
        p = p.where(p.cumsum(-1) - p < self.top_p, 0.0)
        return int(at[torch.multinomial(p, 1, generator=self.generator)])


@dataclass
class Session:
    """Generation of one sentence.

    Args:
        link: to the device; None: the base generates alone.
        terms: of that device.
        prompt: tokens before the sentence.
        guesses: number of most likely tokens to record with each token.
        memory: of the conversation; it is updated.
        turns: of the sessions that share the base.
        goes_on: when the base goes on while the cloud waits for the device. 'if it pays': the last answer took longer
            than the last pass, and no other session wants a turn.
        ahead: the token with which it went on, and its pass; None: it did not.
        hidden: passes that were ready when they were needed.
    """

    base: Base
    link: Link | None
    terms: Terms | None
    prompt: Sequence[int]
    guesses: int = 0
    memory: Memory = field(default_factory=Memory)
    turns: Turns = field(default_factory=Turns)
    goes_on: GoesOn = "if it pays"
    gone: bool = False
    reused: int = 0
    ahead: tuple[int, tuple[Tensor, Tensor, float]] | None = field(default=None, init=False)
    hidden: int = field(default=0, init=False)
    pass_ms: float = field(default=math.inf, init=False)

    def greedy(self, limit: int, pick: Callable[[Tensor], int] = likeliest) -> Iterator[Token]:
        """Yield tokens one by one, up to and including the end token. Args: pick: chooses one from logits (V,)."""
        hypotheses, new = self._begin()
        try:
            for _ in range(limit):
                logits, hypotheses, (token,) = self._step(hypotheses, new)
                if self._catches_up:
                    self.memory.heard = hypotheses[0]
                token = replace(token, id=pick(logits[0]))
                yield token
                if token.id in self.base.ends:
                    return
                new = torch.tensor([[token.id]])
        finally:
            self._forget_ahead()

    def beam(self, limit: int, beams: int, length_penalty: float = 1.0) -> Hypothesis:
        """Return the sentence with the highest log-probability / length ** length_penalty that beam search finds."""
        (live, new), done = self._begin(), list[tuple[float, Hypothesis]]()
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
                if id_ not in self.base.ends:
                    going.append(longer)
                    parents.append(parent)
                elif rank < beams:
                    done.append((sum_ / length**length_penalty, longer))
            live, parents = going[:beams], parents[:beams]
            done = sorted(done, key=lambda pair: -pair[0])[:beams]
            if len(done) == beams and done[-1][0] >= live[0].log_probability / length**length_penalty:
                break
            self.memory.cache.reorder_cache(torch.tensor(parents))  # type: ignore[arg-type]
            new = torch.tensor([[w.tokens[-1].id] for w in live])
        else:
            done += [(w.log_probability / limit**length_penalty, w) for w in live]
        self._forget_beams()
        return max(done, key=lambda pair: pair[0])[1]

    @property
    def _catches_up(self) -> bool:
        return self.terms is not None and self.terms.attends and self.terms.policy == "catch_up"

    def _begin(self) -> tuple[list[Hypothesis], Tensor]:
        """Return the empty sentence, and the tokens (1, n) of the prompt that are not in the memory."""
        self.reused = self.memory.keep(self.prompt)
        heard = Hypothesis(key=self.memory.heard.key, unsent=self.memory.heard.unsent)
        return [heard], torch.tensor([list(self.prompt[self.reused :])])

    def _forget_beams(self) -> None:
        """Keep the prompt in the memory, which all beams share."""
        if self._catches_up:
            self.memory.cache, self.memory.ids = DynamicCache(), []
            return
        self.memory.cache.batch_select_indices(torch.tensor([0]))
        if lost := len(self.memory.ids) - len(self.prompt):
            self.memory.cache.crop(-lost)
            del self.memory.ids[-lost:]

    @torch.inference_mode()
    def _step(self, hypotheses: list[Hypothesis], new: Tensor) -> tuple[Tensor, list[Hypothesis], list[Token]]:
        """Return logits (k, V) after ``new`` (k, n) tokens, updated hypotheses, and each next token without its id."""
        if self.ahead and new.tolist() == [[self.ahead[0]]]:
            (_, (b, states, base_ms)), self.ahead = self.ahead, None
            self.hidden += 1
        else:
            wasted_ms = self._forget_ahead()
            b, states, base_ms = self._pass(new)
            base_ms += wasted_ms
        drafts = [Token(-1, False, False, float("nan"), 0, 0, base_ms, 0.0, 0.0) for _ in hypotheses]
        if self.terms is None:
            return self.base.logits(b), hypotheses, drafts
        hypotheses = self._add_unsent(hypotheses, states)
        asked = list(range(len(hypotheses)))
        try:
            asked, drafts = self._opens(b, drafts)
            h, hypotheses, drafts = self._ask(b, asked, hypotheses, drafts)
        except (DeviceLate, DeviceGone) as error:
            if not self.gone:
                log.warning("degraded: %s; the base continues alone", error)
            self.gone |= isinstance(error, DeviceGone)
            return self.base.logits(b), hypotheses, [replace(d, degraded=i in asked) for i, d in enumerate(drafts)]
        logits = self.base.logits(h)
        if self.guesses:
            tops = [x.topk(self.guesses).indices.tolist() for x in (self.base.logits(b), logits)]
            drafts = [replace(d, base_guesses=(*x,), guesses=(*y,)) for d, x, y in zip(drafts, *tops, strict=True)]
        return logits, hypotheses, drafts

    def _go_on(self, b: Tensor) -> None:
        """Compute the pass of the token that the base alone chooses after ``b`` (k, d), unless there are beams."""
        assert self.link is not None
        pays = self.link.answer_ms > self.pass_ms and self.turns.idle
        if len(b) == 1 and not self.ahead and (self.goes_on == "always" or (self.goes_on == "if it pays" and pays)):
            id_ = likeliest(self.base.logits(b)[0])
            if id_ not in self.base.ends:
                self.ahead = id_, self._pass(torch.tensor([[id_]]))

    def _forget_ahead(self) -> float:
        """Forget the pass with which the base went on; return the milliseconds that it took, 0 without one."""
        if not self.ahead:
            return 0.0
        self.memory.cache.crop(-1)
        self.memory.ids.pop()
        (_, (_, _, ms)), self.ahead = self.ahead, None
        return ms

    def _pass(self, new: Tensor) -> tuple[Tensor, Tensor, float]:
        """Compute the base for ``new`` (k, n) tokens, of a long prompt some after the other.

        Returns:
            b (k, d) of the last position; the states (k, n, S, d) that the side reads, of the last position alone
            unless the side catches up; the milliseconds of computing.
        """
        states, everything = list(self.terms.states) if self.terms else [], self._catches_up
        kept, ms = list[Tensor](), 0.0
        for part in new.split(PREFILL, 1):
            with self.turns.turn():
                started = time.perf_counter()
                whole = self.base.stack(part, self.memory.cache)
                ms += 1e3 * (time.perf_counter() - started)
            self.memory.ids += part[0].tolist()  # of beams, only their number counts
            b = whole[:, -1, -1]
            kept.append((whole if everything else whole[:, -1:])[:, :, states])
        if new.shape == (1, 1):
            self.pass_ms = ms
        return b, torch.cat(kept, 1) if everything else kept[-1], ms

    def _add_unsent(self, hypotheses: list[Hypothesis], stack: Tensor) -> list[Hypothesis]:
        """Add new states (k, n, S, d) to the unsent ones; without catch-up keep only the last."""
        assert self.terms is not None
        if not self._catches_up:
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
            frame = messages.Gate(seq=next(_SEQUENCE)).frame(narrow("b", b, _narrower(terms.precision)))
            reply, took = self._call(frame, b)
            said = messages.Opens.of(reply)
            opens, scores = said.opens, said.scores
            if len(opens) != len(b) or len(scores) != len(b):
                raise FrameError(f"'opens' and 'scores' must have {len(b)} entries")
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
        length, keep = len(self.memory.ids) - bool(self.ahead), sorted({w.key for w in hypotheses if w.key})
        rows = [messages.Row(key=hypotheses[i].key, count=len(x), at=length - len(x)) for i, x in unsent.items()]
        head, stack = messages.Side(seq=next(_SEQUENCE), rows=rows, keep=keep), torch.cat(list(unsent.values()))
        frame = head.frame(narrow("stack", stack, terms.precision))
        link.traffic.rows += len(asked)
        reply, took = self._call(frame, b)
        said, o = messages.Output.of(reply), messages.tensor(reply, "o", (len(asked), self.base.width))
        h, hypotheses = b.clone(), list(hypotheses)
        for row, i in enumerate(asked):
            h[i] = terms.mode.merged(b[i], o[row])
            key = f"{head.seq}.{row}" if terms.attends else None
            hypotheses[i] = replace(hypotheses[i], key=key, unsent=None)
            down = frame.payload * len(unsent[i]) // len(stack)
            drafts[i] = replace(
                drafts[i], asked=True, down=drafts[i].down + down, up=reply.payload // len(asked),
                call_ms=drafts[i].call_ms + took, side_ms=said.ms,
            )  # fmt: skip
        return h, hypotheses, drafts

    def _call(self, frame: Frame, b: Tensor) -> tuple[Frame, float]:
        """Return the device's answer, and the milliseconds of waiting. Args: b: (k, d), with which the base goes on."""
        if self.gone or self.link is None:
            raise DeviceGone("the device is gone")
        started = time.perf_counter()
        went_on_ms = 0.0

        def meanwhile() -> None:
            nonlocal went_on_ms
            before = time.perf_counter()
            self._go_on(b)
            went_on_ms = 1e3 * (time.perf_counter() - before) if self.ahead else 0.0

        reply = self.link.call(frame, meanwhile)
        took_ms = 1e3 * (time.perf_counter() - started)
        waited_ms = took_ms - went_on_ms
        # An answer that was there before the pass ended took less time, nobody knows how much: the next one is timed.
        self.link.answer_ms = took_ms if not went_on_ms or waited_ms > 1 else 0.0
        return reply, waited_ms


def _narrower(precision: Precision) -> Precision:
    """Return the precision of b for a gate on the device: float16 at least."""
    return "fp32" if precision == "fp32" else "fp16"


def join(base: Base, half: DeviceHalf) -> tuple[Link, Terms]:
    """Connect to a device in this process."""
    return InProcess(half.answer), Terms.of(half.hello(), base)
