"""Figures, drawn only from CSVs. To add one, write a function in a file of this folder and add it to ``PLOTS``."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.eclm.accuracy import accuracy
from experiments.plots.eclm.adaptation import adaptation
from experiments.plots.eclm.costs import latency, memory, traffic
from experiments.plots.eclm.divergence import divergence
from experiments.plots.eclm.estimates import estimates
from experiments.plots.eclm.overview import overview
from experiments.plots.eclm.routing import routing
from experiments.plots.eclm.steps import steps
from experiments.plots.eclm.submodels import submodels
from experiments.plots.eclm.sweep import compared, speedup, sweep
from experiments.plots.text.boundary import boundary
from experiments.plots.text.spa import spa_costs, spa_effect, spa_gate, spa_modes, spa_size
from experiments.plots.text.tasks import tasks

Plot = Callable[[pd.DataFrame, pd.DataFrame], Figure]  # (rows of rounds.csv or study.csv, rows of summary.csv)

PLOTS: dict[str, Plot] = {
    "spa-modes": spa_modes,
    "spa-costs": spa_costs,
    "spa-effect": spa_effect,
    "spa-gate": spa_gate,
    "spa-size": spa_size,
    "overview": overview,
    "accuracy": accuracy,
    "traffic": traffic,
    "memory": memory,
    "latency": latency,
    "steps": steps,
    "adaptation": adaptation,
    "divergence": divergence,
    "sweep": sweep,
    "compared": compared,
    "speedup": speedup,
    "routing": routing,
    "submodels": submodels,
    "estimates": estimates,
    "boundary": boundary,
    "tasks": tasks,
}

__all__ = ["PLOTS", "Plot"]
