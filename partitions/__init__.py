"""Which data each device has at each step: data sets, partitions and drifts. No Flower and no training here."""

from partitions.components import Registry, Section
from partitions.corruptions import corrupt
from partitions.dataset import Dataset
from partitions.datasets import DATASETS, fetch, import_, load, source_of, where
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
    "Registry",
    "Schedule",
    "Section",
    "UnknownName",
    "World",
    "corrupt",
    "fetch",
    "import_",
    "load",
    "lookup",
    "rng",
    "source_of",
    "where",
]
