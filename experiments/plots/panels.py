"""Parts that figures share: a grid of panels with a legend, bars of one metric, and error bars."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from experiments.analysis.metrics import Metric
from experiments.plots.style import GREY, LineStyle, in_words, legend_entry

WHISKERS = "Whiskers: 95 % t-interval of the mean over seeds."
LEGEND_IN, ENTRY_IN, LETTER_IN = 0.3, 0.6, 0.075  # inches: height of a legend row, width of an entry and of a letter


def grid(
    names: Sequence[str], styles: Mapping[str, LineStyle], columns: int, size: tuple[float, float], note: str = ""
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one titled panel of ``size`` (inches) for each name, and a legend if there are styles.

    Call it, and draw on the panels, within `styled`. The note stands below all panels.
    """
    columns = max(1, min(columns, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    width = max(5.0, columns * size[0])
    per_row = max(1, int(width / (ENTRY_IN + LETTER_IN * max(map(len, map(in_words, styles)), default=0))))
    legend_rows = math.ceil(len(styles) / per_row)
    legend = LEGEND_IN * legend_rows
    height = rows * size[1] + legend
    room = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, rect=(0, 0, 1, 1 - legend / height))
    figure = Figure(figsize=(width, height), layout=room)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[len(names) :]:
        spare.remove()
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(name)
    if styles:
        handles = [legend_entry(in_words(name), style) for name, style in styles.items()]
        figure.legend(
            handles=handles, loc="upper center", ncols=math.ceil(len(handles) / legend_rows), handlelength=2.4,
            columnspacing=1.2,
        )  # fmt: skip
    if note:
        figure.supxlabel(note, fontsize=9, color=GREY)
    return figure, panels[: len(names)]


def table(summary: pd.DataFrame, setting: str, metric: str) -> pd.DataFrame:
    """Return the lines of one setting and metric by method, with ``runs``, the number of seeds of the method."""
    of_setting = summary[summary["setting"] == setting]
    lines = of_setting[of_setting["metric"] == metric].set_index("method")
    return lines.assign(runs=of_setting.groupby("method")["seeds"].max().reindex(lines.index))


def error_bars(points: pd.DataFrame) -> np.ndarray:
    """Return the lengths below and above ``mean`` that reach to ``min`` and ``max``, (2, N), never below 0.

    Matplotlib refuses negative lengths, and the rounded mean of equal values can be below their minimum.
    """
    return np.maximum([points["mean"] - points["min"], points["max"] - points["mean"]], 0.0)


def half_intervals(values: pd.Series, ci95: pd.Series) -> pd.Series:
    """Return half the width of the intervals, 0 without one, cut off where the bar would reach below 0.

    The interval of two seeds can be far wider than the axis.
    """
    return np.minimum(ci95.fillna(0.0), values).clip(lower=0.0)


def bars(axes: Axes, lines: pd.DataFrame, styles: Mapping[str, LineStyle], metric: Metric, missing: str = "") -> None:
    """Draw a horizontal bar per method, with its interval over seeds, its value, and the paper's value as ◆.

    Args:
        lines: result of `table`; values in the unit of ``summary.csv``.
        missing: text for a method without a line; empty: the method is left out.
    """
    form = ".3g" if metric.digits is None else f".{metric.digits}f"

    def number(value: float) -> str:
        return format(metric.scale * value, form)

    methods = [name for name in styles if missing or name in lines.index]
    halves = half_intervals(lines["value"], lines["ci95"])
    most = 0.0
    for at, method in enumerate(methods):
        if method not in lines.index:
            axes.annotate(
                missing, (0, at), (5, 0), textcoords="offset points", va="center", fontsize=8, color="#888888"
            )
            continue
        style, line = styles[method], lines.loc[method]
        value, half = metric.scale * line["value"], metric.scale * halves[method]
        axes.barh(
            at, value, height=0.7, facecolor="white" if style.hatch else style.color, edgecolor=style.color,
            hatch=style.hatch, linewidth=1.1, label=method,
        )  # fmt: skip
        if half > 0:
            axes.errorbar(value, at, xerr=half, color="#222222", capsize=2.5, linewidth=1.0, label="_ci95")
        right, text = value + half, number(line["value"])
        if not math.isnan(line["paper_value"]):
            paper = metric.scale * line["paper_value"]
            axes.plot(paper, at, "D", color="#222222", markersize=4.5, label="_paper")
            right = max(right, paper)
            text += f" (◆ {number(line['paper_value'])})"
        if line["seeds"] < line["runs"]:
            text += f" ({line['seeds']:g} of {line['runs']:g} seeds)"
        most = max(most, right)
        axes.annotate(text, (right, at), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(methods)), map(in_words, methods), fontsize=8)
    axes.set_ylim(max(1, len(methods)) - 0.4, -0.6)  # the first method on top; set also if there is no bar
    compared = lines["paper_value"].notna().any()
    axes.set_xlim(0, (1.5 if compared else 1.22) * (most or 1.0))  # room for the text behind the bars
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    top = 100 if metric.label.endswith("%") else math.inf  # no tick labels beyond 100 %
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x <= top else "")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(f"{metric.label}; ◆ paper" if compared else metric.label)
