"""What each way to make the modular cloud model costs: a row per setting; the dense model is the line at 0."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import WHISKERS, grid
from experiments.plots.style import percent, styled

PANELS = {
    "above_dense": ("cloud model, against dense", "points of accuracy"),
    "effective_modules": ("modules per sample", "exponential of the entropy"),
    "derived": ("sub-models as clients get them", "accuracy"),
}


def recipe(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the means over clients and seeds."""
    settings = list(dict.fromkeys(summary["setting"]))
    lines = summary[summary["method"] == "ability"].set_index(["metric", "setting"])
    with styled():
        figure, panels = grid(
            [title for title, _ in PANELS.values()], {}, 3, (3.6, 0.9 + 0.3 * len(settings)), WHISKERS
        )
        for axes, (metric, (_, label)) in zip(panels, PANELS.items(), strict=True):
            of, scale = lines.loc[metric].reindex(settings), 100 if metric == "above_dense" else 1
            halves = scale * of["ci95"].fillna(0.0)
            axes.errorbar(
                scale * of["value"], range(len(settings)), xerr=halves, fmt="o", color="#0072b2", capsize=2.5,
                linewidth=1.0,
            )  # fmt: skip
            axes.set_yticks(range(len(settings)), settings if axes is panels[0] else [])
            axes.set_ylim(len(settings) - 0.5, -0.5)
            axes.set_xlabel(label)
            if metric == "above_dense":
                axes.axvline(0, color="#222222", linewidth=1.0)
            elif metric == "derived":
                axes.xaxis.set_major_formatter(percent)
    return figure
