"""Corruptions of images, compared with other ways to compute them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from partitions import corrupt
from partitions.corruptions import (
    CORRUPTIONS,
    CorruptedRows,
    Corruption,
    blur,
    brightness,
    contrast,
    impulse,
    noise,
    pixelate,
    rotation,
)

X = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3, 16, 16)).astype(np.float32))
ADDRESSES = [(1, 12, 3, 4, 0, sample) for sample in range(6)]


def test_brightness_by_hand():
    torch.testing.assert_close(brightness(X, 0.5, ADDRESSES), X + 1)


def test_a_rotation_by_a_right_angle_permutes_the_pixels():
    torch.testing.assert_close(rotation(X, 1.5, ADDRESSES), torch.rot90(X, 1, (2, 3)), atol=1e-4, rtol=0)
    rotated = rotation(torch.ones(1, 1, 16, 16), 0.75, [])  # 45 degrees
    assert rotated[0, 0, 0, 0] == 0 and rotated[0, 0, 8, 8] == 1  # the corner is the mean colour


def test_blur_is_a_gaussian_filter():
    expected = gaussian_filter(X.numpy(), 0.7, mode="mirror", radius=3, axes=(2, 3))
    torch.testing.assert_close(blur(X, 0.7, ADDRESSES), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_noise_has_the_given_std_and_depends_on_the_sample():
    x = torch.zeros(6, 3, 16, 16)
    noisy = noise(x, 0.3, ADDRESSES)
    assert noisy.std() == pytest.approx(0.3, rel=0.05) and noisy.mean() == pytest.approx(0, abs=0.03)
    assert torch.equal(noise(x, 0.3, ADDRESSES[::-1]), noisy.flip(0))
    assert not torch.equal(noisy[0], noisy[1])


def test_contrast_keeps_the_mean_and_impulse_noise_hits_its_share_of_the_pixels():
    flat = contrast(X, 1.0, ADDRESSES)
    torch.testing.assert_close(flat.mean((1, 2, 3)), X.mean((1, 2, 3)))
    torch.testing.assert_close(flat.std((1, 2, 3)), 0.1 * X.std((1, 2, 3)))
    hit = (impulse(X, 1.0, ADDRESSES) != X).any(1)
    assert hit.float().mean() == pytest.approx(0.3, abs=0.03)


def test_pixelate_by_hand():
    """At severity 1 a quarter of the rows and columns remains: blocks of 4 x 4 pixels have one value."""
    blocks = pixelate(X, 1.0, ADDRESSES).unfold(2, 4, 4).unfold(3, 4, 4)
    assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks))


@settings(max_examples=20)
@given(st.sampled_from(sorted(CORRUPTIONS)), st.floats(0.3, 1), st.permutations(range(6)))
def test_pixels_depend_on_the_sample_and_not_on_other_samples(kind, severity, order):
    corruption = Corruption(kind, severity)
    whole = corrupt(X, (CorruptedRows(np.arange(6), corruption, ADDRESSES),))
    assert whole.shape == X.shape and whole.dtype == X.dtype and not torch.equal(whole, X)
    some = order[:3]
    part = corrupt(X[order], (CorruptedRows(np.arange(3), corruption, [ADDRESSES[k] for k in some]),))
    torch.testing.assert_close(part[:3], whole[some], atol=1e-6, rtol=1e-6)
    assert torch.equal(part[3:], X[order[3:]])


def test_without_corruptions_nothing_changes():
    assert corrupt(X, ()) is X
