"""Figures, drawn only from CSVs. To add one, write a function in a file of this folder and add it to ``PLOTS``."""

from typing import Any

from partitions.components import Registry

PLOTS: Registry[Any] = Registry(
    "plot",
    "driftfed.plots",
    {
        "spa-modes": "experiments.plots.text.spa:spa_modes",
        "spa-costs": "experiments.plots.text.spa:spa_costs",
        "spa-effect": "experiments.plots.text.spa:spa_effect",
        "spa-gate": "experiments.plots.text.spa:spa_gate",
        "spa-size": "experiments.plots.text.spa:spa_size",
        "overview": "experiments.plots.eclm.overview:overview",
        "tradeoff": "experiments.plots.eclm.tradeoff:tradeoff",
        "accuracy": "experiments.plots.eclm.accuracy:accuracy",
        "traffic": "experiments.plots.eclm.costs:traffic",
        "memory": "experiments.plots.eclm.costs:memory",
        "latency": "experiments.plots.eclm.costs:latency",
        "steps": "experiments.plots.eclm.steps:steps",
        "adaptation": "experiments.plots.eclm.adaptation:adaptation",
        "divergence": "experiments.plots.eclm.divergence:divergence",
        "sweep": "experiments.plots.eclm.sweep:sweep",
        "compared": "experiments.plots.eclm.sweep:compared",
        "speedup": "experiments.plots.eclm.sweep:speedup",
        "ranks": "experiments.plots.eclm.ranks:ranks_figure",
        "detection": "experiments.plots.eclm.detection:detection",
        "routing": "experiments.plots.eclm.routing:routing",
        "submodels": "experiments.plots.eclm.submodels:submodels",
        "specialisation": "experiments.plots.eclm.specialisation:specialisation",
        "recipe": "experiments.plots.eclm.recipe:recipe",
        "estimates": "experiments.plots.eclm.estimates:estimates",
        "boundary": "experiments.plots.text.boundary:boundary",
        "tasks": "experiments.plots.text.tasks:tasks",
    },
)
"""Functions (rows of rounds.csv or study.csv, rows of summary.csv) -> matplotlib figure, by name."""
