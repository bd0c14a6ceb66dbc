"""What a client that activates only some of the modules that it received reports to the server."""

from collections.abc import Mapping
from typing import Any

from models.costs import Cost, CostModel
from models.nn.body import bypass_axis
from models.submodel import covered_sizes
from strategies.core.strategy import TrainTask


def active_cost(costs: CostModel, task: TrainTask, report: Mapping[str, Any]) -> Cost:
    """Return the cost of the modules that a client says it activated.

    Raises:
        ValueError, KeyError, TypeError: the reported numbers of modules are impossible.
    """
    received = covered_sizes(costs.architecture.sizes, task.model.coverage)
    active = {axis: int(report[f"active.{axis}"]) for axis in (*costs.layers, *costs.bypass)}
    for axis, n in active.items():
        if not 0 <= n <= received[axis]:
            raise ValueError(f"activates {n} modules of {axis}, received {received[axis]}")
    for layer in costs.layers:
        if active[layer] + active.get(bypass_axis(layer), 0) == 0:
            raise ValueError(f"activates no module of {layer}")
    return costs.of(active)
