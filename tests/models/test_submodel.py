"""Cutting sub-models by coverage: numbers worked by hand."""

import pytest
import torch

from models.submodel import FULL, Joined, axis_names, covered_sizes, extract

AXES = {"w": ("out", "in"), "b": ("out",), "steps": ()}
STATE = {
    "w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "b": torch.tensor([5.0, 6.0]),
    "steps": torch.tensor(7),
}
CORNER = {"out": torch.tensor([1]), "in": torch.tensor([0])}


def test_extract_cuts_the_named_axes() -> None:
    part = extract(STATE, AXES, CORNER)
    assert part["w"].tolist() == [[3.0]]
    assert part["b"].tolist() == [6.0]
    assert part["steps"] == 7


def test_extract_copies() -> None:
    extract(STATE, AXES, FULL)["w"].zero_()
    assert STATE["w"][0, 0] == 1


def test_covered_axes_have_the_length_of_the_coverage() -> None:
    assert covered_sizes({"out": 4, "in": 3}, {"out": torch.tensor([3, 1])}) == {"out": 2, "in": 3}


def test_an_unknown_axis_is_refused() -> None:
    with pytest.raises(KeyError, match="depth"):
        covered_sizes({"out": 4}, {"depth": torch.tensor([0])})


# three modules of two channels each, then two channels of another layer
CHANNELS = Joined(((("modules", 3), ("hidden", 2)), (("other", 2),)))


@pytest.mark.parametrize(
    ("coverage", "positions"),
    [
        ({"modules": [0, 2]}, [0, 1, 4, 5, 6, 7]),
        ({"modules": [2], "hidden": [1], "other": [1]}, [5, 7]),
        ({"hidden": [0]}, [0, 2, 4, 6, 7]),
        ({"other": []}, [0, 1, 2, 3, 4, 5]),
        ({"elsewhere": [0]}, None),
    ],
)
def test_a_joined_dimension_is_cut_by_each_of_its_axes(coverage: dict, positions: list[int] | None) -> None:
    kept = {axis: torch.tensor(own, dtype=torch.long) for axis, own in coverage.items()}
    found = CHANNELS.positions(kept)
    assert len(CHANNELS) == 8 and axis_names([CHANNELS, "in", None]) == {"modules", "hidden", "other", "in"}
    assert (found is None) if positions is None else (found is not None and found.tolist() == positions)
    part = extract({"w": torch.arange(8) * 10}, {"w": (CHANNELS,)}, kept)
    assert part["w"].tolist() == [10 * at for at in (positions if positions is not None else range(8))]


def test_flattened_pixels_stay_with_their_channel() -> None:
    assert Joined(((("channels", 3), (None, 4)),)).positions({"channels": torch.tensor([0, 2])}).tolist() == [
        0, 1, 2, 3, 8, 9, 10, 11,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("index_weights", "weights"),
    [
        ({"modules": [0.5, 0.25]}, [0.5, 0.5, 0.25, 0.25, 7]),
        ({"modules": [0.5, 0.25], "hidden": [2, 3]}, [1, 1.5, 0.5, 0.75, 7]),
        ({"other": [5]}, [7, 7, 7, 7, 5]),
    ],
)
def test_the_weight_of_a_joined_entry_is_the_product_over_its_axes(index_weights: dict, weights: list[float]) -> None:
    """Modules 0 and 2 and the second of the other channels are covered; entries without a weight of their own get 7."""
    given = {axis: torch.tensor(own, dtype=torch.float) for axis, own in index_weights.items()}
    found = CHANNELS.weights(given, {"modules": torch.tensor([0, 2]), "other": torch.tensor([1])}, 7)
    assert found.tolist() == weights
