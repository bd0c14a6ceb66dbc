"""Fig. 11: mean accuracy over the steps, and what an adaptation takes; two panels per setting."""

import math

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import bars, grid, table
from experiments.plots.style import looks, styled

PANELS = (
    ("accuracy_mean", "accuracy, %", "{:.1f}", 100.0, 100.0),
    ("adapt_s", "virtual s per adaptation", "{:.3g}", 1.0, math.inf),
)


def adaptation(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Bars with intervals over seeds."""
    settings = list(dict.fromkeys(summary["setting"]))
    drawn = looks(dict.fromkeys(summary["method"]))
    names = [(setting, panel) for setting in settings for panel in PANELS]
    with styled():
        titles = [f"{setting}: {'accuracy' if panel is PANELS[0] else 'time'}" for setting, panel in names]
        figure, panels = grid(titles, {}, 2, (4.8, 0.8 + 0.24 * max(4, len(drawn))))
        for axes, (setting, (metric, label, form, scale, top)) in zip(panels, names, strict=True):
            bars(axes, table(summary, setting, metric), drawn, form, scale, label, top=top)
    return figure
