"""SPA: what each mode costs and gives, and quality against how often the device is asked."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import styled

MODES = ("#7f7f7f", "#e69f00", "#cc79a7", "#000000", "#d55e00", "#882255", "#56b4e9")
FITS = {
    "two-stage": ("#d55e00", "o"),
    "mixture": ("#0072b2", "s"),
    "expectation": ("#009e73", "^"),
    "straight-through": ("#cc79a7", "v"),
    "oracle": ("#000000", "x"),
}


def spa_modes(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Token accuracy against M, and against the network time of 50 tokens over 4G; a point per seed."""
    panels = (("M", "share of tokens asked about"), ("mobile_s", "network for 50 tokens on 4G, s"))
    with styled():
        figure, drawn = grid([label for _, label in panels], {}, len(panels), (4.4, 3.6))
        means = rows.groupby(["variant", "seed"], sort=False)[["M", "mobile_s", "token_accuracy"]].mean().reset_index()
        for axes, (x, label) in zip(drawn, panels, strict=True):
            for color, (variant, of) in zip(MODES, means.groupby("variant", sort=False), strict=False):
                axes.plot(of[x], of["token_accuracy"], "o", color=color, label=variant)
            axes.set_xlim(left=0)
            axes.set_xlabel(label)
            axes.set_ylabel("token accuracy")
        drawn[0].legend(fontsize=7)
    return figure


def spa_gate(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """The threshold's curve, mean over devices and seeds, and the points of every fit's prices."""
    names = list(dict.fromkeys(rows["setting"]))
    with styled():
        figure, drawn = grid(names, {}, len(names), (5.0, 3.8))
        for axes, setting in zip(drawn, names, strict=True):
            of = rows[rows["setting"] == setting]
            line = of[of["by"] == "threshold"]
            number = line.groupby(["seed", "device"]).cumcount()
            curve = line.groupby(number)[["M", "token_accuracy"]].mean()
            axes.plot(curve["M"], curve["token_accuracy"], color="#d55e00", label="two-stage, by threshold")
            for fit, (color, marker) in FITS.items():
                points = of[of["by"] == fit].groupby("at")[["M", "token_accuracy"]].mean()
                axes.plot(points["M"], points["token_accuracy"], marker, color=color, label=f"{fit}, by price")
            axes.axvline(0.62, color="#999999", linewidth=1, linestyle=":", label="the paper's M")
            axes.set_xlim(0, 1)
            axes.set_xlabel("M, share of tokens asked about")
            axes.set_ylabel("token accuracy")
        drawn[0].legend(fontsize=7)
    return figure
