"""Figs. 1 and 10: accuracy at the end of every adaptation step, a panel per setting."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.analysis.summary import complete
from experiments.plots.panels import grid
from experiments.plots.style import line_styles, percent, styled

MANY = 30  # from this number of steps on, single steps have no marker


def steps(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a line per method: mean over seeds, with a band of one standard deviation over seeds."""
    scored = complete(rounds)
    scored = scored[scored["evaluated"] > 0].sort_values("round")
    ends = scored.groupby(["setting", "method", "seed", "step"], sort=False).tail(1)
    styles = line_styles(dict.fromkeys(rounds["method"]))
    settings = list(dict.fromkeys(rounds["setting"]))
    with styled():
        figure, panels = grid(settings, styles, 2, (5.6, 3.4))
        for axes, setting in zip(panels, settings, strict=True):
            of_setting = ends[ends["setting"] == setting]
            for method, style in styles.items():
                over_seeds = of_setting[of_setting["method"] == method].groupby("step")["accuracy_mean"]
                mean, std = over_seeds.mean(), over_seeds.std().fillna(0.0)
                axes.plot(
                    mean.index, mean, style.line, color=style.color, label=method, markersize=4,
                    marker="o" if len(mean) < MANY else "", markerfacecolor="white" if style.hollow else style.color,
                )  # fmt: skip
                if (std > 0).any():
                    axes.fill_between(mean.index, mean - std, mean + std, color=style.color, alpha=0.13, linewidth=0)
            axes.set_xlabel("adaptation step")
            axes.set_ylabel("accuracy on own data")
            axes.yaxis.set_major_formatter(percent)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
