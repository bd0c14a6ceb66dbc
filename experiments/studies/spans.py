"""Scores of answers that are spans of a text, as in SQuAD (arXiv:1606.05250, Sec. 6.1).

Case, punctuation, articles and white space are ignored.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence


def words(answer: str) -> list[str]:
    """Return the words of an answer that are scored."""
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def f1(given: str, correct: str) -> float:
    """Return the harmonic mean of precision and recall of the words, each counted as often as it occurs."""
    one, two = words(given), words(correct)
    common = (Counter(one) & Counter(two)).total()
    return 2 * common / (len(one) + len(two)) if common else 0.0


def scores(given: Sequence[str], correct: Sequence[str]) -> tuple[float, float]:
    """Return the share of answers that match exactly, and the mean F1."""
    pairs = list(zip(given, correct, strict=True))
    exact = sum(words(one) == words(two) for one, two in pairs) / len(pairs)
    return exact, sum(f1(one, two) for one, two in pairs) / len(pairs)
