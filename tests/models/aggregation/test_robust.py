"""Robust aggregation worked by hand, and equal to the weighted mean if no update is poisoned."""

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
    """Aggregate values of two modules, each from a different client, starting at 0."""
    total = Robust(AXES, rule, trim)  # type: ignore[arg-type]
    for module, sent in values.items():
        for value in sent:
            total.add({"w": torch.tensor([[value]])}, {"modules": torch.tensor([module])}, weight)
    return total.finish(OLD)["w"].flatten().tolist()


def test_the_median_uses_the_clients_that_cover_a_module() -> None:
    assert merged("median", {0: [1.0, 2.0, 1e6], 1: [1.0, 2.0, 4.0, -1e6]}) == [2.0, 1.5]
    assert merged("median", {0: [3.0]}) == [3.0, 0.0]


def test_a_trimmed_mean_drops_the_same_share_at_both_ends() -> None:
    """A fifth of five is one; a fifth of three, rounded up, is one; of two, both remain."""
    assert merged("trimmed-mean", {0: [-1e6, 1.0, 2.0, 6.0, 1e6], 1: [1.0, 2.0, 1e6]}) == [3.0, 2.0]
    assert merged("trimmed-mean", {0: [1.0, 3.0]}) == [2.0, 0.0]


def test_a_trimmed_mean_weights_the_remaining_values() -> None:
    total = Robust(AXES, "trimmed-mean", 0.2)
    for value, weight in [(-9.0, 50.0), (1.0, 3.0), (2.0, 1.0), (9.0, 50.0)]:
        total.add({"w": torch.tensor([[value], [value]])}, {}, weight)
    assert total.finish(OLD)["w"].flatten().tolist() == [1.25, 1.25]


def test_norm_bound_scales_updates_to_the_median_norm() -> None:
    """Norms 1, 2 and 100: the last counts as 2, and (1 + 2 + 2) / 3."""
    total = Robust(AXES, "norm-bound", 0.0)
    for value in (1.0, 2.0, 100.0):
        total.add({"w": torch.full((2, 1), value)}, {}, 1.0)
    torch.testing.assert_close(total.finish(OLD)["w"], torch.full((2, 1), 5 / 3))


holders = st.lists(
    st.tuples(st.sets(st.integers(0, 3), min_size=1), st.floats(0.1, 10), st.integers(0, 2**31)), min_size=1, max_size=6
)


@given(holders, st.booleans())
def test_without_trimming_or_with_equal_norms_it_is_the_weighted_mean(parts, by_module: bool) -> None:
    axes = {"w": ("modules", "in"), "b": (None,), "count": (None,)}
    old = {"w": torch.randn(4, 3), "b": torch.randn(2), "count": torch.tensor([3])}
    plain, trimmed, bounded = WeightedSum(axes, old), Robust(axes, "trimmed-mean", 0.0), Robust(axes, "norm-bound", 0)
    bounded_plain = WeightedSum(axes, old)
    for modules, weight, seed in parts:
        indices = torch.tensor(sorted(modules))
        g = torch.Generator().manual_seed(seed)
        part = {"w": torch.randn(len(indices), 3, generator=g), "b": torch.randn(2, generator=g), "count": old["count"]}
        index_weights = {"modules": torch.rand(len(indices), generator=g) + 0.1} if by_module else None
        for total in (plain, trimmed):
            total.add(part, {"modules": indices}, weight, index_weights)
        equal = {"w": old["w"][indices] + 1, "b": old["b"] - 1, "count": old["count"]}
        for total in (bounded_plain, bounded):
            total.add(equal, {"modules": indices}, weight, index_weights)
    for name in old:
        torch.testing.assert_close(trimmed.finish(old)[name], plain.finish(old)[name], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(bounded.finish(old)[name], bounded_plain.finish(old)[name], rtol=1e-6, atol=1e-6)


@given(st.integers(3, 9), st.data())
def test_a_minority_cannot_move_the_result_beyond_honest_values(clean: int, data: st.DataObject) -> None:
    """A trimmed mean tolerates a share of ``trim``, a median just less than half, whatever the poison."""
    values = data.draw(st.lists(st.floats(-1, 1), min_size=clean, max_size=clean))
    poison = data.draw(st.sampled_from([-1e30, -50.0, 50.0, 1e30]))
    for rule, poisoned in (("trimmed-mean", clean // 4), ("median", clean - 1)):
        got = merged(rule, {0: [*values, *[poison] * poisoned]}, trim=0.2)[0]
        assert min(values) - 1e-6 <= got <= max(values) + 1e-6


def test_two_partial_sums_merge_to_the_whole() -> None:
    parts = [({"w": torch.randn(2, 1)}, {}, 1.0) for _ in range(5)]
    whole, left, right = (Robust(AXES, "median", 0.0) for _ in range(3))
    for at, part in enumerate(parts):
        whole.add(*part)
        (left if at < 2 else right).add(*part)
    left.merge(right)
    np.testing.assert_array_equal(left.finish(OLD)["w"], whole.finish(OLD)["w"])


@pytest.mark.parametrize("rule", ["norm-bound", "trimmed-mean", "median"])
def test_no_updates_change_nothing(rule: str) -> None:
    assert merged(rule, {}) == [0.0, 0.0]


def test_updates_that_change_nothing_have_no_norm_to_divide_by() -> None:
    assert merged("norm-bound", {0: [0.0, 0.0], 1: [0.0]}) == [0.0, 0.0]
