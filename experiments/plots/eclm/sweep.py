"""Fig. 15: results at each point of a sweep, a panel per group and a line per method."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.analysis.metrics import METRICS
from experiments.analysis.rounds_to_target import sweep_group, sweep_value
from experiments.plots.panels import grid, half_intervals
from experiments.plots.style import line_styles, styled

WIDE = 20  # from this ratio of the largest to the smallest value on, the axis is logarithmic


def sweep(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 15(a) and (b): draw the accuracy at every point."""
    return _lines(summary, ["accuracy_mean"])


def compared(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw `sweep` with one y-axis for all panels, to compare the groups."""
    figure = sweep(rounds, summary)
    limits = [axes.get_ylim() for axes in figure.axes]
    for axes in figure.axes:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


def speedup(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 15(c): draw rounds and virtual minutes until the accuracy that the method reaches at every point."""
    return _lines(summary, ["rounds_to_target", "min_to_target"])


def _lines(summary: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Draw the mean over seeds with its interval."""
    settings = list(dict.fromkeys(summary["setting"]))
    summary = summary[summary["metric"].isin(metrics)]
    styles = line_styles(dict.fromkeys(summary["method"]))
    names = [(group, METRICS[metric]) for group in dict.fromkeys(map(sweep_group, settings)) for metric in metrics]
    with styled():
        columns = len(metrics) if len(metrics) > 1 else 2
        figure, panels = grid([group for group, _ in names], styles, columns, (5.0, 3.4))
        for axes, (group, metric) in zip(panels, names, strict=True):
            in_group = [setting for setting in settings if sweep_group(setting) == group]
            numbers = {setting: sweep_value(setting) for setting in in_group}
            words = any(math.isnan(number) for number in numbers.values())  # then points are evenly apart
            places = {setting: float(at) for at, setting in enumerate(in_group)} if words else numbers
            if not words and min(numbers.values()) > 0 and max(numbers.values()) >= WIDE * min(numbers.values()):
                axes.set_xscale("log")
                axes.xaxis.set_minor_locator(NullLocator())
            for method, style in styles.items():
                chosen = (summary["method"] == method) & (summary["metric"] == metric.name)
                lines = summary[chosen].set_index("setting")
                known = [setting for setting in in_group if setting in lines.index]
                values, ci95 = lines.loc[known, "value"], lines.loc[known, "ci95"]
                half = metric.scale * half_intervals(values, ci95)
                axes.errorbar(
                    [places[setting] for setting in known], metric.scale * values,
                    yerr=half if (half > 0).any() else None, fmt=f"o{style.line}", color=style.color, label=method,
                    capsize=3, elinewidth=1, markersize=5, markerfacecolor="white" if style.hollow else style.color,
                )  # fmt: skip
            axes.set_xticks([*places.values()], [setting.rpartition("=")[2] for setting in places])
            axes.set_xlabel(in_group[0].removeprefix(group).strip().rpartition("=")[0])
            axes.set_ylabel(metric.label)
            if metric.label.endswith("%") and axes.get_ylim()[1] > 100:
                axes.set_ylim(top=102)  # the interval of few seeds can be wider
            if metric.scale == 1.0:
                axes.set_ylim(bottom=0)
    return figure
