"""Coverage, extract and the weighted sum: numbers worked by hand, and laws."""

import pickle

import hypothesis.extra.numpy as hnp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL, covered_sizes, extract

AXES = {"w": ("out", "in"), "b": ("out",), "steps": ()}
OLD = {
    "w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "b": torch.tensor([5.0, 6.0]),
    "steps": torch.tensor(7),
}
ROW_1 = {"out": torch.tensor([1])}
CORNER = {"out": torch.tensor([1]), "in": torch.tensor([0])}


def test_extract_cuts_the_named_axes() -> None:
    part = extract(OLD, AXES, CORNER)
    assert part["w"].tolist() == [[3.0]]
    assert part["b"].tolist() == [6.0]
    assert part["steps"] == 7


def test_extract_copies() -> None:
    extract(OLD, AXES, FULL)["w"].zero_()
    assert OLD["w"][0, 0] == 1


def test_merge_by_hand() -> None:
    """A trains everything with weight 1, B trains row 1 with weight 3.

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


def test_weights_along_an_axis_replace_the_weight() -> None:
    """Importance 0.2 and 0.8 for the two rows, in two devices with swapped importance: row i is their weighted mean."""
    total = WeightedSum(AXES, OLD)
    for value, scores in ((0.0, [0.2, 0.8]), (10.0, [0.6, 0.2])):
        part = {"w": torch.full((2, 2), value), "b": torch.full((2,), value), "steps": torch.tensor(0)}
        total.add(part, FULL, 1.0, {"out": torch.tensor(scores)})
    new = total.finish(OLD)
    torch.testing.assert_close(new["b"], torch.tensor([7.5, 2.0]))  # 10 * 0.6 / 0.8, 10 * 0.2 / 1.0
    torch.testing.assert_close(new["w"], torch.tensor([[7.5, 7.5], [2.0, 2.0]]))


def test_a_part_without_the_only_index_of_an_axis_adds_nothing_there() -> None:
    """Nor does its empty weight along that axis; what it holds besides counts."""
    axes, old = {"w": ("one", "in"), "b": ("in",)}, {"w": torch.tensor([[1.0, 2.0]]), "b": torch.zeros(2)}
    total, none = WeightedSum(axes, old), torch.tensor([], dtype=torch.int64)
    part = {"w": torch.zeros(0, 2), "b": torch.tensor([3.0, 4.0])}
    total.add(part, {"one": none}, 2.0, {"one": none.float()})
    new = total.finish(old)
    assert new["w"].tolist() == [[1.0, 2.0]] and new["b"].tolist() == [3.0, 4.0]


def test_what_nobody_trained_keeps_its_old_value() -> None:
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


def test_a_sum_travels_whole_and_without_weights_that_are_all_the_same() -> None:
    axes, like = {"w": ("out", "in"), "steps": ()}, {"w": torch.randn(40, 50), "steps": torch.tensor(3)}
    total = WeightedSum(axes, like)
    total.add(like, FULL, 7.0)
    assert len(pickle.dumps(total)) < 8 * 40 * 50 + 1000
    for _ in range(2):
        sent = pickle.loads(pickle.dumps(total))
        for part in (sent, total):  # the one that was sent goes on as the other does
            part.add({"w": like["w"][:3]}, {"out": torch.arange(3)}, 2.0)
        for name in like:
            assert torch.equal(sent.total[name], total.total[name]), name
            assert torch.equal(sent.weight[name], total.weight[name]), name


@given(parts, st.floats(0.5, 4))
def test_a_common_factor_of_the_weights_cancels(entries: list, factor: float) -> None:
    old = {"w": torch.zeros(4, 3)}
    scaled = [(value, rows, weight * factor) for value, rows, weight in entries]
    torch.testing.assert_close(
        _summed(scaled).finish(old)["w"], _summed(entries).finish(old)["w"], rtol=1e-5, atol=1e-5
    )


@given(values, indices)
def test_extract_then_merge_restores_the_covered_part_and_nothing_else(value: torch.Tensor, rows: torch.Tensor) -> None:
    old = {"w": torch.full((4, 3), 9.0)}
    new = _summed([(value, rows, 1.0)]).finish(old)["w"]
    outside = torch.ones(4, dtype=torch.bool)
    outside[rows] = False
    torch.testing.assert_close(new[rows], value[rows])
    assert (new[outside] == 9).all()


KEPT = [None, [0, 1, 2], [1, 2], [2], [0, 2], [2, 0], []]


@pytest.mark.parametrize("rows", KEPT)
@pytest.mark.parametrize("columns", KEPT)
@pytest.mark.parametrize("weighed", ["", "out", "in"])
def test_every_coverage_adds_entry_by_entry(
    rows: list[int] | None, columns: list[int] | None, weighed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of indices, others, all, none; one weight or one per index: against a loop over single entries."""
    monkeypatch.setattr("models.aggregation.weighted_sum.PIECE", 2)  # three entries take two pieces
    sides = {"out": rows, "in": columns}
    coverage = {axis: torch.tensor(kept, dtype=torch.long) for axis, kept in sides.items() if kept is not None}
    at = {axis: kept if kept is not None else [0, 1, 2] for axis, kept in sides.items()}
    part = 1 + torch.arange(9.0)[: len(at["out"]) * len(at["in"])].reshape(len(at["out"]), len(at["in"]))
    index_weights = {weighed: 0.5 + torch.arange(len(at[weighed]))} if weighed else {}
    total = WeightedSum({"w": ("out", "in")}, {"w": torch.zeros(3, 3)})
    total.add({"w": part}, coverage, 2.0, index_weights)
    sums, weights = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for i, row in enumerate(at["out"]):
        for k, column in enumerate(at["in"]):
            weight = 0.5 + {"": 1.5, "out": i, "in": k}[weighed]
            sums[row, column] += weight * float(part[i, k])
            weights[row, column] += weight
    torch.testing.assert_close(total.total["w"], sums)
    torch.testing.assert_close(total.weight["w"].expand(3, 3), weights)


def test_sizes_are_those_kept_where_the_coverage_names_an_axis() -> None:
    assert covered_sizes({"out": 4, "in": 3}, {"out": torch.tensor([3, 1])}) == {"out": 2, "in": 3}


def test_an_unknown_axis_is_refused() -> None:
    with pytest.raises(KeyError, match="depth"):
        covered_sizes({"out": 4}, {"depth": torch.tensor([0])})
