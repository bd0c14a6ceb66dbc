"""Overview: accuracy over rounds, after the last step, and against traffic, a row of panels per setting."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from experiments.analysis.rounds_to_target import shift_counts
from experiments.analysis.summary import complete, intervals
from experiments.plots.style import LineStyle, in_words, legend_entry, line_styles, percent, styled

WIDTH_IN, ROW_IN, LEGEND_IN = 12.0, 3.7, 0.3
LETTER_IN, HANDLE_IN = 0.075, 0.65  # width of a letter of the legend, and of what stands beside its text
MANY = 30  # from this number of points or shifts on, single ones have no marker


def overview(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw three panels per setting."""
    rounds = complete(rounds)
    rounds = rounds[rounds["evaluated"].groupby([rounds["setting"], rounds["method"]]).transform("max") > 0]
    settings = list(dict.fromkeys(rounds["setting"]))
    styles = line_styles(dict.fromkeys(rounds["method"]))
    widest = LETTER_IN * max((len(in_words(name)) for name in styles), default=0) + HANDLE_IN
    legend_rows = max(1, math.ceil(len(styles) / (WIDTH_IN // widest)))
    legend = LEGEND_IN * legend_rows
    height = legend + ROW_IN * max(1, len(settings))
    with styled():
        room = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, rect=(0, 0, 1, 1 - legend / height))
        figure = Figure(figsize=(WIDTH_IN, height), layout=room)
        panels = figure.subplots(max(1, len(settings)), 3, squeeze=False, width_ratios=[1.5, 1.15, 1])
        for (left, middle, right), setting in zip(panels, settings, strict=False):
            rows = rounds[rounds["setting"] == setting]
            table = summary[summary["setting"] == setting].set_index(["method", "metric"])
            _over_rounds(left, rows, styles)
            _final_accuracy(middle, table, styles)
            _against_traffic(right, table, styles)
            left.set_title(f"{setting}: over the rounds")
            middle.set_title("after the last step")
            right.set_title("against traffic")
        handles = [legend_entry(in_words(name), style) for name, style in styles.items()]
        columns = max(1, math.ceil(len(handles) / legend_rows))
        figure.legend(handles=handles, loc="upper center", ncols=columns, handlelength=2.4, columnspacing=1.3)
    return figure


def _over_rounds(axes: Axes, rows: pd.DataFrame, styles: Mapping[str, LineStyle]) -> None:
    """Draw a line per method: mean over seeds and its 95 % interval; vertical dashes where the data drift."""
    starts = rows.groupby(shift_counts(rows))["round"].min().sort_values().iloc[1:]
    color, width = ("#999999", 0.9) if len(starts) < MANY else ("#e0e0e0", 0.6)
    for start in starts:
        axes.axvline(start - 0.5, color=color, linewidth=width, linestyle=(0, (4, 3)), zorder=0.5, label="_drift")
    for method, scored in rows[rows["evaluated"] > 0].groupby("method", sort=False):
        style = styles[str(method)]
        over_seeds = scored.groupby("round")["accuracy_mean"]
        mean, half = over_seeds.mean(), intervals(over_seeds)
        marker = "o" if len(mean) < MANY else ""
        axes.plot(
            mean.index, mean, style.line, color=style.color, label=method, marker=marker, markersize=4,
            markerfacecolor="white" if style.hollow else style.color,
        )  # fmt: skip
        if (half > 0).any():
            low, high = (mean - half).clip(lower=0.0), (mean + half).clip(upper=1.0)
            axes.fill_between(mean.index, low, high, color=style.color, alpha=0.13, linewidth=0)
    notes = [
        len(starts) > 0 and "dashed: data drift",
        rows["seed"].nunique() > 1 and "band: 95 % t-interval over seeds",
    ]
    axes.set_xlabel("; ".join(["round", *(note for note in notes if note)]))
    axes.set_ylabel("accuracy on own data")
    axes.yaxis.set_major_formatter(percent)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(False, axis="x")


def _final_accuracy(axes: Axes, table: pd.DataFrame, styles: Mapping[str, LineStyle]) -> None:
    """Draw a bar per method: accuracy after the last step, its 95 % interval, and the 10th percentile device."""
    methods = [name for name in styles if (name, "final_accuracy_mean") in table.index]
    for at, method in enumerate(methods):
        style, mean = styles[method], table.loc[(method, "final_accuracy_mean")]
        p10 = table.loc[(method, "final_accuracy_p10"), "value"]
        axes.barh(
            at, mean["value"], height=0.68, facecolor="white" if style.hatch else style.color,
            edgecolor=style.color, hatch=style.hatch, linewidth=1.2, label=method,
        )  # fmt: skip
        if mean["ci95"] > 0:
            axes.errorbar(
                mean["value"], at, xerr=_whiskers(mean), color="#222222", capsize=3, linewidth=1.2, label="_ci95"
            )
        axes.plot(p10, at, "D", color="white", markeredgecolor="#222222", markersize=5, label="_p10")
        reach = min(mean["value"] + np.nan_to_num(mean["ci95"]), 1.0)
        axes.annotate(
            f"{100 * mean['value']:.1f}", (reach, at), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(methods)), map(in_words, methods), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.arange(0, 1.01, 0.25))
    axes.xaxis.set_major_formatter(percent)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    spread = "whiskers: 95 % t-interval" if (table["seeds"] > 1).any() else "mean"
    axes.set_xlabel(f"accuracy, {spread}; ◇ 10th percentile")


def _whiskers(mean: pd.Series) -> np.ndarray:
    """Return the lengths below and above an accuracy (2, 1), cut off at 0 and 1: few seeds have wide intervals."""
    half = np.nan_to_num(mean["ci95"])
    return np.array([[min(half, mean["value"])], [min(half, 1.0 - mean["value"])]])


def _against_traffic(axes: Axes, table: pd.DataFrame, styles: Mapping[str, LineStyle]) -> None:
    """Draw a point per method: accuracy against megabytes per device and round."""
    points = {}
    for method in styles:
        if (method, "accuracy_mean") in table.index:
            known = (method, "mb_per_device_round") in table.index
            traffic = float(table.loc[(method, "mb_per_device_round"), "value"]) if known else 0.0
            points[method] = (traffic, table.loc[(method, "accuracy_mean")])
    sent = [traffic for traffic, _ in points.values() if traffic > 0]
    least, most = min(sent, default=1.0), max(sent, default=1.0)
    zero = least / 4  # place of zero on the logarithmic axis
    for method, (traffic, mean) in points.items():
        style = styles[method]
        axes.errorbar(
            traffic or zero, mean["value"], yerr=_whiskers(mean), fmt="o", color=style.color, markersize=8,
            markerfacecolor="white" if style.hollow else style.color, markeredgewidth=1.6, linewidth=1.2, label=method,
        )  # fmt: skip
    axes.set_xscale("log")
    low, high = least / 1.8, most * 1.8
    subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    ticks = {x: f"{x:g}" for x in LogLocator(subs=subs).tick_values(low, high) if low <= x <= high}
    if any(traffic == 0 for traffic, _ in points.values()):
        low = zero / 1.8
        ticks[zero] = "none"
        axes.axvspan(low, zero * 1.8, color="#f2f2f2", zorder=0)
    axes.set_xlim(low, high)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlabel("MB per device and round")
    axes.set_ylabel("accuracy, mean over steps")
