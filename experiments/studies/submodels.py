"""Fig. 13: accuracy of sub-models of many sizes on a client, derived for it or put together at random."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.studies.results import changed
from experiments.studies.study import Measured, Study, Tick
from fl.workloads.resolve import Run
from fl.workloads.world import tensors
from models.costs import CostModel
from models.modular.derive import choose
from models.modular.model import ModularModel
from models.modular.selector import importance
from models.nn.body import Architecture, columns_coverage, device_of, gate_columns
from models.submodel import Coverage, Sizes, extract
from models.training.loop import score
from partitions import Purpose, rng
from strategies.core.client import Limits
from strategies.core.pretrained import PretrainedModels

LEVELS = 6  # sizes, from one module in each layer to all of them


@dataclass(frozen=True)
class Row:
    """One sub-model on one client.

    Args:
        training: 'ability' (with ability enhancing), 'tailored' (with ability enhancing on simulated clients'
            sub-models, `models.modular.tailor`), or 'end-to-end' (as many epochs without either).
        device: number of the client for whose data it is derived and on whose data it is scored.
        kind: 'derived' (the most important modules that fit), 'matched' (as many modules in each layer, drawn at
            random), 'random' (both the numbers and the modules drawn).
        level: of the size limit, 0 to `LEVELS` - 1; -1 for 'random'.
        params: parameters of the sub-model; share: of those of the modular cloud model.
        accuracy: on the client's test samples, 0 to 1, without any adaptation.
    """

    training: str
    device: int
    kind: str
    level: int
    params: int
    share: float
    accuracy: float


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Score for every client one derived, one matched and one random sub-model at each of the `LEVELS` sizes.

    The sub-models are cut from three cloud models: trained with ability enhancing, tailored, and trained end to end for
    as many epochs instead.
    """
    models, plain = run.workload.prepare(seed, tick), end_to_end(run).workload.prepare(seed, tick)
    for training, model in (
        ("ability", models.modular()),
        ("tailored", models.modular("tailored")),
        ("end-to-end", plain.modular()),
    ):
        yield from _of_one_model(training, model, models, run, seed, tick)


def _of_one_model(
    training: str, model: ModularModel, models: PretrainedModels, run: Run, seed: int, tick: Tick
) -> Iterator[Row]:
    world, clients = run.worlds(seed), run.settings.devices.count
    architecture, costs, core = models.architectures["modular"], models.costs["modular"], model.routing.core
    for device in range(clients):
        tick(f"sub-models ({training}), client", device, clients)
        draw = world.draw(device, 0)
        scores = wanted(model, costs, tensors(world.data, "train", draw.train)[0])
        (x, _), y = tensors(world.data, "test", draw.test), torch.from_numpy(draw.test_labels)
        logits = model.logits(x)
        generator = rng(seed, Purpose.STUDY, device)  # the same random sub-models for all trainings
        for level, limit in enumerate(sizes(costs)):
            derived = columns_coverage(architecture.sizes, derive(scores, costs, limit))
            counts = {axis: len(kept) for axis, kept in derived.items()}
            matched = draw_modules(rng(seed, Purpose.STUDY, device, level), costs, counts, core)
            random = draw_modules(generator, costs, draw_counts(generator, costs), core)
            for kind, at, coverage in (
                ("derived", level, derived),
                ("matched", level, matched),
                ("random", -1, random),
            ):
                accuracy = delivered(model, architecture, coverage, logits, x, y, world.data.num_classes)
                params = costs.of({axis: len(kept) for axis, kept in coverage.items()}).params
                yield Row(training, device, kind, at, round(params), params / costs.whole.params, accuracy)


def end_to_end(run: Run) -> Run:
    """Return the same run, its modular model trained end to end for all epochs, without ability enhancing."""
    epochs = run.settings.pretrain
    return changed(
        run,
        {"pretrain.modular-epochs": epochs.modular_epochs + epochs.ability_epochs, "pretrain.ability-epochs": 0},
    )


