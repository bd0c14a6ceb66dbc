"""What figures with a panel for each setting share: a grid of axes, a legend above it, bars of one metric."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from experiments.plots.style import Look, key

LEGEND_IN, ENTRY_IN, LETTER_IN = 0.3, 0.6, 0.075  # height of a row; width of an entry, and of a letter of its name


def grid(
    names: Sequence[str], looks: Mapping[str, Look], columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel of ``size`` (inches) for each name, and a legend if there are looks.

    To be called, and drawn on, within `styled`.
    """
    columns = max(1, min(columns, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    width = max(5.0, columns * size[0])
    per_row = max(1, int(width / (ENTRY_IN + LETTER_IN * max(map(len, looks), default=0))))
    legend_rows = math.ceil(len(looks) / per_row)
    legend = LEGEND_IN * legend_rows
    height = rows * size[1] + legend
    room = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, rect=(0, 0, 1, 1 - legend / height))
    figure = Figure(figsize=(width, height), layout=room)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[len(names) :]:
        spare.remove()
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(name)
    if looks:
        handles = [key(name, look) for name, look in looks.items()]
        figure.legend(
            handles=handles, loc="upper center", ncols=math.ceil(len(handles) / legend_rows), handlelength=2.4,
            columnspacing=1.2,
        )  # fmt: skip
    return figure, panels[: len(names)]


def table(summary: pd.DataFrame, setting: str, metric: str) -> pd.DataFrame:
    """The lines of one setting and metric, by method; ``runs``: how many seeds the method was run with."""
    here = summary[summary["setting"] == setting]
    lines = here[here["metric"] == metric].set_index("method")
    return lines.assign(runs=here.groupby("method")["seeds"].max().reindex(lines.index))


def bars(
    axes: Axes,
    lines: pd.DataFrame,
    looks: Mapping[str, Look],
    form: str,
    scale: float = 1.0,
    label: str = "",
    absent: str = "",
    top: float = math.inf,
) -> None:
    """A horizontal bar for each method of ``looks`` with its value, its interval over seeds and, as ◆, the paper's.

    Args:
        lines: of `table`; form: of the number beside a bar, e.g. '{:.1f}'; scale: factor of the values; label: of x.
        absent: what stands in the place of a method without a line; empty: it gets no place.
        top: the largest value there can be; ticks beyond it have no number.
    """
    methods = [name for name in looks if absent or name in lines.index]
    most = 0.0
    for at, method in enumerate(methods):
        if method not in lines.index:
            axes.annotate(absent, (0, at), (5, 0), textcoords="offset points", va="center", fontsize=8, color="#888888")
            continue
        look, line = looks[method], lines.loc[method]
        value, half = scale * line["value"], scale * np.nan_to_num(line["ci95"])
        half = min(half, value)  # the interval of two seeds can be far wider than the axis
        axes.barh(
            at, value, height=0.7, facecolor="white" if look.hatch else look.color, edgecolor=look.color,
            hatch=look.hatch, linewidth=1.1, label=method,
        )  # fmt: skip
        if half > 0:
            axes.errorbar(value, at, xerr=half, color="#222222", capsize=2.5, linewidth=1.0, label="_ci95")
        reach, text = [value + half], form.format(value)
        if not math.isnan(line["paper_value"]):
            told = scale * line["paper_value"]
            axes.plot(told, at, "D", color="#222222", markersize=4.5, label="_paper")
            reach.append(told)
            text += f" (◆ {form.format(told)})"
        if line["seeds"] < line["runs"]:
            text += f" ({line['seeds']:g} of {line['runs']:g} seeds)"
        most = max(most, *reach)
        axes.annotate(text, (max(reach), at), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    axes.set_ylim(max(1, len(methods)) - 0.4, -0.6)  # from the top; also where nothing has a bar
    compared = lines["paper_value"].notna().any()
    axes.set_xlim(0, (1.5 if compared else 1.22) * (most or 1.0))  # room for the numbers
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x <= top else "")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(f"{label}; ◆ paper" if compared else label)
