"""Drifts that detectors notice against their false alarms."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import LineStyle, percent, styled

RANDOM = LineStyle("#aaaaaa", "-", "", False)
STYLES = {
    "importance": LineStyle("#d55e00", "-", "", False),
    "adwin": LineStyle("#0072b2", "--", "", True),
    "page-hinkley": LineStyle("#009e73", ":", "", False),
}


def detection(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a panel per setting: a curve for each detector, a point for each sensitivity, means over seeds.

    A curve on the grey one is worth nothing: alarms at random do as well.
    """
    points = summary.pivot_table(index=["setting", "method"], columns="metric", values="value", sort=False)
    settings = list(dict.fromkeys(summary["setting"]))
    with styled():
        figure, panels = grid(settings, {**STYLES, "alarms at random": RANDOM}, 2, (3.6, 2.8))
        for axes, setting in zip(panels, settings, strict=True):
            of = points.loc[setting]
            watched = rows[rows["setting"] == setting]
            share, false = at_random(watched["steps"].sum() / max(1, watched["drifts"].sum()))
            axes.plot(false, share, color=RANDOM.color)
            for detector, style in STYLES.items():
                own = of[[str(name).startswith(f"{detector} ") for name in of.index]].sort_values("false_alarms")
                face = "white" if style.hollow else style.color
                axes.plot(
                    own["false_alarms"], own["noticed"], style.line, color=style.color, marker="o",
                    markerfacecolor=face, clip_on=False, zorder=3,
                )  # fmt: skip
            axes.set_ylim(0, 1)
            axes.set_xlim(left=0)
            axes.yaxis.set_major_formatter(percent)
            axes.set_xlabel("false alarms per 100 steps")
            axes.set_ylabel("drifts noticed")
    return figure


def at_random(steps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what a detector achieves that raises alarms at random, for all rates: drifts noticed, and false alarms.

    Args:
        steps: between two drifts, the step of a drift included.
    """
    rate = np.linspace(0, 1, 101)
    noticed = 1 - (1 - rate) ** steps
    return noticed, 100 * (rate - noticed / steps)
