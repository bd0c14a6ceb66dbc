"""Does the modular cloud model specialise? What a sample activates, what sub-tasks share, what a client can hold.

Clients are those of the setting at step 0, with their data and limits. The models are scored as delivered.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.studies.results import changed
from experiments.studies.study import Measured, Study, Tick
from experiments.studies.submodels import draw_modules
from fl.engines.accelerator import cloud_place
from fl.workloads.resolve import Run
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from fl.workloads.world import tensors
from models.modular.derive import choose_many
from models.modular.model import ModularModel, mapping
from models.modular.selector import importance
from models.nn.body import columns_coverage, gate_columns
from models.submodel import Coverage, extract
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
}


@dataclass(frozen=True)
class Row:
    """One measured value.

    Args:
        training: 'ability' (with ability enhancing) or 'end-to-end' (as many epochs without).
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
    epochs = run.settings.pretrain
    later = {"pretrain.modular-epochs": epochs.modular_epochs + epochs.ability_epochs, "pretrain.ability-epochs": 0}
    models, plain = run.workload.prepare(seed, tick), changed(run, later).workload.prepare(seed, tick)
    for training, model in (("ability", models.modular()), ("end-to-end", plain.modular())):
        for name, layer, device, value in (*_routing(model, run), *_clients(model, models, run, seed)):
            yield Row(training, name, layer, device, value)


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
        wanted = importance(model.logits(tensors(world.data, "train", draw.train)[0]))
        scores = {layer: values.double().numpy() for layer, values in zip(costs.layers, wanted, strict=True)}
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
        for kind, coverage in (("derived", derived), ("random", drawn)):
            yield kind, -1, device, _accuracy(model, models, run, seed, device, coverage)


def _accuracy(
    model: ModularModel, models: PretrainedModels, run: Run, seed: int, device: int, coverage: Coverage
) -> float:
    """Score a sub-model on a client's test samples."""
    world, architecture = run.worlds(seed), models.architectures["modular"]
    test = world.draw(device, 0).test
    x, y = tensors(world.data, "test", test)[0], torch.from_numpy(world.draw(device, 0).test_labels)
    body = architecture.part(coverage).to(cloud_place(run.settings.accelerator))
    body.load_state_dict(extract(model.body.state(), model.body.axes(), coverage))
    layers = zip(models.costs["modular"].layers, model.logits(x), strict=True)
    gates = model.gates([of_layer[:, gate_columns(architecture.sizes, name, coverage)] for name, of_layer in layers])
    return score(body, x, y, world.data.num_classes, gates).accuracy


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute the mean of each measure over layers and clients, and two differences of accuracy.

    ``gap``: derived minus random sub-models; ``delivered_gain``: of derived sub-models by ability enhancing.
    """
    means = rows.groupby(["training", "measure"], sort=False)["value"].mean()
    found = {(str(training), str(name)): float(value) for (training, name), value in means.items()}
    for training in dict.fromkeys(rows["training"]):
        found[training, "gap"] = found[training, "derived"] - found[training, "random"]
    found["ability", "delivered_gain"] = found["ability", "derived"] - found["end-to-end", "derived"]
    return found


SPECIALISATION = Study(Row, measure, metrics)
