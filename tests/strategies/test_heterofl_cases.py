"""HeteroFL's aggregation against ten cases that its authors' published code has computed (Diao et al. 2021).

`heterofl_cases.json` has random networks of two convolutions, norms and a classifier, the models that clients of other
widths and classes sent, all in quarters, and the model that the function `combine` of the authors' repository made.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from models.costs import Cost
from models.submodel import State
from strategies.core.strategy import SubModel, TrainTask, Update
from strategies.heterofl import CoveredClasses

CASES = json.loads(Path(__file__).with_name("heterofl_cases.json").read_text())
AXES: dict[str, tuple[str | None, ...]] = {
    "blocks.0.weight": ("first", None, None, None), "blocks.0.bias": ("first",),
    "blocks.2.weight": ("first",), "blocks.2.bias": ("first",),
    "blocks.5.weight": ("second", "first", None, None), "blocks.5.bias": ("second",),
    "blocks.12.weight": ("classes", "second"), "blocks.12.bias": ("classes",),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_aggregation_equals_the_authors_code(case: dict[str, Any]) -> None:
    shapes = case["shapes"]
    old = state(case["old"], shapes)
    sizes = {"first": len(old["blocks.0.bias"]), "second": len(old["blocks.5.bias"])}
    mean = CoveredClasses(AXES, old)
    for client, (rate, classes, sent) in enumerate(zip(case["rates"], case["classes"], case["sent"], strict=True)):
        kept = {axis: math.ceil(rate * size) for axis, size in sizes.items()}
        own = {n: [kept.get(str(a), s) for a, s in zip(AXES[n], shapes[n], strict=True)] for n in shapes}
        model = SubModel("dense", {axis: torch.arange(count) for axis, count in kept.items()}, None)
        task = TrainTask(model, 1, Cost(0, 0, 0, 0), options={"masked": "zero"}, weight="client")
        mean.add(task, Update(client, state(sent, own), 10, {"classes": classes}))
    for name, value in mean.result(old).items():
        expected = torch.tensor(case["new"][name]).reshape(shapes[name])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5, msg=f"{name}")


def state(quarters: dict[str, list[int]], shapes: dict[str, list[int]]) -> State:
    """Return parameters of these shapes from their values in quarters."""
    return {name: torch.tensor(values).reshape(shapes[name]) / 4 for name, values in quarters.items()}
