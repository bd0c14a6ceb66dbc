"""The probe recovers everything if every token has its own vector, and only the most frequent token without numbers."""

import pytest
import torch

from models.vq.network.pooling import flatten, pool, pooled_lengths, unflatten
from models.vq.training.probe import token_recovery


@pytest.fixture
def encoded(texts):
    """Build 40 texts of 4 to 8 tokens, and one vector per token id."""
    tokens = texts(*(4 + i % 5 for i in range(40)), vocabulary=12)
    return tokens, torch.nn.functional.one_hot(tokens.ids, 12).float()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_recovery_is_perfect_for_one_vector_per_token_and_a_guess_without_numbers(encoded, stride):
    tokens, vectors = encoded
    inner = [tokens.ids[i, 1 : n - 1] for i, n in enumerate(tokens.lengths.tolist())]
    pooled_rows = flatten(pool(vectors, tokens.lengths, stride), pooled_lengths(tokens.lengths, stride))
    if stride == 1:
        assert token_recovery(pooled_rows, tokens, 1) == 1.0
        mixed = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
        assert token_recovery(pooled_rows @ mixed, tokens, 1) == 1.0
        fitted = torch.cat(inner[::2]).bincount()
        guess_accuracy = float((torch.cat(inner[1::2]) == fitted.argmax()).float().mean())
        assert token_recovery(pooled_rows[:, :0], tokens, 1) == guess_accuracy < 0.4
    else:  # a mean of several tokens does not contain their order
        assert token_recovery(pooled_rows[:, :0], tokens, stride) < token_recovery(pooled_rows, tokens, stride) < 1.0


def test_rows_are_taken_in_the_order_of_the_texts(encoded):
    tokens, vectors = encoded
    rows = flatten(vectors, tokens.lengths)
    assert torch.equal(flatten(unflatten(rows, tokens.lengths), tokens.lengths), rows)
    assert token_recovery(rows.roll(1, 0), tokens, 1) < 0.6
