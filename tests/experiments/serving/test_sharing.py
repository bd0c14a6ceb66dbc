"""Threads that share one model: who is answered with whom, and in which order."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from experiments.serving.sharing import Batches, Turns


def together(targets: Sequence[Callable[[], Any]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


class Gate:
    """Answers requests when it is opened, and notes the batches."""

    def __init__(self) -> None:
        self.open, self.batches = threading.Event(), list[list[str]]()

    def __call__(self, batch: Sequence[str]) -> list[str]:
        self.batches.append(list(batch))
        self.open.wait(20)
        if "bad" in "".join(batch):
            raise ValueError("bad")
        return [word.upper() for word in batch]


def test_requests_of_one_shape_that_wait_are_answered_together() -> None:
    gate, answers = Gate(), dict[str, str]()
    batches = Batches(gate, len, most=3)

    def ask(word: str) -> None:
        answers[word] = batches.ask(word)

    threads = together([lambda: ask("a")])
    until(lambda: gate.batches == [["a"]])
    for count, word in enumerate(("b", "cc", "d", "e", "f"), 1):
        threads += together([lambda word=word: ask(word)])
        until(lambda count=count: len(batches._waiting) == count)
    gate.open.set()
    for thread in threads:
        thread.join(20)
    assert gate.batches == [["a"], ["b", "d", "e"], ["cc"], ["f"]]
    assert answers == {word: word.upper() for word in ("a", "b", "cc", "d", "e", "f")}


def test_a_request_that_fails_does_not_cost_the_others_their_answers() -> None:
    gate, answers = Gate(), dict[str, Any]()
    batches = Batches(gate, len)

    def ask(word: str) -> None:
        try:
            answers[word] = batches.ask(word)
        except ValueError as error:
            answers[word] = str(error)

    threads = together([lambda: ask("one")])
    until(lambda: bool(gate.batches))
    threads += together([lambda: ask("two"), lambda: ask("bad"), lambda: ask("six")])
    until(lambda: len(batches._waiting) == 3)
    gate.open.set()
    for thread in threads:
        thread.join(20)
    assert answers == {"one": "ONE", "two": "TWO", "bad": "bad", "six": "SIX"}


def test_a_full_queue_lets_devices_wait_and_a_closed_one_lets_them_go() -> None:
    gate, done = Gate(), list[str]()
    batches = Batches(gate, len, most=1, room=2)

    def ask(word: str) -> None:
        try:
            done.append(batches.ask(word))
        except RuntimeError as error:
            done.append(str(error))

    threads = together([lambda: ask("a")])
    until(lambda: bool(gate.batches))
    threads += together([lambda word=word: ask(word) for word in "bcde"])
    until(lambda: len(batches._waiting) == 2)
    assert not done
    batches.close()
    until(lambda: len(done) == 2)
    assert done == ["the model is no longer served"] * 2
    gate.open.set()
    for thread in threads:
        thread.join(20)
    assert len(done) == 5 and "A" in done
    with pytest.raises(RuntimeError, match="no longer served"):
        batches.ask("f")


def test_passes_take_turns_in_the_order_of_asking() -> None:
    """A device that wants many passes stands in line again after each, behind those that waited."""
    turns, order, first = Turns(), list[str](), threading.Event()

    def passes(name: str, count: int) -> None:
        for _ in range(count):
            with turns.turn():
                order.append(name)
                first.wait(20)

    threads = together([lambda: passes("long", 3)])
    until(lambda: order == ["long"])
    for count, name in enumerate(("b", "c"), 1):
        threads += together([lambda name=name: passes(name, 1)])
        until(lambda count=count: len(turns._line) == count)
    first.set()
    for thread in threads:
        thread.join(20)
    assert order == ["long", "b", "c", "long", "long"]


def test_as_many_passes_run_at_a_time_as_the_turns_allow_and_an_error_gives_the_turn_back() -> None:
    turns, inside = Turns(2), threading.Barrier(2, timeout=20)

    def both() -> None:
        with turns.turn():
            inside.wait()

    for thread in together([both, both]):
        thread.join(20)
    for _ in range(3):
        with pytest.raises(ValueError), turns.turn():
            raise ValueError
