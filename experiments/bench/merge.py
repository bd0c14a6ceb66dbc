"""merge: 25 updates of a whole ResNet18 (45 MB each) added to a weighted mean, compared with copying them.

Sub-models with half of the modules are aggregated as in ECLM, each module weighted by its importance.
"""

from collections.abc import Sequence
from functools import partial
from statistics import median

import torch

from experiments.bench.table import Options, Table, interleave
from models.aggregation.weighted_sum import WeightedSum
from models.nn.resnet import resnet18
from models.submodel import FULL, Coverage, State, extract

UPDATES = 25
DIFFERENT = 3  # updates in memory, more than fit into a cache


def bench(options: Options) -> Table:
    dense = resnet18((3, 32, 32), 10)
    modular = dense.modular(16, 16)
    body, cut = dense.whole(0), modular.whole(0)
    whole = [body.state() for _ in range(DIFFERENT)]
    half: Coverage = {layer: torch.arange(0, 16, 2) for layer in cut.layers}
    parts = [extract(cut.state(), cut.axes(), half) for _ in range(DIFFERENT)]
    into, alone = body.state(), WeightedSum(body.axes(), body.state())
    mean = WeightedSum(cut.axes(), cut.state())
    importance = {layer: torch.full((8,), 0.1) for layer in half}

    def copy() -> None:
        for k in range(UPDATES):
            for name, value in whole[k % DIFFERENT].items():
                into[name].copy_(value)

    def merge(total: WeightedSum, states: Sequence[State], coverage: Coverage, index_weights: Coverage) -> None:
        for k in range(UPDATES):
            total.add(states[k % DIFFERENT], coverage, 100.0, index_weights)

    lines = interleave(
        {
            "copy": copy,
            "merge": partial(merge, alone, whole, FULL, {}),
            "merge of sub-models": partial(merge, mean, parts, half, importance),
        },
        options,
    )
    sizes = [sum(v.nbytes for v in state.values()) * UPDATES for state in (whole[0], whole[0], parts[0])]
    for line, size in zip(lines, sizes, strict=True):
        line.facts = {"GB/s": f"{size / median(line.cpu) / 1e9:.1f}"}
    share = median(lines[0].cpu) / median(lines[1].cpu)
    return Table(
        "Aggregation of 25 updates of ResNet18 in one process, seconds; GB of updates per CPU second.",
        "copy",
        lines,
        [f"Aggregation reaches {share:.2f} of the bandwidth of copying."],
    )
