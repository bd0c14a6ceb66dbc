"""Compare the estimates of `models.costs` with the time and memory of training and inference on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pandas as pd

from experiments.studies.measuring import latencies, peak_memory
from experiments.studies.study import Measured, Study, Tick
from fl.workloads.resolve import Run
from fl.workloads.world import model_options
from models.costs import CostModel
from models.nn.body import Architecture
from models.submodel import Sizes

if TYPE_CHECKING:
    from fl.workloads.classify import Classify

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the modules beyond the first of each layer
REPEATS = 15
WHOLE = "dense"


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: 'dense', or 'modular K/N' with K of the N modules of each layer.
        params: entries of its state; macs: of one forward pass of one sample.
        train_s, train_estimate_s: one training step of a batch; the estimate is the dense model's time scaled by MACs.
        inference_s, inference_estimate_s: one forward pass of one sample.
        memory, memory_estimate: bytes of training, measured peak and accounted sum.
    """

    model: str
    params: int
    macs: int
    train_s: float
    train_estimate_s: float
    inference_s: float
    inference_estimate_s: float
    memory: int
    memory_estimate: int


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Time the dense model and sub-models of several sizes. They are untrained: time does not depend on weights."""
    workload, data, section = cast("Classify", run.workload), run.worlds.dataset, run.settings.model
    recipe, built, costs, how = workload.recipe, workload.architectures, workload.costs, workload.modular
    options = model_options(data, section, workload.family, workload.family_options)
    models = {WHOLE: (built["dense"], built["dense"].sizes)} | sub_models(built["modular"], costs["modular"])
    timed = latencies(models, WHOLE, recipe, REPEATS)
    for at, (name, (architecture, sizes)) in enumerate(models.items()):
        tick("memory of model", at, len(models))
        changed = {axis: n for axis, n in sizes.items() if n != architecture.sizes[axis]}
        cut = None if name == WHOLE else (how.modules, how.shrink, how.residual)
        memory = peak_memory(section.name, data.input_shape, data.num_classes, recipe, options, cut, changed)
        of = costs["dense" if name == WHOLE else "modular"]
        params = of.whole.params if name == WHOLE else of.of(sizes).params
        took = timed[name]
        yield Row(
            name, round(params), round(took.macs), took.train_s, took.train_estimate_s, took.inference_s,
            took.inference_estimate_s, memory.measured, round(memory.accounted),
        )  # fmt: skip


def sub_models(modular: Architecture, costs: CostModel) -> dict[str, tuple[Architecture, Sizes]]:
    """Return sub-models with the same number of modules in every layer, from one to all."""
    whole = min(modular.sizes[layer] for layer in costs.layers)
    counts = dict.fromkeys(1 + round(share * (whole - 1)) for share in SHARES)
    return {
        f"modular {count}/{whole}": (modular, {**modular.sizes, **dict.fromkeys(costs.layers, count)})
        for count in counts
    }


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute milliseconds and MB of every model, and the ratios of estimate to measurement."""
    found: dict[tuple[str, str], float] = {}
    for row in rows.itertuples():
        found |= {
            (row.model, "train_ms"): 1e3 * row.train_s,
            (row.model, "train_ratio"): row.train_estimate_s / row.train_s,
            (row.model, "inference_ms"): 1e3 * row.inference_s,
            (row.model, "inference_ratio"): row.inference_estimate_s / row.inference_s,
            (row.model, "peak_mb"): row.memory / 1e6,
            (row.model, "memory_ratio"): row.memory_estimate / row.memory,
        }
    return found


LATENCY = Study(Row, measure, metrics)
