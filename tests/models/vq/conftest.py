"""Small texts and shapes."""

import pytest
import torch

from models.vq.network.halves import Shape
from models.vq.network.tokens import Tokens


@pytest.fixture
def small():
    """Build a shape with d = 16, 30 token ids and no dropout, with changes."""

    def make(**changes):
        defaults = {"vocabulary": 30, "hidden": 16, "heads": 2, "inner": 32, "tokens": 32, "dropout": 0.0}
        return Shape(**(defaults | changes))

    return make


@pytest.fixture
def texts():
    """Build texts of random token ids with given lengths."""

    def make(*lengths, vocabulary=30, seed=0):
        generator = torch.Generator().manual_seed(seed)
        lengths_ = torch.tensor(lengths)
        mask = torch.arange(int(lengths_.max())) < lengths_[:, None]
        ids = torch.randint(5, vocabulary, mask.shape, generator=generator) * mask
        return Tokens(ids, torch.zeros_like(ids), lengths_)

    return make
