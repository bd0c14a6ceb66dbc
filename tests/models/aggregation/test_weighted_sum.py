"""The weighted sum: numbers worked by hand, and algebraic laws."""

import pickle

import hypothesis.extra.numpy as hnp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL, Joined, extract

AXES = {"w": ("out", "in"), "b": ("out",), "steps": ()}
OLD = {
    "w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "b": torch.tensor([5.0, 6.0]),
    "steps": torch.tensor(7),
}
ROW_1 = {"out": torch.tensor([1])}


def test_merge_by_hand() -> None:
    """Client A covers everything with weight 1, client B covers row 1 with weight 3.

    w[0] = A's (10, 20); w[1] = (1 * (30, 40) + 3 * (2, 4)) / 4 = (9, 13); b[1] = (1 * 60 + 3 * 20) / 4 = 30;
    steps = (1 * 9 + 3 * 10) / 4 = 9.75, an integer: 10.
    """
    total = WeightedSum(AXES, OLD)
    whole = {"w": torch.tensor([[10.0, 20.0], [30.0, 40.0]]), "b": torch.tensor([50.0, 60.0]), "steps": torch.tensor(9)}
    total.add(whole, FULL, 1.0)
    total.add({"w": torch.tensor([[2.0, 4.0]]), "b": torch.tensor([20.0]), "steps": torch.tensor(10)}, ROW_1, 3.0)
    new = total.finish(OLD)
    assert new["w"].tolist() == [[10.0, 20.0], [9.0, 13.0]]
    assert new["b"].tolist() == [50.0, 30.0]
    assert new["steps"].dtype == torch.int64 and new["steps"] == 10


def test_index_weights_replace_the_weight() -> None:
    """Each row is the mean of two clients, weighted by their importance of that row."""
    total = WeightedSum(AXES, OLD)
    for value, scores in ((0.0, [0.2, 0.8]), (10.0, [0.6, 0.2])):
        part = {"w": torch.full((2, 2), value), "b": torch.full((2,), value), "steps": torch.tensor(0)}
        total.add(part, FULL, 1.0, {"out": torch.tensor(scores)})
    new = total.finish(OLD)
    torch.testing.assert_close(new["b"], torch.tensor([7.5, 2.0]))  # 10 * 0.6 / 0.8, 10 * 0.2 / 1.0
    torch.testing.assert_close(new["w"], torch.tensor([[7.5, 7.5], [2.0, 2.0]]))


def test_an_empty_coverage_of_an_axis_adds_nothing_along_it() -> None:
    """Empty index weights add nothing either. Parameters without that axis still count."""
    axes, old = {"w": ("one", "in"), "b": ("in",)}, {"w": torch.tensor([[1.0, 2.0]]), "b": torch.zeros(2)}
    total, none = WeightedSum(axes, old), torch.tensor([], dtype=torch.int64)
    part = {"w": torch.zeros(0, 2), "b": torch.tensor([3.0, 4.0])}
    total.add(part, {"one": none}, 2.0, {"one": none.float()})
    new = total.finish(old)
    assert new["w"].tolist() == [[1.0, 2.0]] and new["b"].tolist() == [3.0, 4.0]


def test_uncovered_entries_keep_their_old_value() -> None:
    new = WeightedSum(AXES, OLD).finish(OLD)
    for name in OLD:
        assert torch.equal(new[name], OLD[name]), name


indices = st.lists(st.integers(0, 3), min_size=0, max_size=4, unique=True).map(
    lambda i: torch.tensor(sorted(i), dtype=torch.int64)
)
values = hnp.arrays("float32", (4, 3), elements=st.floats(-8, 8, width=32)).map(torch.from_numpy)
parts = st.lists(st.tuples(values, indices, st.floats(0.125, 8)), min_size=1, max_size=5)
GRID_AXES = {"w": ("out", None)}


def _summed(entries: list) -> WeightedSum:
    total = WeightedSum(GRID_AXES, {"w": torch.zeros(4, 3)})
    for value, rows, weight in entries:
        total.add(extract({"w": value}, GRID_AXES, {"out": rows}), {"out": rows}, weight)
    return total


@given(parts, st.randoms(use_true_random=False))
def test_order_and_split_do_not_matter(entries: list, random) -> None:
    old = {"w": torch.full((4, 3), 9.0)}
    one_go = _summed(entries).finish(old)["w"]
    shuffled = entries[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(shuffled))
    left, right = _summed(shuffled[:cut]), _summed(shuffled[cut:])
    left.merge(pickle.loads(pickle.dumps(right)))  # from another process
    torch.testing.assert_close(left.finish(old)["w"], one_go, rtol=1e-5, atol=1e-5)


