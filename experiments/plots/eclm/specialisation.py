"""How far the modular cloud model specialises: a panel per measure, a group of bars per setting."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.plots.panels import WHISKERS, grid, half_intervals
from experiments.plots.style import GREY, percent, styled

PANELS = (  # measures, title, whether they are shares
    (("effective_modules",), "modules per sample", False),
    (("overlap",), "overlap of classes", True),
    (("held",), "modules held in a layer", False),
    (("mass",), "importance held", True),
    (("random", "derived"), "accuracy as delivered", True),
)
COLORS = {"end-to-end": "#0072b2", "ability": "#d55e00"}
WORDS = {"end-to-end": "trained end to end", "ability": "with ability enhancing"}
NOTE = f"Accuracy: hollow, modules drawn at random; full, as many derived for the client. {WHISKERS}"


def specialisation(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the means over layers, clients and seeds."""
    settings = list(dict.fromkeys(summary["setting"]))
    lines = summary.set_index(["setting", "method", "metric"])
    with styled():
        figure, panels = grid([title for _, title, _ in PANELS], {}, 3, (4.0, 2.9), NOTE)
        for axes, (measures, _, share) in zip(panels, PANELS, strict=True):
            bars = [(training, measure) for training in COLORS for measure in measures]
            width = 0.8 / len(bars)
            for at, (training, measure) in enumerate(bars):
                of = lines.loc[[(setting, training, measure) for setting in settings]]
                middle = [x + (at - (len(bars) - 1) / 2) * width for x in range(len(settings))]
                face = "white" if measure == "random" else COLORS[training]
                axes.bar(
                    middle, of["value"], width, color=face, edgecolor=COLORS[training],
                    yerr=half_intervals(of["value"], of["ci95"]), capsize=2.5, error_kw={"linewidth": 1.0},
                )  # fmt: skip
            axes.set_xticks(range(len(settings)), settings, fontsize=8)
            axes.grid(False, axis="x")
            axes.set_ylim(bottom=0)
            if share:
                axes.set_ylim(0, 1)
                axes.yaxis.set_major_formatter(percent)
        handles = [Patch(color=COLORS[training], label=WORDS[training]) for training in COLORS]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), labelcolor=GREY)
    return figure
