"""What clients do with their data: classification, split text models, side plugins.

A workload is imported when a run first asks for it, so that no run loads the libraries of another's workload.
"""

from typing import Any

from partitions.components import Registry

WORKLOADS: Registry[Any] = Registry(
    "workload",
    "driftfed.workloads",
    {
        "classify": "fl.workloads.classify:Classify",
        "vq": "fl.workloads.vq:VQ",
        "spa": "fl.workloads.spa:SPA",
    },
)
