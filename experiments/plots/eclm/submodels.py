"""Fig. 13: accuracy against size, a panel per setting: random sub-models as dots, derived ones as a line."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import percent, styled

COLORS = {"ability": "#d55e00", "tailored": "#882255", "end-to-end": "#0072b2"}
LINES = {"derived": "-", "matched": ":"}


def submodels(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a colour per training; dots: random sub-models on single devices; lines: means over devices and seeds."""
    settings = list(dict.fromkeys(rows["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 3, (4.6, 4.0))
        for axes, setting in zip(panels, settings, strict=True):
            _panel(axes, rows[rows["setting"] == setting])
        if panels:
            handles, labels = panels[0].get_legend_handles_labels()
            *lines, front = zip(handles, labels, strict=True)
            lines.insert(1 + len(LINES), front)  # each training has its own legend column; the front fills the first
            figure.legend(*zip(*lines, strict=True), loc="outside lower center", ncols=len(COLORS), fontsize=9)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    points = []
    trained = set(rows["training"])
    for training, color in ((name, color) for name, color in COLORS.items() if name in trained):
        of_training = rows[rows["training"] == training]
        random = of_training[of_training["kind"] == "random"]
        axes.plot(
            random["params"] / 1e6, random["accuracy"], ".", color=color, alpha=0.5, markersize=4, markeredgewidth=0,
            label=f"random, {training}",
        )  # fmt: skip
        for kind, line in LINES.items():
            mean = of_training[of_training["kind"] == kind].groupby("level")[["params", "accuracy"]].mean()
            axes.plot(
                mean["params"] / 1e6, mean["accuracy"], line, color=color, marker="o", markersize=4,
                markerfacecolor=color if kind == "derived" else "white", label=f"{kind}, {training}",
            )  # fmt: skip
            points.append(mean)
    front = pareto(pd.concat(points))
    axes.plot(
        front["params"] / 1e6, front["accuracy"], "o", color="#222222", markersize=9, fillstyle="none",
        label="Pareto front of the means",
    )  # fmt: skip
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("accuracy on the device's classes")
    axes.yaxis.set_major_formatter(percent)


def pareto(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of (params, accuracy) for which no row of at most their size is more accurate, by size."""
    ordered = points.sort_values(["params", "accuracy"], ascending=[True, False])
    best = ordered["accuracy"].cummax()
    return ordered[(ordered["accuracy"] >= best) & ~best.duplicated()]
