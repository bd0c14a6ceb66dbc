"""Estimates against measurements of training step, inference and memory, a row of panels per setting."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.plots.panels import grid
from experiments.plots.style import styled

PANELS = (
    ("training step, ms", "train_s", "train_estimate_s", 1e3),
    ("inference, ms", "inference_s", "inference_estimate_s", 1e3),
    ("training memory, MB", "memory", "memory_estimate", 1e-6),
)
COLORS = ("#222222", "#d55e00")  # the dense model, sub-models


def estimates(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a point per model; on the diagonal the estimate equals the measurement."""
    names = [(setting, *panel) for setting in dict.fromkeys(rows["setting"]) for panel in PANELS]
    with styled():
        figure, panels = grid([f"{setting}: {what}" for setting, what, *_ in names], {}, len(PANELS), (4.0, 3.6))
        for axes, (setting, _, measured, estimate, scale) in zip(panels, names, strict=True):
            models = rows[rows["setting"] == setting]
            dense = models["model"] == "dense"
            for chosen, color, label in ((dense, COLORS[0], "dense"), (~dense, COLORS[1], "sub-models")):
                points = models[chosen]
                axes.plot(scale * points[measured], scale * points[estimate], "o", color=color, label=label)
            both = scale * models[[measured, estimate]].to_numpy()
            low, high = both.min() / 1.3, both.max() * 1.3
            axes.plot([low, high], [low, high], color="#999999", linewidth=1, zorder=0, label="_equal")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlim(low, high)
            axes.set_ylim(low, high)
            axes.set_aspect("equal")
            axes.set_xlabel("measured")
            axes.set_ylabel("estimate")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_formatter(NullFormatter())
        if panels:
            panels[0].legend(loc="upper left")
    return figure
