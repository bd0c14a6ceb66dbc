"""Fig. 13: what sub-models of many sizes are worth to a device, derived for it or put together at random."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch

from experiments.studies.study import Measured, Study, Tick
from fl.config.settings import Settings
from fl.engines.accelerator import of_cloud
from fl.workloads.pretraining import prepare
from fl.workloads.world import tensors, world
from models.costs import CostModel
from models.modular.derive import choose
from models.modular.model import ModularModel
from models.modular.selector import importance
from models.nn.body import columns_coverage, gate_columns
from models.submodel import Coverage, Sizes, extract
from models.training.loop import score
from partitions import Purpose, rng
from strategies.base import Cloud, Limits

LEVELS = 6  # sizes, from one module in each layer to all of them


@dataclass(frozen=True)
class Row:
    """One sub-model on one device.

    Args:
        training: 'ability' (with ability enhancing), 'tailored' (that on imagined devices, `models.modular.tailor`), or
            'end-to-end' (as many epochs without either).
        device: whose data it is derived for and scored on.
        kind: 'derived' (the most important modules that fit), 'matched' (as many modules in each layer, drawn at
            random), 'random' (both the numbers and the modules drawn).
        level: of the size limit, 0 to `LEVELS` - 1; -1 for 'random'.
        params: of the sub-model; share: of the modular cloud model's.
        accuracy: on test samples of the device's classes, 0 to 1, without any adaptation.
    """

    training: str
    device: int
    kind: str
    level: int
    params: int
    share: float
    accuracy: float


def measure(settings: Settings, seed: int, tick: Tick) -> Iterator[Row]:
    """For every device one derived, one matched and one random sub-model at each of the `LEVELS` sizes.

    Of three cloud models: with ability enhancing, tailored, and trained end to end for as many epochs instead.
    """
    later = settings.modular_epochs + settings.ability_epochs
    plain = settings.model_copy(update={"modular_epochs": later, "ability_epochs": 0})
    cloud, without = prepare(settings, seed, tick), prepare(plain, seed, tick)
    for training, model in (
        ("ability", cloud.modular_model),
        ("tailored", cloud.tailored_model),
        ("end-to-end", without.modular_model),
    ):
        yield from _of_one_model(training, model, cloud, settings, seed, tick)


def _of_one_model(
    training: str, model: ModularModel, cloud: Cloud, settings: Settings, seed: int, tick: Tick
) -> Iterator[Row]:
    here, costs, core = world(settings, seed), cloud.modular_costs, model.routing.core
    place, axes = of_cloud(settings), model.body.axes()
    state = {name: value.to(place) for name, value in model.body.state().items()}
    for device in range(settings.devices):
        tick(f"sub-models ({training}), device", device, settings.devices)
        draw = here.draw(device, 0)
        wanted = importance(model.logits(tensors(here.data, "train", draw.train)[0]))
        scores = {layer: values.double().numpy() for layer, values in zip(costs.layers, wanted, strict=True)}
        x, y = tensors(here.data, "test", draw.test)
        logits = dict(zip(costs.layers, model.logits(x), strict=True))
        generator = rng(seed, Purpose.STUDY, device)  # all trainings meet the same random sub-models
        for level, limit in enumerate(sizes(costs)):
            derived = columns_coverage(cloud.modular.sizes, derive(scores, costs, limit))
            counts = {axis: len(kept) for axis, kept in derived.items()}
            matched = draw_modules(rng(seed, Purpose.STUDY, device, level), costs, counts, core)
            random = draw_modules(generator, costs, draw_counts(generator, costs), core)
            for kind, at, coverage in (
                ("derived", level, derived),
                ("matched", level, matched),
                ("random", -1, random),
            ):
                body = cloud.modular.part(coverage).to(place)
                body.load_state_dict(extract(state, axes, coverage))
                columns = {layer: gate_columns(cloud.modular.sizes, layer, coverage) for layer in costs.layers}
                gates = model.gates([logits[layer][:, kept] for layer, kept in columns.items()])
                accuracy = score(body, x, y, here.data.num_classes, gates).accuracy
                params = costs.of({axis: len(kept) for axis, kept in coverage.items()}).params
                yield Row(training, device, kind, at, round(params), params / costs.whole.params, accuracy)


def sizes(costs: CostModel) -> np.ndarray:
    """Size limits in parameters, evenly from one module in each layer, whichever, to the whole."""
    one = sum(max(cost.params for cost in costs.columns(layer)) for layer in costs.layers)
    return np.linspace(costs.base.params + one, costs.whole.params, LEVELS)


def derive(scores: Mapping[str, np.ndarray], costs: CostModel, limit: float) -> dict[str, np.ndarray]:
    """The paper's derivation (5.1) under the one limit of the figure: parameters."""
    return choose(costs, scores, np.array([4 * limit, np.inf, np.inf]), Limits.names)  # at 4 bytes a parameter


def draw_counts(generator: np.random.Generator, costs: CostModel) -> dict[str, int]:
    """A number of modules for each layer, from one to all; where it has a residual module, with or without that."""
    shrunk = {layer: int(generator.integers(1, costs.architecture.sizes[layer] + 1)) for layer in costs.layers}
    return shrunk | {axis: int(generator.integers(2)) for axis in costs.bypass}


def draw_modules(generator: np.random.Generator, costs: CostModel, counts: Sizes, core: bool) -> Coverage:
    """So many modules on each axis, sorted; the first of each layer among them where that is its ``core``."""
    sizes, drawn = costs.architecture.sizes, {}
    for axis, n in counts.items():
        always = int(core and axis in costs.layers)
        others = always + generator.choice(sizes[axis] - always, n - always, replace=False)
        drawn[axis] = torch.from_numpy(np.sort(np.append(np.arange(always), others)))
    return drawn


def pareto(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of (params, accuracy) that no other row beats: none is as small and more accurate; by size."""
    ordered = points.sort_values(["params", "accuracy"], ascending=[True, False])
    best = ordered["accuracy"].cummax()
    return ordered[(ordered["accuracy"] >= best) & ~best.duplicated()]


def metrics(rows: pd.DataFrame) -> Measured:
    """Accuracies of each kind, and two differences.

    ``gap``: 'derived' above 'matched', which has exactly its sizes; mean over the sizes but the whole, where nothing is
    left to choose. ``ability_gain``: what ability enhancing adds at the second size, about a fifth of the modules;
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
