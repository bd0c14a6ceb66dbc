"""What devices do with their data, by name. A new workload is a module here and a line in ``WORKLOADS``.

A module is imported when a run first asks for it, so that no run loads the libraries of another's workload, and the
run-config can be checked against the names alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from partitions.errors import lookup

if TYPE_CHECKING:
    from fl.workloads.workload import Workload

WORKLOADS: dict[str, str] = {
    "classify": "fl.workloads.classify",
    "vq": "fl.workloads.vq",
    "spa": "fl.workloads.spa",
}


def find(name: str) -> Workload:
    """The workload of that name. UnknownName if there is none."""
    return cast("Workload", import_module(lookup("workload", name, WORKLOADS)))
