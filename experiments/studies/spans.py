"""Answers that are spans of a text, scored as SQuAD does (arXiv:1606.05250, Sec. 6.1).

Letters' case, punctuation, articles and white space do not count.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence


def words(answer: str) -> list[str]:
    """What counts of an answer."""
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def f1(said: str, wanted: str) -> float:
    """Harmonic mean of precision and recall of the words, each as often as it occurs."""
    one, two = words(said), words(wanted)
    common = (Counter(one) & Counter(two)).total()
    return 2 * common / (len(one) + len(two)) if common else 0.0


def scores(said: Sequence[str], wanted: Sequence[str]) -> tuple[float, float]:
    """Share of answers that match exactly, and mean F1."""
    pairs = list(zip(said, wanted, strict=True))
    exact = sum(words(one) == words(two) for one, two in pairs) / len(pairs)
    return exact, sum(f1(one, two) for one, two in pairs) / len(pairs)
