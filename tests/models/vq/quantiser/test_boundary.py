"""Messages and traffic: counted bytes against formulas, and refused messages."""

from math import ceil, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vq.quantiser.boundary import (
    HEADER,
    Boundary,
    BoundaryTraffic,
    Channel,
    StaleCodebook,
    channels,
    pooled_length,
)
from models.vq.quantiser.codec import CODINGS, Codes

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def boundary(K=256, m=4, width=32, pool=2, gradients="float16"):
    tokens = Channel("tokens", "up", Codes(30522), 1, "token", lengths=True)
    return Boundary((*channels(width, 3, "example", (K, m), down=gradients), tokens), pool)


def test_pooled_by_hand():
    """[CLS] alone, then groups of p; the last group may be short."""
    assert [pooled_length(t, 4) for t in (1, 2, 5, 6, 9, 10)] == [1, 2, 2, 3, 3, 4]
    assert [pooled_length(t, 1) for t in (1, 2, 9)] == [1, 2, 9]


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 1100), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.sampled_from(list(CODINGS)))
def test_counted_bytes_equal_the_formulas(lengths, K, m, p, gradients):
    """Per example: codes and length up; logits, then b_g bits per number of code space, down."""
    boundary_, width = boundary(K, m, 6 * m, p, gradients), 6 * m
    short = [1 + ceil((t - 1) / p) for t in lengths]
    codes = torch.randint(K, (sum(short), m), generator=torch.Generator().manual_seed(0))
    data = boundary_.encode("codes", codes, lengths, "train", version=7)
    back, decoded_lengths = boundary_.decode("codes", data, version=7)
    assert torch.equal(back, codes) and decoded_lengths == lengths
    up = sum(ceil(n * m * ceil(log2(K)) / 8) + 2 for n in short)
    assert boundary_.traffic.total(direction="up", phase="train", tensor="codes") == up == len(data) - HEADER.size

    boundary_.encode("gradient", torch.ones(sum(short), width), lengths, "train")
    row = {"float32": 4 * width, "float16": 2 * width, "int8": width + 2}[gradients]
    scale = 0 if gradients == "float32" else 4  # once per message
    assert boundary_.traffic.total(tensor="gradient") == scale + sum(n * row for n in short)

    boundary_.encode("logits", torch.ones(len(lengths), 3), lengths, "infer")
    assert boundary_.traffic.total(phase="infer") == 4 + len(lengths) * 3 * 2
    boundary_.encode("tokens", torch.ones(sum(lengths), 1, dtype=torch.int64), lengths, "infer")
    assert boundary_.traffic.total(tensor="tokens") == sum(ceil(15 * t / 8) + 2 for t in lengths)
    assert boundary_.traffic.total(kind="framing") == 4 * HEADER.size
    for name in ("codes", "gradient", "logits", "tokens"):
        assert boundary_.payload(name, lengths) == boundary_.traffic.total(tensor=name)


def test_a_stale_codebook_is_refused():
    boundary_ = boundary()
    data = boundary_.encode("codes", torch.zeros(1, 4, dtype=torch.int64), [1], "train", version=3)
    with pytest.raises(StaleCodebook, match="'codes' was encoded with codebook version 3, this side has 4; fetch"):
        boundary_.decode("codes", data, version=4)


@pytest.mark.parametrize("cut", [0, 5, HEADER.size, HEADER.size + 3, -1])
def test_a_damaged_message_is_refused(cut):
    boundary_ = boundary()
    data = boundary_.encode("codes", torch.zeros(9, 4, dtype=torch.int64), [9, 7], "train")
    with pytest.raises(ValueError, match="is damaged|no message of the boundary"):
        boundary_.decode("codes", data[:cut])


def test_messages_of_another_channel_are_refused():
    boundary_ = boundary()
    data = boundary_.encode("logits", torch.zeros(2, 3), [5, 5], "infer")
    with pytest.raises(ValueError, match="expected 'codes', got a message of channel 2"):
        boundary_.decode("codes", data)
    with pytest.raises(ValueError, match="no channel is called 'labels'; the boundary has codes, activations"):
        boundary_.payload("labels", [1])


def test_traffic_adds_up_and_converts_to_a_dict():
    one, two = boundary(), boundary()
    one.encode("logits", torch.zeros(2, 3), [5, 5], "infer")
    two.encode("logits", torch.zeros(1, 3), [5], "train")
    total = BoundaryTraffic(one.traffic + two.traffic)
    assert BoundaryTraffic.from_dict(total.to_dict()) == total
    assert total.total(direction="down") == 16 + 10
    assert total.to_dict()["down/train/logits/framing"] == HEADER.size
