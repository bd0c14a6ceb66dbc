"""Messages and the ledger: the formulae of bytes against counted bytes, and what is refused."""

from math import ceil, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vq.quantiser.boundary import HEADER, Boundary, Ledger, Line, StaleCodebook, codebook_bytes, lines, pooled
from models.vq.quantiser.codec import CODINGS, Codes

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def boundary(K=256, m=4, width=32, pool=2, gradients="float16"):
    tokens = Line("tokens", "up", Codes(30522), 1, "token", lengths=True)
    return Boundary((*lines(width, 3, "example", (K, m), down=gradients), tokens), pool)


def test_pooled_by_hand():
    """[CLS] by itself, then groups of p, the last one may be short."""
    assert [pooled(t, 4) for t in (1, 2, 5, 6, 9, 10)] == [1, 2, 2, 3, 3, 4]
    assert [pooled(t, 1) for t in (1, 2, 9)] == [1, 2, 9]


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 1100), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.sampled_from(list(CODINGS)))
def test_counted_bytes_are_the_formulae(lengths, K, m, p, gradients):
    """A5 of the design, per example: codes and length up; logits, then b_g bits per number of code space, down."""
    edge, width = boundary(K, m, 6 * m, p, gradients), 6 * m
    short = [1 + ceil((t - 1) / p) for t in lengths]
    codes = torch.randint(K, (sum(short), m), generator=torch.Generator().manual_seed(0))
    data = edge.encode("codes", codes, lengths, "train", version=7)
    back, told = edge.decode("codes", data, version=7)
    assert torch.equal(back, codes) and told == lengths
    up = sum(ceil(n * m * ceil(log2(K)) / 8) + 2 for n in short)
    assert edge.ledger.total(direction="up", phase="train", tensor="codes") == up == len(data) - HEADER.size

    edge.encode("gradient", torch.ones(sum(short), width), lengths, "train")
    row = {"float32": 4 * width, "float16": 2 * width, "int8": width + 2}[gradients]
    scale = 0 if gradients == "float32" else 4  # once per message
    assert edge.ledger.total(tensor="gradient") == scale + sum(n * row for n in short)

    edge.encode("logits", torch.ones(len(lengths), 3), lengths, "infer")
    assert edge.ledger.total(phase="infer") == 4 + len(lengths) * 3 * 2
    edge.encode("tokens", torch.ones(sum(lengths), 1, dtype=torch.int64), lengths, "infer")
    assert edge.ledger.total(tensor="tokens") == sum(ceil(15 * t / 8) + 2 for t in lengths)
    assert edge.ledger.total(kind="framing") == 4 * HEADER.size
    for name in ("codes", "gradient", "logits", "tokens"):
        assert edge.payload(name, lengths) == edge.ledger.total(tensor=name)


def test_bytes_of_a_round():
    assert codebook_bytes(8, 256, 16) == (8 * 256 * 16 * 4, 8 * 256 * 17 * 4)


def test_a_stale_codebook_is_refused():
    edge = boundary()
    data = edge.encode("codes", torch.zeros(1, 4, dtype=torch.int64), [1], "train", version=3)
    with pytest.raises(StaleCodebook, match="'codes' was encoded under codebook version 3, this side has 4; fetch"):
        edge.decode("codes", data, version=4)


@pytest.mark.parametrize("cut", [0, 5, HEADER.size, HEADER.size + 3, -1])
def test_a_damaged_message_is_refused(cut):
    edge = boundary()
    data = edge.encode("codes", torch.zeros(9, 4, dtype=torch.int64), [9, 7], "train")
    with pytest.raises(ValueError, match="is damaged|no message of the boundary"):
        edge.decode("codes", data[:cut])


def test_another_line_is_refused():
    edge = boundary()
    data = edge.encode("logits", torch.zeros(2, 3), [5, 5], "infer")
    with pytest.raises(ValueError, match="expected 'codes', got a message of line 2"):
        edge.decode("codes", data)
    with pytest.raises(ValueError, match="no line is called 'labels'; the boundary has codes, activations"):
        edge.payload("labels", [1])


def test_ledgers_add_up_and_travel():
    one, two = boundary(), boundary()
    one.encode("logits", torch.zeros(2, 3), [5, 5], "infer")
    two.encode("logits", torch.zeros(1, 3), [5], "train")
    both = Ledger(one.ledger + two.ledger)
    assert Ledger.of(both.flat()) == both
    assert both.total(direction="down") == 16 + 10
    assert both.flat()["down/train/logits/framing"] == HEADER.size
