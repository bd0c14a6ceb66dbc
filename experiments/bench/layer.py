"""layer: a module layer run as one wide block or module by module, forward and backward, by number of modules."""

from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from experiments.bench.table import Options, Table, interleave
from models.modular.selector import Routing
from models.nn.blocks import ConvBlock, Execution, use_dispatch

CHANNELS, PIXELS, HIDDEN, BATCH, TOP_K = 128, 16, 32, 16, 4
COUNTS = (2, 4, 8, 16)


def bench(options: Options) -> Table:
    works: dict[str, Callable[[], object]] = {}
    rule = {}
    for count in COUNTS:
        g = torch.Generator().manual_seed(0)
        x = torch.randn(BATCH, CHANNELS, PIXELS, PIXELS, generator=g, requires_grad=True)
        gates = Routing(TOP_K, 4.0).gates(torch.randn(BATCH, count, generator=g))
        executions: tuple[Execution, ...] = ("fused", "dispatch")
        for execution in executions:
            block = ConvBlock(count, CHANNELS, HIDDEN, CHANNELS, generator=g)
            block.execution = execution
            works[f"{execution}, {count} modules"] = partial(_pass, block, x, gates)
        macs = 9 * HIDDEN * 2 * CHANNELS * PIXELS**2 * BATCH
        rule[count] = "dispatch" if use_dispatch(gates, "auto", macs) else "fused"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lines = {line.what: line for line in interleave(works, options)}
    finally:
        torch.set_num_threads(threads)
    best = 0
    for count, chosen in rule.items():
        lines[f"{chosen}, {count} modules"].facts = {"rule": "this one"}
        cpu = {execution: median(lines[f"{execution}, {count} modules"].cpu) for execution in ("fused", "dispatch")}
        best += cpu[chosen] <= 1.05 * min(cpu.values())
    return Table(
        f"A layer of {CHANNELS} channels on {PIXELS} x {PIXELS} pixels, {TOP_K} modules of {HIDDEN} channels active "
        f"per sample, batch {BATCH}: seconds of a forward and backward pass on one thread.",
        f"fused, {COUNTS[1]} modules",
        list(lines.values()),
        [f"The rule `models.nn.blocks.use_dispatch` chooses the faster way (within 5 %) in {best} of {len(COUNTS)}."],
    )


def _pass(block: ConvBlock, x: torch.Tensor, gates: torch.Tensor) -> None:
    block(x, gates).square().mean().backward()
    block.zero_grad()
