"""Figures, drawn from ``rounds.csv`` alone. A new kind is a file here and a line in ``PLOTS``."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.plots.overview import overview

Plot = Callable[[pd.DataFrame, Path], None]  # (rows of rounds.csv, results folder): writes figure.png and figure.svg

PLOTS: dict[str, Plot] = {"overview": overview}

__all__ = ["PLOTS", "Plot"]
