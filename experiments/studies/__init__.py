"""Studies: experiments without rounds. A new one is a file here and a line in ``STUDIES``."""

from typing import Any

from partitions.components import Registry

STUDIES: Registry[Any] = Registry(
    "study",
    "driftfed.studies",
    {
        "routing": "experiments.studies.routing:ROUTING",
        "submodels": "experiments.studies.submodels:SUBMODELS",
        "specialisation": "experiments.studies.specialisation:SPECIALISATION",
        "recipe": "experiments.studies.specialisation:RECIPE",
        "detection": "experiments.studies.detection:DETECTION",
        "latency": "experiments.studies.latency:LATENCY",
        "spa-modes": "experiments.studies.spa:SPA_MODES",
        "spa-gate": "experiments.studies.spa:SPA_GATE",
        "spa-size": "experiments.studies.spa_size:SPA_SIZE",
        "boundary": "experiments.studies.boundary:BOUNDARY",
        "tasks": "experiments.studies.tasks:TASKS",
    },
)
"""`experiments.studies.study.Study` objects by name."""
