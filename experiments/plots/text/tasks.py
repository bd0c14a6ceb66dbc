"""Interference: change of each task's score when tasks share the cloud's half of the model, a panel per setting."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import error_bars, grid
from experiments.plots.style import styled

COLORS = {"equal": "#0072b2", "gradnorm": "#d55e00"}
WIDTH = 0.36  # of a bar, in tasks


def tasks(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the mean change over seeds and its range; below 0 a task is worse than when it is trained alone."""
    settings = list(dict.fromkeys(rows["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 2, (6.4, 4.0))
        for axes, setting in zip(panels, settings, strict=True):
            of_setting = rows[rows["setting"] == setting]
            scores = of_setting.pivot(index=["seed", "task"], columns="scheme", values="score")
            names = list(dict.fromkeys(of_setting["task"]))
            for k, (scheme, color) in enumerate(COLORS.items()):
                change = 100 * (scores[scheme] - scores["alone"])
                points = change.groupby("task").agg(["mean", "min", "max"]).loc[names]
                places = [at + (k - 0.5) * WIDTH for at in range(len(names))]
                axes.bar(
                    places, points["mean"], WIDTH, yerr=error_bars(points), color=color, label=scheme,
                    error_kw={"ecolor": "#222222", "elinewidth": 0.8},
                )  # fmt: skip
            axes.axhline(0, color="#222222", linewidth=0.8)
            axes.set_xticks(range(len(names)), names)
            axes.set_ylabel("change of the score, points")
        if panels:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLORS))
    return figure
