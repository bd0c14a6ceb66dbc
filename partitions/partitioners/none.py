"""No partition: the data set says which device has which samples."""

from typing import ClassVar

import numpy as np

from partitions.dataset import Dataset
from partitions.partitioners.partitioner import AssigningPartition, Assignment


class NoPartition(AssigningPartition):
    """Give device d all samples of the d-th domain: its file in a folder of device files, or a person.

    What the cloud holds is not the devices' (``Dataset.proxy``, or else a share of every domain).
    """

    ignores: ClassVar[tuple[str, ...]] = ("data.samples-min", "data.samples-max", "data.test-samples")

    def assign(self, data: Dataset, pool: np.ndarray, seed: int, devices: int) -> Assignment:
        if data.domain_train is None or data.domain_test is None:
            raise ValueError(
                f"data.partition = 'none' needs data that say which device has which samples, and {data.name} does "
                "not: use a folder of device files (docs/bring-your-own.md), or data.partition = 'dirichlet'"
            )
        owners = np.arange(len(data.domains))
        if data.proxy is not None:
            owners = np.setdiff1d(owners, data.domain_train[data.proxy])
        found = Assignment(
            labels=data.y_train,
            classes=data.num_classes,
            train=_by_domain(pool, data.domain_train, owners),
            test=_by_domain(np.arange(len(data.domain_test)), data.domain_test, owners),
            names=[data.domains[owner] for owner in owners],
        )
        return found.assign(data, pool, seed, devices)


def _by_domain(indices: np.ndarray, domain: np.ndarray, owners: np.ndarray) -> list[np.ndarray]:
    """Split sorted ``indices`` (N,) by their domain into one sorted array for each of the ``owners``."""
    of = np.asarray(domain)[indices]
    order = np.argsort(of, kind="stable")
    first, last = (np.searchsorted(of[order], owners, side) for side in ("left", "right"))
    return [indices[order[a:b]] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
