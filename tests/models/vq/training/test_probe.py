"""What a probe reads: all, where every token has its own vector; the most frequent one, where nothing crosses."""

import pytest
import torch

from models.vq.network.pooling import flatten, pool, pooled_lengths, unflatten
from models.vq.training.probe import recovered


@pytest.fixture
def said(texts):
    """40 texts of 4 to 8 tokens, and a vector for each token."""
    tokens = texts(*(4 + i % 5 for i in range(40)), vocabulary=12)
    return tokens, torch.nn.functional.one_hot(tokens.ids, 12).float()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_reads_everything_where_tokens_have_vectors_and_guesses_where_they_have_not(said, stride):
    tokens, vectors = said
    inner = [tokens.ids[i, 1 : n - 1] for i, n in enumerate(tokens.lengths.tolist())]
    seen = flatten(pool(vectors, tokens.lengths, stride), pooled_lengths(tokens.lengths, stride))
    if stride == 1:
        assert recovered(seen, tokens, 1) == 1.0
        mixed = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
        assert recovered(seen @ mixed, tokens, 1) == 1.0
        fitted = torch.cat(inner[::2]).bincount()
        guess = float((torch.cat(inner[1::2]) == fitted.argmax()).float().mean())
        assert recovered(seen[:, :0], tokens, 1) == guess < 0.4
    else:  # a mean of several tokens does not tell their order
        assert recovered(seen[:, :0], tokens, stride) < recovered(seen, tokens, stride) < 1.0


def test_rows_are_taken_in_the_order_of_the_texts(said):
    tokens, vectors = said
    rows = flatten(vectors, tokens.lengths)
    assert torch.equal(flatten(unflatten(rows, tokens.lengths), tokens.lengths), rows)
    assert recovered(rows.roll(1, 0), tokens, 1) < 0.6
