"""Fig. 11: mean accuracy over the steps and time of an adaptation, two panels per setting."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis.metrics import METRICS
from experiments.plots.panels import WHISKERS, bars, grid, table
from experiments.plots.style import line_styles, styled

PANELS = {"accuracy_mean": "accuracy", "adapt_s": "time"}


def adaptation(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw bars with intervals over seeds."""
    styles = line_styles(dict.fromkeys(summary["method"]))
    names = [(setting, metric) for setting in dict.fromkeys(summary["setting"]) for metric in PANELS]
    with styled():
        titles = [f"{setting}: {PANELS[metric]}" for setting, metric in names]
        figure, panels = grid(titles, {}, 2, (4.8, 0.8 + 0.24 * max(4, len(styles))), WHISKERS)
        for axes, (setting, metric) in zip(panels, names, strict=True):
            bars(axes, table(summary, setting, metric), styles, METRICS[metric])
    return figure
