"""Fig. 12: which modules a class activates, and along which paths its samples pass from layer to layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from torch import Tensor

from experiments.studies.study import Measured, Study, Tick
from fl.workloads.resolve import Run
from fl.workloads.world import tensors
from models.modular.model import mapping

# Two pairs of similar classes, as in the paper. For other data sets: the first four classes.
PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cifar10": (("cat", "dog"), ("automobile", "truck")),
    "har-embedded": (("sitting-down", "standing-up"), ("turning", "walking")),
}


@dataclass(frozen=True)
class Row:
    """One entry of a layer's mapping matrix, or one path out of the layer.

    Args:
        layer: number of the module layer, from 0; name: its axis.
        subtask: name of the class; pair: number of its pair, 0 or 1; -1 for classes without a pair.
        module: number of the module in its layer, a residual module is the last; to: number of the module in the next
            layer; -1: the row is about the module, not about a path.
        load: H[subtask, module], the mean share of the selector's output, 0 to 1; 0 for a path.
        fires: share of the class's test samples that activate the module, or both modules of the path, 0 to 1.
    """

    layer: int
    name: str
    subtask: str
    pair: int
    module: int
    to: int
    load: float
    fires: float


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Apply the pretrained selector to the global test set."""
    models, data = run.workload.prepare(seed, tick), run.worlds.dataset
    model = models.modular()
    x, y = tensors(data, "test")
    logits = model.logits(x)
    fires = [(gates > 0).float() for gates in model.gates(logits)]
    loads = mapping(logits, y, data.num_classes)
    pair_of = pairs(run.settings.data.name, data.classes)
    for layer, name in enumerate(models.costs["modular"].layers):
        for subtask, word in enumerate(data.classes):
            own = fires[layer][y == subtask]
            pair = pair_of.get(word, -1)
            for module, share in enumerate(own.mean(0).tolist()):
                yield Row(layer, name, word, pair, module, -1, float(loads[layer][subtask, module]), share)
            if pair >= 0 and layer + 1 < len(fires):
                both = _joint(own, fires[layer + 1][y == subtask])
                for (module, to), share in np.ndenumerate(both):
                    yield Row(layer, name, word, pair, module, to, 0.0, float(share))


def pairs(dataset: str, classes: tuple[str, ...]) -> dict[str, int]:
    """Return the number of each class's pair."""
    known = PAIRS.get(dataset, (classes[:2], classes[2:4]))
    return {name: at for at, pair in enumerate(known) for name in pair}


def _joint(here_BN: Tensor, there_BM: Tensor) -> np.ndarray:
    """Return (N, M): share of the samples that activate module n of this layer and module m of the next."""
    return ((here_BN.T @ there_BM) / max(1, len(here_BN))).double().numpy()


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute how much routing two sub-tasks share: sum_n min(H[a, n], H[b, n]), mean over layers, 0 to 1.

    'similar' is the mean over the two pairs, 'different' over the pairs of classes of different pairs, 'all' over all
    pairs of classes.
    """
    loads = rows[rows["to"] < 0].pivot_table(index="subtask", columns=["layer", "module"], values="load", sort=False)
    pair = rows.groupby("subtask", sort=False)["pair"].first()
    layers = loads.columns.get_level_values("layer").nunique()
    shared: dict[str, list[float]] = {"similar": [], "different": [], "all": []}
    for a, b in combinations(loads.index, 2):
        overlap = float(np.minimum(loads.loc[a], loads.loc[b]).sum()) / layers
        shared["all"].append(overlap)
        if pair[a] >= 0 and pair[b] >= 0:
            shared["similar" if pair[a] == pair[b] else "different"].append(overlap)
    return {(kind, "overlap"): sum(values) / len(values) for kind, values in shared.items() if values}


ROUTING = Study(Row, measure, metrics)
