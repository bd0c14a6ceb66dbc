"""Small texts and shapes."""

import pytest
import torch

from models.vq.network.halves import Shape
from models.vq.network.tokens import Tokens


@pytest.fixture
def small():
    """Shape with changes: d = 16, 30 token ids, no dropout."""

    def make(**changes):
        own = {"vocabulary": 30, "hidden": 16, "heads": 2, "inner": 32, "tokens": 32, "dropout": 0.0}
        return Shape(**(own | changes))

    return make


@pytest.fixture
def texts():
    """Random token ids of given lengths."""

    def make(*lengths, vocabulary=30, seed=0):
        generator = torch.Generator().manual_seed(seed)
        of = torch.tensor(lengths)
        there = torch.arange(int(of.max())) < of[:, None]
        ids = torch.randint(5, vocabulary, there.shape, generator=generator) * there
        return Tokens(ids, torch.zeros_like(ids), of)

    return make
