"""Figures, drawn from CSVs alone. A new kind is a file here and a line in ``PLOTS``."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.accuracy import accuracy
from experiments.plots.adaptation import adaptation
from experiments.plots.boundary import boundary
from experiments.plots.costs import latency, memory, traffic
from experiments.plots.divergence import divergence
from experiments.plots.estimates import estimates
from experiments.plots.overview import overview
from experiments.plots.routing import routing
from experiments.plots.spa import spa_costs, spa_effect, spa_gate, spa_modes, spa_size
from experiments.plots.steps import steps
from experiments.plots.submodels import submodels
from experiments.plots.sweep import compared, speedup, sweep
from experiments.plots.tasks import tasks

Plot = Callable[[pd.DataFrame, pd.DataFrame], Figure]  # (rows of rounds.csv or study.csv, lines of summary.csv)

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
