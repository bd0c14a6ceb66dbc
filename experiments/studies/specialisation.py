"""Does the modular cloud model specialise? What a sample activates, what sub-tasks share, what a client can hold.

``specialisation`` compares it with and without ability enhancing, ``recipe`` compares ways to make it with the dense
model. Clients are those of the setting at step 0, with their data and limits. The models are scored as delivered.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.studies.study import Measured, Study, Tick
from experiments.studies.submodels import delivered, draw_modules, end_to_end, wanted
from fl.workloads.resolve import Run
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from fl.workloads.world import tensors
from models.modular.derive import choose_many
from models.modular.model import ModularModel, mapping
from models.nn.body import columns_coverage, device_of
from models.training.loop import score
from partitions import Purpose, rng
from strategies.core.client import Limits
from strategies.core.pretrained import PretrainedModels

MEASURES: Mapping[str, str] = {
    "effective_modules": "modules among which the selector divides a sample: the exponential of its entropy, mean over "
    "the test set",
    "overlap": "what two classes share of a layer's modules, mean over the pairs: sum_n min(H[a, n], H[b, n])",
    "held": "modules of the layer in the sub-model derived for a client within its limits",
    "mass": "share of the client's importance on the modules of the layer that it holds",
    "derived": "accuracy of that sub-model on the client's test samples",
    "random": "accuracy of as many modules of each layer, drawn at random",
    "whole": "accuracy of the whole cloud model on the test set",
}


@dataclass(frozen=True)
class Row:
    """One measured value.

    Args:
        training: 'ability' (with ability enhancing), 'end-to-end' (as many epochs without), or 'dense' (the model from
            which the modular one is made, trained for as many epochs).
        measure: key of `MEASURES`.
        layer: number of the module layer, from 0; -1: all of them.
        device: number of the client; -1: the cloud's test set.
        value: of the measure.
    """

    training: str
    measure: str
    layer: int
    device: int
    value: float


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Measure the modular cloud model with ability enhancing, and with as many epochs end to end."""
    models, plain = run.workload.prepare(seed, tick), end_to_end(run).workload.prepare(seed, tick)
    for training, model in (("ability", models.modular()), ("end-to-end", plain.modular())):
        for name, layer, device, value in (*_routing(model, run), *_clients(model, models, run, seed)):
            yield Row(training, name, layer, device, value)


def measure_recipe(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Measure the modular cloud model beside the dense one, on the test set and as clients get it."""
    models, data = run.workload.prepare(seed, tick), run.worlds.dataset
    x, y = tensors(data, "test")
    modular = models.modular()
    dense = models.network("dense").to(device_of(modular.body))
    yield Row("dense", "whole", -1, -1, score(dense, x, y, data.num_classes).accuracy)
    yield Row("ability", "whole", -1, -1, modular.score(x, y, data.num_classes).accuracy)
    for name, layer, device, value in (*_routing(modular, run), *_clients(modular, models, run, seed)):
        yield Row("ability", name, layer, device, value)


def _routing(model: ModularModel, run: Run) -> Iterator[tuple[str, int, int, float]]:
    """Measure how the selector divides the test set."""
    data = run.worlds.dataset
    x, y = tensors(data, "test")
    logits = model.logits(x)
    for layer, (scores, load_TN) in enumerate(zip(logits, mapping(logits, y, data.num_classes), strict=True)):
        entropy_n = -(scores.softmax(1) * scores.log_softmax(1)).sum(1)
        yield "effective_modules", layer, -1, float(entropy_n.exp().mean())
        shared = [float(np.minimum(a, b).sum()) for a, b in combinations(load_TN, 2)]
        yield "overlap", layer, -1, float(np.mean(shared))


def _clients(
    model: ModularModel, models: PretrainedModels, run: Run, seed: int
) -> Iterator[tuple[str, int, int, float]]:
    """Measure what each client can hold, and how it fares with it."""
    world, costs, sizes = run.worlds(seed), models.costs["modular"], models.architectures["modular"].sizes
    whole, nowhere = models.costs["dense"].whole, ClientStateStore(Path())
    for device in range(run.settings.devices.count):
        draw = world.draw(device, 0)
        scores = wanted(model, costs, tensors(world.data, "train", draw.train)[0])
        spare = run.workload.limits(ClientContext(device, seed, 0, 0, nowhere))
        limits = Limits.shares(whole, spare.link, spare.compute, spare.memory)
        (kept,) = choose_many(costs, [scores], [limits.vector], Limits.names)
        if kept is None:
            continue  # nothing fits
        for layer, (name, modules) in enumerate(kept.items()):
            yield "held", layer, device, float(len(modules))
            yield "mass", layer, device, float(scores[name][modules].sum())
        derived = columns_coverage(sizes, kept)
        counts = {axis: len(modules) for axis, modules in derived.items()}
        drawn = draw_modules(rng(seed, Purpose.STUDY, device), costs, counts, model.routing.core)
        (x, _), y = tensors(world.data, "test", draw.test), torch.from_numpy(draw.test_labels)
        logits = model.logits(x)
        for kind, coverage in (("derived", derived), ("random", drawn)):
            accuracy = delivered(model, models.architectures["modular"], coverage, logits, x, y, world.data.num_classes)
            yield kind, -1, device, accuracy


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute the mean of each measure over layers and clients, and three differences of accuracy.

    ``gap``: derived minus random sub-models; ``delivered_gain``: of derived sub-models by ability enhancing;
    ``above_dense``: of the whole modular model minus the dense one.
    """
    means = rows.groupby(["training", "measure"], sort=False)["value"].mean()
    found = {(str(training), str(name)): float(value) for (training, name), value in means.items()}
    for training in dict.fromkeys(rows["training"]):
        if training != "dense":
            found[training, "gap"] = found[training, "derived"] - found[training, "random"]
    if ("end-to-end", "derived") in found:
        found["ability", "delivered_gain"] = found["ability", "derived"] - found["end-to-end", "derived"]
    if ("dense", "whole") in found:
        found["ability", "above_dense"] = found["ability", "whole"] - found["dense", "whole"]
    return found


SPECIALISATION = Study(Row, measure, metrics)
RECIPE = Study(Row, measure_recipe, metrics)
