"""Partitions by name; `partitions.components.Registry` explains how to add one."""

from partitions.components import Registry
from partitions.partitioners.dirichlet import Dirichlet
from partitions.partitioners.flower import adapted
from partitions.partitioners.iid import Iid
from partitions.partitioners.m_classes import MClasses
from partitions.partitioners.none import NoPartition
from partitions.partitioners.partitioner import Partition
from partitions.partitioners.subject import Subject

PARTITIONS: Registry[type[Partition]] = Registry("partition", "driftfed.partitions", {
    "none": NoPartition,
    "iid": Iid,
    "m-classes": MClasses,
    "dirichlet": Dirichlet,
    "subject": Subject,
}, adapted)  # fmt: skip
