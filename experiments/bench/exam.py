"""Write the work of a contest, which a run-config defines, as arrays that any program can read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.bench.entrants.work import Work
from fl.workloads.resolve import Run
from fl.workloads.world import tensors
from models.submodel import FULL
from partitions import Purpose, rng

SEED = 1


@dataclass(frozen=True)
class Exam:
    """A contest's work on disk.

    Args:
        folder: of `experiments.bench.entrants.work.Work`.
        run: of our program; all clients have the same number of samples.
    """

    folder: Path
    run: Run

    @classmethod
    def write(cls, folder: Path, kind: str, run: Run) -> "Exam":
        """Write everything that happens in all rounds of FedAvg with plain SGD."""
        folder.mkdir(parents=True)
        settings, client = run.settings, run.settings.client
        models, here, size = run.workload.prepare(SEED), run.worlds(SEED), settings.data.samples_min
        generators = [rng(SEED, Purpose.COHORT, round_) for round_ in range(1, settings.rounds + 1)]
        drawn = [generator.choice(settings.devices.count, settings.cohort, replace=False) for generator in generators]
        cohorts = np.sort(np.array(drawn), axis=1)  # as `strategies.core.strategy.Strategy.sample_clients` draws them
        used = np.unique(cohorts)
        shape = (len(used), size, *here.data.input_shape)
        x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
        y = np.zeros((len(used), size), np.int64)
        for row, number in enumerate(used.tolist()):
            draw = here.draw(number, 0)
            x[row], y[row] = tensors(here.data, "train", draw.train)[0].numpy(), draw.train_labels
        x.flush()
        orders = np.zeros((*cohorts.shape, client.local_epochs, size), np.int16)
        for (r, slot), number in np.ndenumerate(cohorts):
            generator = rng(SEED, Purpose.TRAIN, r + 1, int(number))  # as the workload passes it to `fit`
            for epoch in range(client.local_epochs):
                orders[r, slot, epoch] = generator.permutation(size)
        start, names = models.state("dense"), models.architectures["dense"].part(FULL).state_dict()
        weights = {name: _plain(name, start[name]) for name in names}
        np.save(folder / "y.npy", y)
        np.save(folder / "cohorts.npy", np.searchsorted(used, cohorts))
        np.save(folder / "orders.npy", orders)
        np.savez(folder / "start.npz", **{f"{i:03d}": value.numpy() for i, value in enumerate(weights.values())})  # type: ignore[arg-type]
        about = {"kind": kind, "classes": here.data.num_classes, "settings": settings.flat()}
        about |= {"lr": client.lr, "batch_size": client.batch_size, "epochs": client.local_epochs}
        about |= {"names": list(weights), "shapes": [list(value.shape) for value in weights.values()]}
        (folder / "about.json").write_text(json.dumps(about))
        return cls(folder, run)

    def score(self, weights: Path) -> tuple[float, float]:
        """Return (accuracy on the whole test set, norm of the change) of an entrant's final weights."""
        work, here = Work(self.folder), self.run.worlds(SEED)
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
    """Return a parameter in the shape of torch's own layers: without a block's module axis, which has length 1."""
    if name in ("block.first", "block.first_bias"):
        return value[0]
    return value[:, 0] if name == "block.second" else value