def test_pickling_keeps_a_sum_and_stores_equal_weights_once() -> None:
    axes, like = {"w": ("out", "in"), "steps": ()}, {"w": torch.randn(40, 50), "steps": torch.tensor(3)}
    total = WeightedSum(axes, like)
    total.add(like, FULL, 7.0)
    assert len(pickle.dumps(total)) < 8 * 40 * 50 + 1000
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(total))
        for part in (copy, total):  # both copies then receive the same update
            part.add({"w": like["w"][:3]}, {"out": torch.arange(3)}, 2.0)
        for name in like:
            assert torch.equal(copy.total[name], total.total[name]), name
            assert torch.equal(copy.weight[name], total.weight[name]), name


@given(parts, st.floats(0.5, 4))
def test_a_common_factor_of_the_weights_cancels(entries: list, factor: float) -> None:
    old = {"w": torch.zeros(4, 3)}
    scaled = [(value, rows, weight * factor) for value, rows, weight in entries]
    torch.testing.assert_close(
        _summed(scaled).finish(old)["w"], _summed(entries).finish(old)["w"], rtol=1e-5, atol=1e-5
    )


@given(values, indices)
def test_extract_then_merge_restores_only_the_covered_part(value: torch.Tensor, rows: torch.Tensor) -> None:
    old = {"w": torch.full((4, 3), 9.0)}
    new = _summed([(value, rows, 1.0)]).finish(old)["w"]
    outside = torch.ones(4, dtype=torch.bool)
    outside[rows] = False
    torch.testing.assert_close(new[rows], value[rows])
    assert (new[outside] == 9).all()


COVERAGES = [None, [0, 1, 2], [1, 2], [2], [0, 2], [2, 0], []]


@pytest.mark.parametrize("rows", COVERAGES)
@pytest.mark.parametrize("columns", COVERAGES)
@pytest.mark.parametrize("weighted_axis", ["", "out", "in"])
def test_every_coverage_adds_entry_by_entry(
    rows: list[int] | None, columns: list[int] | None, weighted_axis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consecutive and other indices, all, none; one weight or one per index: as a loop over single entries."""
    monkeypatch.setattr("models.aggregation.weighted_sum.CHUNK", 2)  # three entries take two chunks
    covered = {"out": rows, "in": columns}
    coverage = {axis: torch.tensor(own, dtype=torch.long) for axis, own in covered.items() if own is not None}
    indices = {axis: own if own is not None else [0, 1, 2] for axis, own in covered.items()}
    part = 1 + torch.arange(9.0)[: len(indices["out"]) * len(indices["in"])].reshape(
        len(indices["out"]), len(indices["in"])
    )
    index_weights = {weighted_axis: 0.5 + torch.arange(len(indices[weighted_axis]))} if weighted_axis else {}
    total = WeightedSum({"w": ("out", "in")}, {"w": torch.zeros(3, 3)})
    total.add({"w": part}, coverage, 2.0, index_weights)
    sums, weights = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for i, row in enumerate(indices["out"]):
        for k, column in enumerate(indices["in"]):
            weight = 0.5 + {"": 1.5, "out": i, "in": k}[weighted_axis]
            sums[row, column] += weight * float(part[i, k])
            weights[row, column] += weight
    torch.testing.assert_close(total.total["w"], sums)
    torch.testing.assert_close(total.weight["w"].expand(3, 3), weights)


@pytest.mark.parametrize("modules", [None, [0, 1], [0, 2], [2]])
@pytest.mark.parametrize("columns", [None, [1, 2], [0, 2]])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_a_joined_dimension_adds_entry_by_entry(
    modules: list[int] | None, columns: list[int] | None, weighted: bool, flip: bool
) -> None:
    """Three modules of two channels, then one channel more, along rows or columns; as a loop over single entries."""
    joined = Joined(((("modules", 3), ("hidden", 2)), (("other", 1),)))
    given = {"modules": modules, "in": columns}
    coverage = {axis: torch.tensor(own) for axis, own in given.items() if own is not None}
    held, chosen = modules or [0, 1, 2], columns or [0, 1, 2]
    rows = [(2 * m + h, 3.0 + at if weighted else 2.0) for at, m in enumerate(held) for h in (0, 1)] + [(6, 2.0)]
    part = 1 + torch.arange(float(len(rows) * len(chosen))).reshape(len(rows), len(chosen))
    sums, weights = torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, 3, dtype=torch.float64)
    for i, (row, weight) in enumerate(rows):
        for k, column in enumerate(chosen):
            sums[row, column] += weight * float(part[i, k])
            weights[row, column] += weight
    axes = {"w": ("in", joined) if flip else (joined, "in")}
    turned = (lambda value: value.T) if flip else (lambda value: value)
    total = WeightedSum(axes, {"w": turned(torch.zeros(7, 3))})
    index_weights = {"modules": 3.0 + torch.arange(len(held))} if weighted else None
    total.add({"w": turned(part)}, coverage, 2.0, index_weights)
    torch.testing.assert_close(total.total["w"], turned(sums))
    torch.testing.assert_close(total.weight["w"].expand(total.total["w"].shape), turned(weights))
