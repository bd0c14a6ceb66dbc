"""EM and F1 of answers by hand."""

import pytest

from experiments.studies.spans import f1, scores, words


def test_what_does_not_count() -> None:
    assert words("The  Theatre, a\tU.S. \u201cone\u201d!") == ["theatre", "us", "\u201cone\u201d"]
    assert words("an") == []


@pytest.mark.parametrize(
    ("given", "correct", "expected"),
    [
        ("October 1973", "in October, 1973", 0.8),  # 2 of 2, 2 of 3
        ("the the cat cat", "cat", 2 / 3),  # 1 of 2, 1 of 1: a word counts as often as in both
        ("the Cat", "cat.", 1.0),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_f1(given: str, correct: str, expected: float) -> None:
    assert f1(given, correct) == pytest.approx(expected)


def test_means_over_answers() -> None:
    assert scores(["The cat", "a b", "x y", ""], ["cat!", "b c", "x", "z"]) == (
        0.25,
        pytest.approx((1 + 2 / 3 + 2 / 3) / 4),
    )
