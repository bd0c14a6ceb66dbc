"""Robust merging by hand, and where nobody lies the merge that it replaces."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.aggregation.robust import Robust
from models.aggregation.weighted_sum import WeightedSum

AXES = {"w": ("modules", None)}
OLD = {"w": torch.zeros(2, 1)}


def merged(rule: str, values: dict[int, list[float]], trim: float = 0.2, weight: float = 1.0) -> list[float]:
    """Values of each module of two, each sent by a device of its own; 0 was sent."""
    total = Robust(AXES, rule, trim)  # type: ignore[arg-type]
    for module, sent in values.items():
        for value in sent:
            total.add({"w": torch.tensor([[value]])}, {"modules": torch.tensor([module])}, weight)
    return total.finish(OLD)["w"].flatten().tolist()


def test_the_median_of_those_who_hold_a_module() -> None:
    assert merged("median", {0: [1.0, 2.0, 1e6], 1: [1.0, 2.0, 4.0, -1e6]}) == [2.0, 1.5]
    assert merged("median", {0: [3.0]}) == [3.0, 0.0]


def test_a_trimmed_mean_leaves_out_the_same_share_at_both_ends_rounded_up() -> None:
    """A fifth of five is one; a fifth of three is one too; of two, both stay."""
    assert merged("trimmed-mean", {0: [-1e6, 1.0, 2.0, 6.0, 1e6], 1: [1.0, 2.0, 1e6]}) == [3.0, 2.0]
    assert merged("trimmed-mean", {0: [1.0, 3.0]}) == [2.0, 0.0]


def test_a_trimmed_mean_weighs_what_is_left() -> None:
    total = Robust(AXES, "trimmed-mean", 0.2)
    for value, weight in [(-9.0, 50.0), (1.0, 3.0), (2.0, 1.0), (9.0, 50.0)]:
        total.add({"w": torch.tensor([[value], [value]])}, {}, weight)
    assert total.finish(OLD)["w"].flatten().tolist() == [1.25, 1.25]


def test_an_update_is_shortened_to_the_median_length() -> None:
    """Lengths 1, 2 and 100: the last counts as 2, and (1 + 2 + 2) / 3."""
    total = Robust(AXES, "norm-bound", 0.0)
    for value in (1.0, 2.0, 100.0):
        total.add({"w": torch.full((2, 1), value)}, {}, 1.0)
    torch.testing.assert_close(total.finish(OLD)["w"], torch.full((2, 1), 5 / 3))


holders = st.lists(
    st.tuples(st.sets(st.integers(0, 3), min_size=1), st.floats(0.1, 10), st.integers(0, 2**31)), min_size=1, max_size=6
)


@given(holders, st.booleans())
def test_without_trimming_or_with_equal_lengths_it_is_the_weighted_mean(parts, by_module: bool) -> None:
    axes = {"w": ("modules", "in"), "b": (None,), "count": (None,)}
    old = {"w": torch.randn(4, 3), "b": torch.randn(2), "count": torch.tensor([3])}
    plain, trimmed, bounded = WeightedSum(axes, old), Robust(axes, "trimmed-mean", 0.0), Robust(axes, "norm-bound", 0)
    bounded_plain = WeightedSum(axes, old)
    for modules, weight, seed in parts:
        kept = torch.tensor(sorted(modules))
        g = torch.Generator().manual_seed(seed)
        part = {"w": torch.randn(len(kept), 3, generator=g), "b": torch.randn(2, generator=g), "count": old["count"]}
        index_weights = {"modules": torch.rand(len(kept), generator=g) + 0.1} if by_module else None
        for total in (plain, trimmed):
            total.add(part, {"modules": kept}, weight, index_weights)
        equal = {"w": old["w"][kept] + 1, "b": old["b"] - 1, "count": old["count"]}
        for total in (bounded_plain, bounded):
            total.add(equal, {"modules": kept}, weight, index_weights)
    for name in old:
        torch.testing.assert_close(trimmed.finish(old)[name], plain.finish(old)[name], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(bounded.finish(old)[name], bounded_plain.finish(old)[name], rtol=1e-6, atol=1e-6)


@given(st.integers(3, 9), st.data())
def test_a_minority_cannot_move_it_beyond_the_honest(honest: int, data: st.DataObject) -> None:
    """However far the liars go; a trimmed mean bears a share of ``trim``, a median just less than half."""
    values = data.draw(st.lists(st.floats(-1, 1), min_size=honest, max_size=honest))
    lie = data.draw(st.sampled_from([-1e30, -50.0, 50.0, 1e30]))
    for rule, liars in (("trimmed-mean", honest // 4), ("median", honest - 1)):
        got = merged(rule, {0: [*values, *[lie] * liars]}, trim=0.2)[0]
        assert min(values) - 1e-6 <= got <= max(values) + 1e-6


def test_two_halves_merge_to_the_whole() -> None:
    parts = [({"w": torch.randn(2, 1)}, {}, 1.0) for _ in range(5)]
    whole, left, right = (Robust(AXES, "median", 0.0) for _ in range(3))
    for at, part in enumerate(parts):
        whole.add(*part)
        (left if at < 2 else right).add(*part)
    left.merge(right)
    np.testing.assert_array_equal(left.finish(OLD)["w"], whole.finish(OLD)["w"])


@pytest.mark.parametrize("rule", ["norm-bound", "trimmed-mean", "median"])
def test_nobody_changes_nothing(rule: str) -> None:
    assert merged(rule, {}) == [0.0, 0.0]
