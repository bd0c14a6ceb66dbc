"""Partitions by name. A new one is a file here and a line in ``PARTITIONS``; its fields are its parameters."""

from partitions.kinds.dirichlet import Dirichlet
from partitions.kinds.iid import Iid
from partitions.kinds.kind import Partition
from partitions.kinds.m_classes import MClasses
from partitions.kinds.subject import Subject

PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "m-classes": MClasses,
    "dirichlet": Dirichlet,
    "subject": Subject,
}