def wanted(model: ModularModel, costs: CostModel, x: Tensor) -> dict[str, np.ndarray]:
    """Return the importance (N,) of each layer's modules to a client with inputs x (n, ...)."""
    found = importance(model.logits(x))
    return {layer: values.double().numpy() for layer, values in zip(costs.layers, found, strict=True)}


def delivered(
    model: ModularModel, architecture: Architecture, coverage: Coverage, logits: Sequence[Tensor], x: Tensor, y: Tensor,
    classes: int,
) -> float:  # fmt: skip
    """Return the accuracy of a sub-model, without any adaptation.

    Args:
        logits: of the selector for x, (n, N) per layer.
    """
    body = architecture.part(coverage).to(device_of(model.body))
    body.load_state_dict(extract(model.body.state_dict(), model.body.axes(), coverage))
    columns = [gate_columns(architecture.sizes, layer, coverage) for layer in model.body.layers]
    gates = model.gates([layer[:, kept] for layer, kept in zip(logits, columns, strict=True)])
    return score(body, x, y, classes, gates).accuracy


def sizes(costs: CostModel) -> np.ndarray:
    """Return size limits in parameters, evenly from one module in each layer (the largest) to the whole model."""
    one = sum(max(cost.params for cost in costs.columns(layer)) for layer in costs.layers)
    return np.linspace(costs.base.params + one, costs.whole.params, LEVELS)


def derive(scores: Mapping[str, np.ndarray], costs: CostModel, limit: float) -> dict[str, np.ndarray]:
    """Derive a sub-model as the paper does (5.1), with a limit on parameters only, as in the figure."""
    return choose(costs, scores, np.array([4 * limit, np.inf, np.inf]), Limits.names)  # at 4 bytes a parameter


def draw_counts(generator: np.random.Generator, costs: CostModel) -> dict[str, int]:
    """Draw a number of modules for each layer, from one to all, and whether to take its residual module, if any."""
    shrunk = {layer: int(generator.integers(1, costs.architecture.sizes[layer] + 1)) for layer in costs.layers}
    return shrunk | {axis: int(generator.integers(2)) for axis in costs.bypass}


def draw_modules(generator: np.random.Generator, costs: CostModel, counts: Sizes, core: bool) -> Coverage:
    """Draw the given number of modules on each axis, sorted; with ``core`` always the first module of each layer."""
    sizes, drawn = costs.architecture.sizes, {}
    for axis, n in counts.items():
        always = int(core and axis in costs.layers)
        others = always + generator.choice(sizes[axis] - always, n - always, replace=False)
        drawn[axis] = torch.from_numpy(np.sort(np.append(np.arange(always), others)))
    return drawn


def pareto(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of (params, accuracy) for which no row is as small and more accurate, sorted by size."""
    ordered = points.sort_values(["params", "accuracy"], ascending=[True, False])
    best = ordered["accuracy"].cummax()
    return ordered[(ordered["accuracy"] >= best) & ~best.duplicated()]


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute the accuracy of each kind, and two differences.

    ``gap``: 'derived' minus 'matched' of the same size, mean over the sizes without the whole model, which has no
    choice of modules. ``ability_gain``: gain by ability enhancing at the second size, about a fifth of the modules;
    ``ability_gain_all``: mean over the sizes.
    """
    found: dict[tuple[str, str], float] = {}
    level = rows[rows["level"] < LEVELS - 1].groupby(["training", "kind", "level"])["accuracy"].mean()
    for training, kind in dict.fromkeys(zip(rows["training"], rows["kind"], strict=True)):
        found[f"{kind}, {training}", "accuracy"] = float(level[training, kind].mean())
    for training in dict.fromkeys(rows["training"]):
        found[f"derived, {training}", "gap"] = float((level[training, "derived"] - level[training, "matched"]).mean())
    for training, kind in product(dict.fromkeys(rows["training"]), ("derived", "matched")):
        if training == "end-to-end":
            continue
        gain = level[training, kind] - level["end-to-end", kind]
        found[f"{kind}, {training}", "ability_gain"] = float(gain[1])
        found[f"{kind}, {training}", "ability_gain_all"] = float(gain.mean())
    return found


SUBMODELS = Study(Row, measure, metrics)
