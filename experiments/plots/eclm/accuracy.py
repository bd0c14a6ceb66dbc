"""Table 1 as a figure: a panel of bars per setting, the paper's accuracy as a diamond."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import bars, grid, table
from experiments.plots.style import looks, styled


def accuracy(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Mean over the steps, with the interval over seeds."""
    of = summary[summary["metric"] == "accuracy_mean"]
    drawn = looks(dict.fromkeys(of["method"]))
    settings = list(dict.fromkeys(of["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 3, (4.3, 0.8 + 0.22 * max(4, len(drawn))))
        for axes, setting in zip(panels, settings, strict=True):
            bars(axes, table(summary, setting, "accuracy_mean"), drawn, "{:.1f}", 100, "accuracy, %", top=100)
    return figure
