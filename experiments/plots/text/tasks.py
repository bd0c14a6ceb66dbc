"""Interference: by how much sharing the cloud's half changes the score of each task, a panel per setting."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import styled
from experiments.studies.tasks import changes

COLORS = {"equal": "#0072b2", "gradnorm": "#d55e00"}
WIDTH = 0.36  # of a bar, in tasks


def tasks(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Bars: mean change over seeds, and its range; below the line a task is worse off than alone."""
    settings = list(dict.fromkeys(rows["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 2, (6.4, 4.0))
        for axes, setting in zip(panels, settings, strict=True):
            of = changes(rows[rows["setting"] == setting])
            names = list(dict.fromkeys(of["task"]))
            for k, (scheme, color) in enumerate(COLORS.items()):
                points = (
                    100 * of[of["scheme"] == scheme].groupby("task")["change"].agg(["mean", "min", "max"]).loc[names]
                )
                spread = [points["mean"] - points["min"], points["max"] - points["mean"]]
                places = [at + (k - 0.5) * WIDTH for at in range(len(names))]
                axes.bar(
                    places, points["mean"], WIDTH, yerr=spread, color=color, label=scheme,
                    error_kw={"ecolor": "#222222", "elinewidth": 0.8},
                )  # fmt: skip
            axes.axhline(0, color="#222222", linewidth=0.8)
            axes.set_xticks(range(len(names)), names)
            axes.set_ylabel("change of the score, points")
        if panels:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLORS))
    return figure
