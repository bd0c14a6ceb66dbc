"""Table 1 as a figure: a panel of bars per setting, with the paper's accuracy as ◆."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis.metrics import METRICS
from experiments.plots.panels import WHISKERS, bars, grid, table
from experiments.plots.style import line_styles, styled


def accuracy(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the mean accuracy over steps, with the interval over seeds."""
    lines = summary[summary["metric"] == "accuracy_mean"]
    styles = line_styles(dict.fromkeys(lines["method"]))
    settings = list(dict.fromkeys(lines["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 3, (4.3, 0.8 + 0.22 * max(4, len(styles))), WHISKERS)
        for axes, setting in zip(panels, settings, strict=True):
            bars(axes, table(summary, setting, "accuracy_mean"), styles, METRICS["accuracy_mean"])
    return figure
