"""Accuracy against the bytes of a text on the wire: codes, activations at the same cut, and the text itself."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import grid
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
MARKERS = {1: "o", 2: "s", 4: "^"}


def boundary(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """A point per way to use a trained model, mean and range over seeds; its shape tells how many tokens are pooled.

    Codes that came after training are joined by a line.
    """
    with styled():
        figure, (axes,) = grid(["score against uplink"], {}, 1, (7.2, 4.4))
        for (kind, pool), own in rows.groupby(["boundary", "pool"], sort=False):
            keys = ["setting", "codes", "groups"]
            of = own.groupby(keys, sort=False)[["up", "score"]].agg(["mean", "min", "max"]).sort_values(("up", "mean"))
            mean = of["score", "mean"]
            spread = [mean - of["score", "min"], of["score", "max"] - mean]
            line = "-" if kind.startswith("late") else ""
            axes.errorbar(
                of["up", "mean"], mean, spread, fmt=MARKERS[pool] + line, color=COLORS[kind], elinewidth=0.8,
                linewidth=0.8, label=f"{kind}, p = {pool}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("bytes of a text, up")
        axes.set_ylabel("score")
        axes.yaxis.set_major_formatter(percent)
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure
