"""Cutting sub-models by coverage: numbers worked by hand."""

import pytest
import torch

from models.submodel import FULL, covered_sizes, extract

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
