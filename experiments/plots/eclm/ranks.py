"""Mean ranks of methods over settings, and which of them can be told from the best."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis.paired import of_runs
from experiments.analysis.significance import LEVEL, critical_difference, friedman, ranks
from experiments.catalog import EXPERIMENTS, OTHER
from experiments.plots.style import GREY, line_styles, styled


def ranks_figure(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the rank of each method in each setting (grey) and its mean (colour), the best on top.

    Methods whose mean is in the band cannot be told from the best one (Nemenyi's test).
    """
    experiment = EXPERIMENTS.get(str(rounds["experiment"].iloc[0]), OTHER)
    chosen = rounds[rounds["method"].isin(experiment.tested)] if experiment.tested else rounds
    of_settings = ranks(of_runs(chosen))
    methods, settings = of_settings.shape
    means = of_settings.mean(axis=1).sort_values(kind="stable")
    styles = line_styles(means.index)
    with styled():
        figure = Figure(figsize=(7.2, 1.4 + 0.27 * methods), layout="constrained")
        axes = figure.subplots()
        if methods > 1 and settings > 1:
            best, width = float(means.iloc[0]), critical_difference(methods, settings)
            axes.axvspan(best, min(best + width, methods), color="#f0e8d8", lw=0, zorder=0)
            axes.set_title(
                f"{settings} settings; band: not told from the best at {LEVEL:.0%} (critical difference {width:.1f}); "
                f"Friedman p = {friedman(of_settings):.1g}",
                fontsize=9,
                fontweight="normal",
            )
        for y, (method, mean) in enumerate(means.items()):
            own, style = np.sort(of_settings.loc[method]), styles[str(method)]
            axes.plot(own, np.full(len(own), y), "|", color="#aaaaaa", markersize=8, zorder=1)
            face = "white" if style.hollow else style.color
            axes.plot(mean, y, "o", color=style.color, markerfacecolor=face, markersize=7, zorder=2)
            axes.annotate(f"{mean:.1f}", (mean, y), (7, 4), textcoords="offset points", fontsize=8, color=GREY)
        axes.set_yticks(range(methods), [str(method) for method in means.index])
        axes.set_ylim(methods - 0.4, -0.6)
        axes.set_xlim(0.5, methods + 0.9)
        axes.set_xlabel("rank by accuracy, 1 is best (line: in a setting; dot: mean)")
    return figure
