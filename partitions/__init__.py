"""What data a device holds at a step: data sets, partitions, drift. Pure functions; no Flower, no training."""

from partitions.corruptions import apply
from partitions.dataset import Dataset
from partitions.datasets import DATASETS, fetch, import_, load, where
from partitions.drifts import DRIFTS
from partitions.errors import DataError, UnknownName, lookup
from partitions.local_data import LocalData
from partitions.partitioners import PARTITIONS
from partitions.rng import Purpose, rng
from partitions.schedule import Schedule
from partitions.world import Draw, World

__all__ = [
    "DATASETS",
    "DRIFTS",
    "PARTITIONS",
    "DataError",
    "Dataset",
    "Draw",
    "LocalData",
    "Purpose",
    "Schedule",
    "UnknownName",
    "World",
    "apply",
    "fetch",
    "import_",
    "load",
    "lookup",
    "rng",
    "where",
]
