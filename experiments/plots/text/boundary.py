"""Score against the payload bytes of a text: codes, activations at the same cut, and the text itself."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.plots.panels import error_bars, grid
from experiments.plots.style import percent, styled

COLORS = {
    "codes": "#d55e00",
    "late": "#cc79a7",
    "late-taught": "#882255",
    "late-plain": "#e69f00",
    "float32": "#0072b2",
    "float16": "#56b4e9",
    "int8": "#009e73",
    "tokens": "#222222",
    "text": "#7f7f7f",
}
MARKERS = "osD^v<>pPX*h"  # for settings that share a panel


def boundary(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw mean and range over seeds, a panel per setting and a point per payload.

    A line joins codes that were added after training. Settings trained with codes share the last panel. If there are no
    other settings, its x-axis is the entropy of the codes, because most of these settings send the same number of bits.
    """
    kinds = rows.groupby("setting", sort=False)["boundary"].agg(set)
    whole = [setting for setting, payloads in kinds.items() if payloads != {"codes"}]
    coded = [setting for setting in kinds.index if setting not in whole]
    with styled():
        figure, panels = grid([*whole, *(["trained with codes"] if coded else [])], {}, 3, (4.2, 3.4))
        for axes, setting in zip(panels, whole, strict=False):
            for kind, points in rows[rows["setting"] == setting].groupby("boundary", sort=False):
                line = "-" if str(kind).startswith("late") else ""
                _points(axes, points, "up", "o" + line, COLORS[str(kind)])
        x = "up" if whole else "entropy"
        for setting, marker in zip(coded, MARKERS * len(coded), strict=False):
            _points(panels[-1], rows[rows["setting"] == setting], x, marker, COLORS["codes"], setting)
        for axes in panels:
            axes.set_xscale("log" if whole else "linear")
            axes.set_xlabel("bytes per text, up" if whole else "bytes per text, up, at the codes' entropy")
            axes.set_ylabel("score")
            axes.yaxis.set_major_formatter(percent)
        if coded:
            legend = panels[-1].legend(fontsize=7)
            if not whole:  # beside the panel: there can be many settings
                legend.set_loc("upper left")
                legend.set_bbox_to_anchor((1.02, 1), panels[-1].transAxes)
        shown = [kind for kind in COLORS if whole and (rows["boundary"] == kind).any()]
        handles = [Line2D([], [], color=COLORS[kind], marker="o", linestyle="", label=kind) for kind in shown]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * len(panels)))
    return figure


def _points(axes: Axes, rows: pd.DataFrame, x: str, form: str, color: str, label: str | None = None) -> None:
    groups = rows.groupby(["codes", "groups"], sort=False)
    points = groups["score"].agg(["mean", "min", "max"]).assign(x=groups[x].mean()).sort_values("x")
    axes.errorbar(
        points["x"], points["mean"], error_bars(points), fmt=form, color=color, elinewidth=0.8, linewidth=0.8,
        label=label,
    )  # fmt: skip
