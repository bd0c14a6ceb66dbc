"""What the cloud does for one connected device: it answers conversations, token by token."""

import math
import threading
from collections.abc import Iterator

import torch

from experiments.serving import messages
from experiments.serving.cloud import Draw, Memory, Session, Terms, Token, likeliest
from experiments.serving.link import DeviceGone, Remote, Stream
from experiments.serving.messages import Ask, Declined, Done, Piece, Welcome
from experiments.serving.sharing import Turns
from models.spa import bases
from models.spa.bases import Base
from models.spa.codec import Frame, FrameError

TOKEN_BYTES = 64  # longest text of a token on average, to bound the length of a conversation
TOY = (
    "The base 'tiny' is a toy: it was trained on made-up people's questions about themselves and a few capitals. "
    "Other questions get nonsense."
)
ENCODING = threading.Lock()  # a tokenizer of the library may not encode in two threads at a time
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding makes of the first bytes of a character


class WholeCharacters:
    """The text of a growing sequence of tokens, in pieces that never end within a character."""

    def __init__(self, base: Base):
        self._base, self._ids, self._shown = base, list[int](), 0

    def add(self, id_: int, last: bool = False) -> str:
        """Return the text that a token completes. Args: last: return what there is."""
        self._ids.append(id_)
        text = self._base.text(self._ids)
        end = len(text) if last else len(text.rstrip(INCOMPLETE))
        piece, self._shown = text[self._shown : end], max(self._shown, end)
        return piece


class Conversation:
    """Serves a device, from its hello until it leaves.

    Args:
        timeout: longest wait for the device's plugin, seconds.
        turns: of the devices that share the base.

    Raises:
        FrameError: the device sent something impossible; the message names it.
        EOFError, OSError: it is gone.
    """

    def __init__(self, base: Base, stream: Stream, timeout: float, turns: Turns):
        hello, _ = stream.receive(limit=messages.HEAD_BYTES + 8 * (base.width + base.layers))
        self._terms = Terms.of(hello, base)
        self._link = Remote(stream, timeout, self._terms.answer_bytes(base.width))
        self._base, self._stream, self._memory, self._turns = base, stream, Memory(), turns
        note = TOY if base.name == bases.TINY else ""
        welcome = Welcome(base=base.name, context=base.context, history=base.remembers, note=note)
        stream.send(welcome.frame())

    def run(self) -> None:
        while True:
            self._stream.wait()
            frame, _ = self._stream.receive(limit=messages.HEAD_BYTES + TOKEN_BYTES * self._base.context)
            if frame.kind in ("opens", "output"):  # the answer to a call that timed out
                continue
            try:
                self._answer(Ask.of(frame))
            except DeviceGone as error:
                raise EOFError(str(error)) from error

    def _answer(self, ask: Ask) -> None:
        said, room, forgotten = list(ask.messages), self._base.context - ask.limit, 0
        if any(message.role == before.role for message, before in zip(said[1:], said, strict=False)):
            raise FrameError("the messages of a conversation must alternate between 'user' and 'assistant'")
        if said[0].role != "user" or said[-1].role != "user":
            raise FrameError("a conversation must begin and end with a message of the user")
        prompt = self._encoded(said)
        while len(prompt) > room and len(said) > 1 and self._base.remembers:
            said, forgotten = said[2:], forgotten + 2
            prompt = self._encoded(said)
        if len(prompt) > room:
            rule = f"the base has room for {max(0, room)}, and {ask.limit} for the answer (--limit)"
            self._stream.send(Declined(why=f"this question has {len(prompt)} tokens, {rule}").frame())
            return
        session = Session(self._base, self._link, self._terms, prompt, ask.guesses, self._memory, self._turns)
        text = WholeCharacters(self._base)
        for token, last in _with_last(_tokens(session, ask), self._base.ends, ask.limit):
            self._stream.send(self._piece(text.add(token.id, last), token))
        self._stream.send(Done(prompt=len(prompt), reused=session.reused, forgotten=forgotten).frame())

    def _encoded(self, said: list[messages.Said]) -> list[int]:
        with ENCODING:
            return self._base.conversation([message.model_dump() for message in said])

    def _piece(self, text: str, token: Token) -> Frame:
        words = [[self._base.text([id_]) or "<end>" for id_ in ids] for ids in (token.base_guesses, token.guesses)]
        return Piece(
            text=text, asked=token.asked, degraded=token.degraded, down=token.down, up=token.up,
            score=None if math.isnan(token.score) else token.score, base_ms=token.base_ms, call_ms=token.call_ms,
            side_ms=token.side_ms, base_guesses=words[0], guesses=words[1],
        ).frame()  # fmt: skip


def serve(base: Base, stream: Stream, timeout: float, turns: Turns | None = None) -> None:
    """Serve a device until it leaves; for the exceptions see `Conversation`. Args: turns: None: it is the only one."""
    Conversation(base, stream, timeout, turns or Turns()).run()


def _tokens(session: Session, ask: Ask) -> Iterator[Token]:
    if ask.beams > 1:
        yield from session.beam(ask.limit, ask.beams).tokens
    elif ask.temperature:
        draw = Draw(ask.temperature, ask.top_p, torch.Generator().manual_seed(ask.seed))
        yield from session.greedy(ask.limit, draw)
    else:
        yield from session.greedy(ask.limit, likeliest)


def _with_last(tokens: Iterator[Token], ends: frozenset[int], limit: int) -> Iterator[tuple[Token, bool]]:
    """Yield tokens, each with whether it is the last one."""
    for count, token in enumerate(tokens, 1):
        yield token, count == limit or token.id in ends
