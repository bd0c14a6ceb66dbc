"""derive: sub-models for 500 devices under three limits, ResNet18 cut into 16 modules in each of 4 layers.

HiGHS solves only 20 of them, because all would take it most of a minute.
"""

import numpy as np

from experiments.bench.table import Options, Table, interleave
from models.costs import CostModel
from models.modular.derive import choose, choose_many, derive_milp
from models.nn.resnet import resnet18

DEVICES, FEW = 500, 20
NAMES = ("bytes", "MACs", "bytes of memory")


def bench(options: Options) -> Table:
    costs = CostModel(resnet18((3, 32, 32), 10).modular(16, 8), batch_size=16)
    g, layers = np.random.default_rng(0), costs.layers
    importance = [{layer: g.dirichlet(np.ones(16)) for layer in layers} for _ in range(DEVICES)]
    least, whole = np.array(costs.of(dict.fromkeys(layers, 1)).vector[1:]), np.array(costs.whole.vector[1:])
    limits = [least + share * (whole - least) for share in g.uniform(0.1, 0.9, (DEVICES, 3))]
    base = np.array(costs.base.vector[1:])
    each = {layer: np.tile(costs.module[layer].vector[1:], (16, 1)) for layer in layers}

    def value(device: int, chosen: dict[str, np.ndarray]) -> float:
        return float(sum(importance[device][layer][kept].sum() for layer, kept in chosen.items()))

    lines = interleave(
        {
            "all at once": lambda: choose_many(costs, importance, limits, NAMES),
            "one by one": lambda: [choose(costs, i, limit, NAMES) for i, limit in zip(importance, limits, strict=True)],
            f"HiGHS, {FEW} devices": lambda: [
                derive_milp(importance[d], base, each, limits[d], NAMES) for d in range(FEW)
            ],
        },
        options,
    )
    together = choose_many(costs, importance, limits, NAMES)
    gaps = []
    for device in range(FEW):
        found = together[device]
        assert found is not None
        gaps.append(
            value(device, derive_milp(importance[device], base, each, limits[device], NAMES)) - value(device, found)
        )
    return Table(
        "Derivation for 500 devices, seconds.",
        "all at once",
        lines,
        [f"Importance gained by HiGHS beyond ours, in {FEW} devices: {max(gaps):.1e} at most (both are exact)."],
    )
