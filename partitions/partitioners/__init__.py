"""Partitions by name. A new one is a file here and a line in ``PARTITIONS``; its fields are its parameters."""

from partitions.partitioners.dirichlet import Dirichlet
from partitions.partitioners.iid import Iid
from partitions.partitioners.m_classes import MClasses
from partitions.partitioners.partitioner import Partition
from partitions.partitioners.subject import Subject

PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "m-classes": MClasses,
    "dirichlet": Dirichlet,
    "subject": Subject,
}
