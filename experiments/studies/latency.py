"""How far the estimates of `models.costs` are from what training and inference take on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from experiments.studies.measuring import latencies, peak_memory
from experiments.studies.study import Measured, Study, Tick
from fl.config.settings import Settings
from fl.workloads.world import architectures, dataset, hyper, recipe
from models.costs import CostModel
from models.nn.body import Architecture
from models.submodel import Sizes

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the modules beyond the first of each layer
REPEATS = 15
WHOLE = "dense"


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: 'dense', or 'modular K/N' with the modules of a layer that it holds.
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


def measure(settings: Settings, seed: int, tick: Tick) -> Iterator[Row]:
    """The dense model and sub-models of several sizes, untrained: time does not depend on weights. By the clock."""
    how, data, built = recipe(settings), dataset(settings), architectures(settings)
    costs = {kind: CostModel(built[kind], how.batch_size, how.slots) for kind in ("dense", "modular")}
    models = {WHOLE: (built["dense"], built["dense"].sizes)} | sub_models(built["modular"], costs["modular"])
    timed = latencies(models, WHOLE, how, REPEATS)
    for at, (name, (architecture, sizes)) in enumerate(models.items()):
        tick("memory of model", at, len(models))
        changed = {axis: n for axis, n in sizes.items() if n != architecture.sizes[axis]}
        cut = None if name == WHOLE else (settings.modules, settings.shrink, settings.residual)
        memory = peak_memory(settings.model, data.input_shape, data.num_classes, how, hyper(settings), cut, changed)
        of = costs["dense" if name == WHOLE else "modular"]
        params = of.whole.params if name == WHOLE else of.of(sizes).params
        took = timed[name]
        yield Row(
            name, round(params), round(took.macs), took.train_s, took.train_estimate_s, took.inference_s,
            took.inference_estimate_s, memory.measured, round(memory.accounted),
        )  # fmt: skip


def sub_models(modular: Architecture, costs: CostModel) -> dict[str, tuple[Architecture, Sizes]]:
    """Sub-models with the same number of modules in every layer, from one to all."""
    whole = min(modular.sizes[layer] for layer in costs.layers)
    counts = dict.fromkeys(1 + round(share * (whole - 1)) for share in SHARES)
    return {
        f"modular {count}/{whole}": (modular, {**modular.sizes, **dict.fromkeys(costs.layers, count)})
        for count in counts
    }


def metrics(rows: pd.DataFrame) -> Measured:
    """Milliseconds and MB of every model, and estimate over measurement."""
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
