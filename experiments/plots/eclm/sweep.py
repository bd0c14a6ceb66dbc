"""Fig. 15: what a method gives at each point of a sweep; a panel per group, a line per method."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.milestones import group_of, point_of
from experiments.plots.panels import grid
from experiments.plots.style import looks, styled


def sweep(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 15(a) and (b): accuracy at every point."""
    return _lines(summary, [("accuracy_mean", "accuracy, %", 100.0)])


def compared(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """The same on one y-axis: panels are ways of doing the same."""
    figure = sweep(rounds, summary)
    limits = [axes.get_ylim() for axes in figure.axes]
    for axes in figure.axes:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


def speedup(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 15(c): rounds and virtual minutes to the accuracy that the method reaches at every point."""
    return _lines(
        summary, [("rounds_to_target", "rounds to target", 1.0), ("min_to_target", "virtual min to target", 1.0)]
    )


def _lines(summary: pd.DataFrame, metrics: Sequence[tuple[str, str, float]]) -> Figure:
    """Mean over seeds with the interval."""
    settings = list(dict.fromkeys(summary["setting"]))
    groups = list(dict.fromkeys(map(group_of, settings)))
    wanted = summary[summary["metric"].isin([metric for metric, _, _ in metrics])]
    drawn = looks(dict.fromkeys(wanted["method"]))
    names = [(group, *metric) for group in groups for metric in metrics]
    with styled():
        figure, panels = grid(
            [group for group, *_ in names], drawn, len(metrics) if len(metrics) > 1 else 2, (5.0, 3.4)
        )
        for axes, (group, metric, label, scale) in zip(panels, names, strict=True):
            own = [setting for setting in settings if group_of(setting) == group]
            for method, look in drawn.items():
                lines = wanted[(wanted["method"] == method) & (wanted["metric"] == metric)].set_index("setting")
                known = [setting for setting in own if setting in lines.index]
                values = scale * lines.loc[known, "value"]
                half = np.minimum(scale * lines.loc[known, "ci95"].fillna(0.0), values)
                axes.errorbar(
                    [point_of(setting) for setting in known], values, yerr=half if (half > 0).any() else None,
                    fmt=f"o{look.line}", color=look.color, label=method, capsize=3, elinewidth=1, markersize=5,
                    markerfacecolor="white" if look.hollow else look.color,
                )  # fmt: skip
            points = [point_of(setting) for setting in own]
            axes.set_xticks(points, [f"{point:g}" for point in points])
            axes.set_xlabel(own[0].removeprefix(group).strip().rpartition("=")[0])
            axes.set_ylabel(label)
            if scale == 1.0:
                axes.set_ylim(bottom=0)
    return figure
