"""The work of a contest, written down: what our own settings say, in arrays that any program can read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.bench.entrants.work import Work
from fl.config.settings import Settings
from fl.workloads.pretraining import prepare
from fl.workloads.world import tensors, world
from models.submodel import FULL
from partitions import Purpose, rng

SEED = 1


@dataclass(frozen=True)
class Exam:
    """A contest's work on disk.

    Args:
        folder: of `experiments.bench.entrants.work.Work`.
        settings: ours; devices hold the same number of samples each.
    """

    folder: Path
    settings: Settings

    @classmethod
    def write(cls, folder: Path, kind: str, settings: Settings) -> "Exam":
        """Everything that happens in ``settings.rounds`` rounds of FedAvg with plain SGD."""
        folder.mkdir(parents=True)
        cloud, here, size = prepare(settings, SEED), world(settings, SEED), settings.samples_min
        draw = [rng(SEED, Purpose.COHORT, round_) for round_ in range(1, settings.rounds + 1)]
        drawn = [generator.choice(settings.devices, settings.cohort, replace=False) for generator in draw]
        cohorts = np.sort(np.array(drawn), axis=1)  # as `strategies.base.Strategy.cohort` draws them
        used = np.unique(cohorts)
        shape = (len(used), size, *here.data.input_shape)
        x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
        y = np.zeros((len(used), size), np.int64)
        for row, device in enumerate(used.tolist()):
            inputs, labels = tensors(here.data, "train", here.draw(device, 0).train)
            x[row], y[row] = inputs.numpy(), labels.numpy()
        x.flush()
        orders = np.zeros((*cohorts.shape, settings.local_epochs, size), np.int16)
        for (r, slot), device in np.ndenumerate(cohorts):
            generator = rng(SEED, Purpose.TRAIN, r + 1, int(device))  # as `models.training.loop.fit` is given it
            for epoch in range(settings.local_epochs):
                orders[r, slot, epoch] = generator.permutation(size)
        weights = {name: _plain(name, cloud.dense_state[name]) for name in cloud.dense.part(FULL).state_dict()}
        np.save(folder / "y.npy", y)
        np.save(folder / "cohorts.npy", np.searchsorted(used, cohorts))
        np.save(folder / "orders.npy", orders)
        np.savez(folder / "start.npz", **{f"{i:03d}": value.numpy() for i, value in enumerate(weights.values())})  # type: ignore[arg-type]
        about = {"kind": kind, "classes": here.data.num_classes, "settings": settings.flat()}
        about |= {"lr": settings.lr, "batch_size": settings.batch_size, "epochs": settings.local_epochs}
        about |= {"names": list(weights), "shapes": [list(value.shape) for value in weights.values()]}
        (folder / "about.json").write_text(json.dumps(about))
        return cls(folder, settings)

    def judge(self, weights: Path) -> tuple[float, float]:
        """(accuracy on the whole test set, norm of what was learned) of an entrant's final weights."""
        work, here = Work(self.folder), world(self.settings, SEED)
        network = work.network()
        moved = 0.0
        with np.load(weights) as final, torch.no_grad():
            for i, (parameter, start) in enumerate(zip(network.parameters(), work.start, strict=True)):
                value = torch.from_numpy(final[f"{i:03d}"])
                moved += float((value - start).double().square().sum())
                parameter.copy_(value)
            x, y = tensors(here.data, "test")
            right = sum(int((network(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
        return right / len(y), moved**0.5


def _plain(name: str, value: torch.Tensor) -> torch.Tensor:
    """A parameter as torch's own layers have it: a block's module axis, of length 1, is left out."""
    if name in ("block.first", "block.first_bias"):
        return value[0]
    return value[:, 0] if name == "block.second" else value
