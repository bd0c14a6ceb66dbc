"""Accuracy against traffic: a point per method, a panel per setting."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from experiments.plots.panels import GREY, half_intervals
from experiments.plots.style import LineStyle, in_words, line_styles, percent, styled

PANEL_IN, LEGEND_IN = (5.2, 3.9), 2.9
MARKERS = "os^DvPX*<>hp8"  # a shape for each method, besides its colour
SIDE_BY_SIDE = 1.08  # factor between points of methods with equal traffic
NONE = 3.0  # methods without traffic stand left of the others by this factor


def tradeoff(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw accuracy against megabytes per client and round. The legend names the methods from the best one down.

    A method without traffic whose accuracy is far below the others stands at the lower edge, with its value.
    """
    table = summary.set_index(["setting", "method", "metric"])["value"].unstack()
    means = table.groupby(level="method")["accuracy_mean"].mean().sort_values(ascending=False)
    styles = line_styles(means.index)
    markers = dict(zip(styles, MARKERS * (1 + len(styles) // len(MARKERS)), strict=False))
    settings = list(dict.fromkeys(summary["setting"]))
    with styled():
        figure = Figure(figsize=(PANEL_IN[0] * len(settings) + LEGEND_IN, PANEL_IN[1]), layout="constrained")
        for axes, setting in zip(figure.subplots(1, len(settings), squeeze=False).flat, settings, strict=True):
            _points(axes, summary[summary["setting"] == setting], styles, markers)
            if len(settings) > 1:
                axes.set_title(setting)
        names = {method: f"{in_words(method)}: {100 * means[method]:.1f} %" for method in styles}
        handles = [_handle(style, markers[method], names[method]) for method, style in styles.items()]
        figure.legend(handles=handles, loc="outside right upper", title="from the best down", alignment="left")
        seeds = int(summary["seeds"].max())
        if seeds > 1:
            figure.supxlabel(f"Mean of {seeds} seeds; whiskers: its 95 % t-interval.", fontsize=9, color=GREY)
    return figure


def _points(axes: Axes, summary: pd.DataFrame, styles: Mapping[str, LineStyle], markers: Mapping[str, str]) -> None:
    accuracy = summary[summary["metric"] == "accuracy_mean"].set_index("method")
    traffic = summary[summary["metric"] == "mb_per_device_round"].set_index("method")["value"]
    sent = traffic[traffic > 0].round(3)
    least, most = (sent.min(), sent.max()) if len(sent) else (1.0, 1.0)
    none = least / NONE
    half = half_intervals(accuracy["value"], accuracy["ci95"])
    trained = [method for method in accuracy.index if method in sent] or list(accuracy.index)
    tops, bottoms = accuracy["value"] + half, accuracy["value"] - half
    bottom, top = bottoms[trained].min(), min(1.0, tops[trained].max())
    room = max(0.005, 0.12 * (top - bottom))
    edge = bottom - 2 * room
    for method, style in styles.items():
        if method in accuracy.index:
            value = accuracy["value"][method]
            same = [other for other in styles if sent.get(other, 0) == sent.get(method, 0)]
            aside = SIDE_BY_SIDE ** (same.index(method) - (len(same) - 1) / 2)
            off = value < edge
            axes.errorbar(
                aside * sent.get(method, none), edge if off else value, yerr=None if off else half[method] or None,
                fmt=markers[method], color=style.color, markersize=8, markeredgewidth=1.6, elinewidth=1.2, capsize=3,
                markerfacecolor="white" if style.hollow else style.color,
            )  # fmt: skip
            if off:
                text = f"↓ {100 * value:.1f}" + (f" ± {100 * half[method]:.1f}" if half[method] else "")
                axes.annotate(text, (aside * none, edge), (0, 9), textcoords="offset points", ha="center", fontsize=8)
    axes.set_ylim(edge - room, top + room)
    axes.set_xscale("log")
    low, high = least / 1.5, most * 1.5
    subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    ticks = {x: f"{x:g}" for x in LogLocator(subs=subs).tick_values(low, high) if low <= x <= high}
    if len(sent) < len(accuracy):
        low, ticks[none] = none / 1.6, "none"
        axes.axvspan(low, none * 1.6, color="#f2f2f2", zorder=0)
    axes.set_xlim(low, high)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlabel("traffic, MB per client and round")
    axes.set_ylabel("accuracy of clients on their own data")


def _handle(style: LineStyle, marker: str, name: str) -> Line2D:
    face = "white" if style.hollow else style.color
    return Line2D(
        [], [], linestyle="", color=style.color, marker=marker, markerfacecolor=face, markersize=8, markeredgewidth=1.6,
        label=name,
    )  # fmt: skip
