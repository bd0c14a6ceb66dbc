"""Synthetic people: pure functions, non-IID, drifting; and examples from JSON lines."""

import numpy as np
import pytest

from partitions.datasets.text.personas import COMMON, FACTS, Personas, corpus
from partitions.rng import rng


def test_a_person_is_a_function_of_seed_device_and_step() -> None:
    late = Personas(3).private_facts(5, 4)
    for step in range(4):
        Personas(3).private_facts(5, step)
    assert Personas(3).private_facts(5, 4) == late
    assert Personas(3).examples(5, 4, "test") == Personas(3).examples(5, 4, "test")
    assert Personas(4).private_facts(5, 4) != late != Personas(3).private_facts(6, 4)


@pytest.mark.parametrize("change,kept", [(0.0, 6), (0.5, 3), (1.0, 0)])
def test_a_step_replaces_its_share_of_the_facts(change: float, kept: int) -> None:
    people = Personas(1, change=change)
    for device in range(10):
        before, after = people.private_facts(device, 0), people.private_facts(device, 1)
        assert len(before) == len(after) == 6
        assert all(value in FACTS[fact] for fact, value in after.items())
        assert set(list(after.items())[:kept]) <= set(before.items())


def test_splits_contain_the_same_questions_in_different_words() -> None:
    people = Personas(1, facts=2, questions=1)
    train, calibrate, test = (people.examples(0, 0, split) for split in ("train", "calibrate", "test"))  # type: ignore[arg-type]
    assert (len(train), len(calibrate), len(test)) == (9, 3, 3)
    assert {e.output for e in train} == {e.output for e in test} == {e.output for e in calibrate}
    assert len({e.instruction for e in [*train, *calibrate, *test]}) == 15


def test_small_skew_is_far_from_iid() -> None:
    def commonest(skew: float) -> float:
        people = Personas(1, facts=1, skew=skew, clusters=1)
        facts = [next(iter(people.private_facts(device, 0))) for device in range(60)]
        return max(map(facts.count, facts)) / 60

    assert commonest(0.05) > 2 * commonest(100.0)


def test_the_corpus_contains_every_fact_and_answer() -> None:
    read = corpus(rng(0, 0), 3000)
    assert read == corpus(rng(0, 0), 3000)
    answers = " ".join(example.output for example in read)
    assert all(value in answers for values in FACTS.values() for value in values)
    assert all(answer in answers for answer in COMMON.values())
    assert np.mean([" your " in example.output for example in read]) == pytest.approx(0.6, abs=0.05)
